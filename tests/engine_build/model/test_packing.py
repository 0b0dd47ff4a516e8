"""What `pack` concatenates, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine_build.model.packing import Reference, Sequence, grid_ids, pack, text_ids_of


def sequence(
    text: int = 3, tokens: int = 4, references: tuple[int, ...] = (), sigma: float | Tensor = 0.5
) -> Sequence:
    images = tuple(
        Reference(torch.rand(n, 8), grid_ids(1, n, 10 * (i + 1))) for i, n in enumerate(references)
    )
    return Sequence(torch.rand(text, 6), torch.rand(tokens, 8), grid_ids(1, tokens), sigma, images)


def test_pack_keeps_order_and_lengths() -> None:
    a, b = sequence(3, 4, (2, 5), 0.25), sequence(1, 6, (), torch.tensor(1.0))
    batch = pack([a, b])
    assert len(batch) == 2
    assert batch.tokens == 3 + 4 + 7 + 1 + 6
    assert torch.equal(batch.text, torch.cat([a.text, b.text]))
    assert torch.equal(batch.target, torch.cat([a.target, b.target]))
    assert torch.equal(batch.references, torch.cat([r.tokens for r in a.references]))
    assert batch.reference_ids[:, 0].tolist() == [10] * 2 + [20] * 5
    assert batch.text_ids[:, 3].tolist() == [0, 1, 2, 0]
    assert batch.text_segments.lengths == (3, 1)
    assert batch.target_segments.lengths == (4, 6)
    assert batch.reference_segments.lengths == (2, 5)
    assert batch.reference_counts == (2, 0)
    assert batch.group_segments.lengths == (7, 0)
    assert batch.sigma.tolist() == [0.25, 1.0]
    assert batch.sigma.dtype == torch.float32
    assert batch.guidance is None


def test_draws_take_the_first_ones_references() -> None:
    owner = sequence(references=(2,))
    batch = pack([owner, replace(owner, references=()), sequence(), sequence()], draws=2)
    assert batch.reference_counts == (1, 0)
    assert batch.draws == 2


def test_the_next_step_keeps_everything_else() -> None:
    batch = pack([sequence(references=(2,))])
    target, sigma = torch.rand(4, 8), torch.tensor([0.1])
    later = batch.at(target, sigma)
    assert later.target is target
    assert later.sigma is sigma
    assert later.references is batch.references
    assert later.target_segments is batch.target_segments


def test_pack_refuses_what_does_not_fit() -> None:
    good = sequence(references=(2,))
    with pytest.raises(ValueError, match="no sequences"):
        pack([])
    with pytest.raises(ValueError, match="3 sequences cannot be split into groups of 2"):
        pack([good] * 3, draws=2)
    with pytest.raises(ValueError, match="sequence 1 shares references with sequence 0"):
        pack([good, sequence(references=(2,))], draws=2)
    with pytest.raises(ValueError, match="guidance must be given for all"):
        pack([good, replace(good, guidance=3.0)])
    with pytest.raises(ValueError, match=r"sequence 0: target_ids must be \(4, 4\)"):
        pack([replace(good, target_ids=grid_ids(1, 3))])
    with pytest.raises(ValueError, match=r"sequence 0: text_ids must be \(3, 4\)"):
        pack([replace(good, text_ids=text_ids_of(torch.empty(2, 1)))])
    with pytest.raises(ValueError, match=r"ids of reference 0 must be \(2, 4\)"):
        pack([replace(good, references=(replace(good.references[0], ids=grid_ids(1, 5)),))])


def test_grids_count_rows_then_columns() -> None:
    assert grid_ids(2, 3, t=10).tolist() == [
        [10, 0, 0, 0],
        [10, 0, 1, 0],
        [10, 0, 2, 0],
        [10, 1, 0, 0],
        [10, 1, 1, 0],
        [10, 1, 2, 0],
    ]
