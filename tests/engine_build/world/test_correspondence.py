"""Where each pixel of a target comes from: warped references show the target's colours, and nothing is made up."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine_build.world.correspondence import NOWHERE, PHOTO
from engine_build.world.render import Rendered, render
from engine_build.world.scenes import HELD_OUT_SEED, sample_scene
from engine_build.world.specs import CATEGORIES, REGION_OF, SKIN

SCENES = [sample_scene(HELD_OUT_SEED + 5_000 + i, 1 + i % 6) for i in range(36)]


def drawn() -> Rendered:
    return render(SCENES, 192, 160, traced=True)


def warped(batch: Rendered) -> Tensor:
    """(B, 3, H, W): every known pixel taken from where it is said to come from, the others 0."""
    assert batch.sources is not None and batch.places is not None
    out = torch.zeros_like(batch.target)
    for b in range(len(SCENES)):
        for source in range(int(batch.counts[b]) + 1):
            picture = batch.person[b] if source == PHOTO else batch.garments[b, source - 1]
            taken = F.grid_sample(picture[None], batch.places[b][None] * 2 - 1, align_corners=False)[0]
            here = batch.sources[b] == source
            out[b][:, here] = taken[:, here]
    return out


def test_warped_references_have_the_target_s_colours() -> None:
    batch = drawn()
    assert batch.sources is not None
    error = (warped(batch) - batch.target).abs().mean(1)
    assert float(error[batch.sources == PHOTO].max()) < 2 / 255
    from_shots = error[batch.sources > PHOTO]
    # Folds, light and the edges of patterns differ between a body and a mannequin; another colour would be 0.3 away.
    assert float(from_shots.mean()) < 0.045
    assert float((from_shots < 0.1).float().mean()) > 0.9


def test_what_no_reference_shows_comes_from_nowhere() -> None:
    batch = drawn()
    assert batch.sources is not None
    changed = (batch.person - batch.target).abs().amax(1) > 4 / 255
    bared = (batch.target_regions == SKIN) & changed & (batch.person_regions > SKIN)
    assert int(bared.sum()) > 500
    assert float((batch.sources[bared] == NOWHERE).float().mean()) > 0.95
    assert not bool(((batch.sources == PHOTO) & changed).any())


def test_each_garment_is_traced_to_its_own_shot() -> None:
    batch = drawn()
    assert batch.sources is not None and batch.places is not None
    for category in CATEGORIES:
        traced = shown = 0
        for b, scene in enumerate(SCENES):
            slots = [slot for slot, garment in enumerate(scene.garments) if garment.category == category]
            if slots:
                region = batch.target_regions[b] == REGION_OF[category]
                shown += int(region.sum())
                traced += int((region & (batch.sources[b] == slots[0] + 1)).sum())
        assert traced > 0.7 * shown, category
    known = batch.places[batch.sources > PHOTO]
    assert float(known.min()) >= 0 and float(known.max()) < 1


def test_tracing_changes_no_picture_and_is_left_out_unasked() -> None:
    plain, traced = render(SCENES[:6], 96), render(SCENES[:6], 96, traced=True)
    assert plain.sources is None and plain.places is None
    assert torch.equal(plain.target, traced.target) and torch.equal(plain.garments, traced.garments)


def test_a_scene_s_trace_does_not_depend_on_its_batch() -> None:
    whole, alone = render(SCENES[:4], 96, traced=True), render(SCENES[2:3], 96, traced=True)
    assert whole.sources is not None and alone.sources is not None
    assert torch.equal(whole.sources[2], alone.sources[0])
