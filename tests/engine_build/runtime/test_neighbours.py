"""A request beside others and alone, in every number format, on nano; with compiled kernels where there is a GPU.

Attention, norms and quantisation work on one request's rows alone, bit by bit the same in any company (a test compares
attention's bits). Matrix products do not: libraries choose tiles and the order of summation by the number of rows and
by the processor, so a forward of another size rounds otherwise. How far is a property of the machine, and so is the
error that it is measured by here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lora_files import four

from engine_build.bench.precision import relative_l2
from engine_build.model.adapter_bank import AdapterBank
from engine_build.model.lora import LoraSet, read_lora
from engine_build.model.packing import Reference, Sequence, grid_ids, pack
from engine_build.model.weights import NANO, load_model
from engine_build.runtime.loading import pick_dtype
from kernels import fp8, select

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KERNELS = "triton" if DEVICE.type == "cuda" else "torch"
TIMES = 2.0
"""How much of its own rounding error a request may change by: two errors of one size that have nothing in common
differ by sqrt(2) of it. What leaks from a neighbour is no rounding, and in float32 has 1e-6 to hide in."""


def request(seed: int, text: int, *grids: tuple[int, int]) -> Sequence:
    """The first grid is the target's, the others are references'."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE)

    (rows, columns), *others = grids
    shown = tuple(
        Reference(draw(h * w, 64), grid_ids(h, w, 10 * (i + 1)).to(DEVICE)) for i, (h, w) in enumerate(others)
    )
    ids = grid_ids(rows, columns).to(DEVICE)
    return Sequence(draw(text, 192), draw(rows * columns, 64), ids, 0.9 - 0.2 * seed, shown)


MIXED = [
    request(0, 21, (12, 9), (12, 9), (8, 8)),
    request(1, 40, (6, 7), (6, 7), (8, 8), (8, 8), (8, 8)),
    request(2, 9, (16, 16), (16, 16), (8, 8)),
    request(3, 33, (12, 9), (12, 9), (8, 8)),
]


def exactly(asked: Sequence) -> Sequence:
    """The same request in float64."""
    shown = tuple(Reference(each.tokens.double(), each.ids) for each in asked.references)
    return replace(asked, text=asked.text.double(), target=asked.target.double(), references=shown)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "fp8"])
def test_neighbours_change_a_result_by_no_more_than_rounding_does(dtype: str) -> None:
    exact = load_model(NANO, device=DEVICE, dtype=torch.float64)
    model = load_model(NANO, device=DEVICE, dtype=pick_dtype(dtype, DEVICE), kernels=select(KERNELS))
    if dtype == "fp8":
        fp8.convert(model)
    with torch.inference_mode():
        together = model(pack(MIXED)).split([len(asked.target) for asked in MIXED])
        backwards = model(pack(MIXED[::-1])).split([len(asked.target) for asked in MIXED[::-1]])[::-1]
        for asked, beside, otherwise in zip(MIXED, together, backwards, strict=True):
            alone = model(pack([asked]))
            assert alone.abs().mean() > 0.1
            rounding = relative_l2(alone, exact(pack([exactly(asked)])))
            assert relative_l2(beside, alone) <= TIMES * rounding
            assert relative_l2(otherwise, alone) <= TIMES * rounding


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "fp8"])
def test_neighbours_with_other_adapters_change_a_result_by_no_more_than_rounding_does(
    dtype: str, tmp_path: Path
) -> None:
    """Measured against the same LoRA baked into weights of float64."""
    model = load_model(NANO, device=DEVICE, dtype=pick_dtype(dtype, DEVICE), kernels=select(KERNELS))
    if dtype == "fp8":
        fp8.convert(model)
    bank = AdapterBank(model, 1 << 26)
    paths = four(tmp_path, model)
    scales = (0.3, 3.0, 1.0, 0.5)  # so that each changes more than rounding does
    mixtures = [((bank.read(path), scale),) for path, scale in zip(paths, scales, strict=True)]
    held = bank.hold(mixtures, [Counter() for _ in mixtures])
    asked = [replace(plain, adapters=pairs) for plain, pairs in zip(MIXED, held, strict=True)]
    with torch.inference_mode():
        together = model(pack(asked)).split([len(each.target) for each in asked])
        backwards = model(pack(asked[::-1])).split([len(each.target) for each in asked[::-1]])[::-1]
        for mine, path, scale, beside, otherwise in zip(asked, paths, scales, together, backwards, strict=True):
            exact = load_model(NANO, device=DEVICE, dtype=torch.float64)
            changes = LoraSet(exact)
            changes.add("own", read_lora(path), scale)
            changes.bake()
            alone = model(pack([mine]))
            truth = exact(pack([replace(exactly(mine), adapters=())]))
            rounding = relative_l2(alone, truth)
            assert relative_l2(beside, alone) <= TIMES * rounding
            assert relative_l2(otherwise, alone) <= TIMES * rounding
            assert 1.5 * rounding < relative_l2(model(pack([replace(mine, adapters=())])), truth)
