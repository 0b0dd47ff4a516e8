"""The edit support: the complaints about masks in public trackers, each a test; one function whatever the size."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from support_figures import alike, overlap, standing

from engine_build.support.domains import DOMAINS, OF_CATEGORY, domain_of
from engine_build.support.edit_support import GRID, VERSION, Options, check_digest, digest, edit_support
from engine_build.support.errors import SupportError
from engine_build.support.regions import GARMENTS, LABEL, RegionMap

SIZE = (288, 384)
BODY = ("top", "bottom", "dress", "coat")


def support(regions: RegionMap, domain: str, shape: str = "tight", **options: float) -> np.ndarray:
    return edit_support(regions, DOMAINS[domain], Options(shape, **options), size=SIZE)  # type: ignore[arg-type]


def test_the_seven_published_domains_and_three_of_ours_dress_every_category() -> None:
    assert set(DOMAINS) == {"eye", "shoes", "face", "top", "bottom", "dress", "bg", "hat", "bag", "coat"}
    assert set(GARMENTS) <= set(OF_CATEGORY)
    with pytest.raises(SupportError, match="choose from") as caught:
        domain_of("socks")
    assert caught.value.code == "unknown-domain"


@pytest.mark.parametrize("domain", list(DOMAINS))
@pytest.mark.parametrize("shape", ["tight", "box"])
def test_what_a_domain_keeps_is_never_touched_in_either_shape(domain: str, shape: str) -> None:
    regions = standing(lower="skirts", sleeves="arms")
    found = support(regions, domain, shape)
    assert found.any()
    assert not (found & regions.mask(DOMAINS[domain].keeps)).any()


@pytest.mark.parametrize("domain", BODY)
def test_hands_hair_face_and_shoes_are_protected_from_clothes(domain: str) -> None:
    regions = standing(sleeves="arms", lower="skirts")
    assert not (support(regions, domain, "box") & regions.mask(("hands", "hair", "face", "eyes"))).any()
    if domain != "bottom":
        assert not (support(regions, domain) & regions.mask(("shoes",))).any()


@pytest.mark.parametrize("domain", ["top", "eye", "face", "hat"])
def test_bare_legs_are_protected_unless_the_domain_dresses_them(domain: str) -> None:
    regions = standing(lower="legs")
    legs = regions.mask(("legs",))
    assert not (support(regions, domain, "box") & legs).any()
    for dressing in ("bottom", "dress"):
        assert (support(regions, dressing) & legs).sum() > 0.95 * legs.sum()


def test_long_sleeves_leave_nothing_of_themselves_when_they_become_short() -> None:
    """Old silhouette leaks, first kind: the whole old garment can be repainted, bare arms can be sleeved."""
    long, short = standing(sleeves="tops"), standing(sleeves="arms")
    assert (support(long, "top") & long.mask(("tops",))).sum() == long.mask(("tops",)).sum()
    assert (support(short, "top") & short.mask(("arms",))).sum() == short.mask(("arms",)).sum()


def test_the_support_does_not_tell_long_sleeves_from_short_nor_a_narrow_garment_from_a_flared_one() -> None:
    """Old silhouette leaks, second kind: what the expert sees greyed must not draw the old garment."""
    assert overlap(support(standing(sleeves="tops"), "top"), support(standing(sleeves="arms"), "top")) > 0.95
    for domain in ("bottom", "dress"):
        narrow, flared, bare = (support(standing(lower=name), domain) for name in ("pants", "skirts", "legs"))
        assert overlap(narrow, flared) > 0.95 and overlap(bare, flared) > 0.95


def test_trousers_leave_room_for_a_flared_skirt_and_a_tucked_top_for_a_long_one() -> None:
    trousers, skirted = standing(lower="pants"), standing(lower="skirts")
    flare = skirted.mask(("skirts",)) & ~trousers.mask(("hands",))
    assert (support(trousers, "bottom") & flare).sum() > 0.99 * flare.sum()
    rows = np.arange(SIZE[1])[:, None] / SIZE[1]
    tucked = standing(hem=0.46)
    long_hem = tucked.mask(("pants",)) & (rows < 0.53)
    assert long_hem.any() and (support(tucked, "top") & long_hem).sum() > 0.95 * long_hem.sum()


def test_a_dress_over_top_and_bottom_gets_the_wider_support() -> None:
    regions = standing(lower="pants")
    top, bottom, dress = (support(regions, name) for name in ("top", "bottom", "dress"))
    arms = regions.mask(("arms",))
    assert not ((top | bottom) & ~dress & ~arms & ~regions.mask(("shoes",))).any()
    for name in ("tops", "pants"):
        assert (dress & regions.mask((name,))).sum() == regions.mask((name,)).sum()
    assert not (top & regions.mask(("pants",)))[300:].any()


def test_a_coat_stays_over_a_new_top_but_goes_where_nothing_shows_below_it() -> None:
    open_coat = standing(coat=True)
    assert not (support(open_coat, "top", "box") & open_coat.mask(("coats",))).any()
    closed = RegionMap(np.where(open_coat.labels == LABEL["tops"], LABEL["coats"], open_coat.labels).astype(np.uint8))
    with_coat = edit_support(closed, replace(DOMAINS["top"], keeps=()), size=SIZE)
    assert (with_coat & closed.mask(("coats",))).sum() > 0.9 * closed.mask(("coats",)).sum()


def test_the_eyes_band_is_the_same_with_and_without_glasses() -> None:
    bare = standing()
    worn = bare.labels.copy()
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    ring = (np.abs(y - 0.11 * SIZE[1]) < 6) & (np.abs(x - SIZE[0] / 2) < 18) & (bare.labels == LABEL["face"])
    worn[ring] = LABEL["eyewear"]
    assert alike(support(bare, "eye"), support(RegionMap(worn), "eye"), 3)
    assert (support(bare, "eye") & bare.mask(("eyes",))).sum() == bare.mask(("eyes",)).sum()


def test_a_bag_is_hung_on_either_side_or_where_the_old_one_hangs() -> None:
    bare = standing()
    both = support(bare, "bag")
    assert both[:, : SIZE[0] // 2].any() and both[:, SIZE[0] // 2 :].any()
    carried = bare.labels.copy()
    carried[180:230, 190:230] = LABEL["bags"]
    one = support(RegionMap(carried), "bag")
    assert one[:, SIZE[0] // 2 :].any() and not one[:, : SIZE[0] // 2].any()
    assert one[180:230, 190:230].all()


@pytest.mark.parametrize("domain", ["top", "dress", "coat", "bag", "hat", "eye", "face", "shoes"])
def test_specks_of_a_parsers_noise_open_no_support_elsewhere(domain: str) -> None:
    """Areas outside change, when a parser sees a few pixels of a top, or of a face, in a curtain."""
    clean, noisy = standing(), standing().labels.copy()
    for x, name in ((20, DOMAINS[domain].takes[0]), (260, DOMAINS[domain].takes[0]), (40, "face")):
        noisy[376:378, x : x + 2] = LABEL[name]
    assert alike(support(clean, domain), support(RegionMap(noisy), domain), 2.5)


def test_the_background_is_all_but_the_person() -> None:
    regions = standing()
    found, behind = support(regions, "bg"), regions.mask(("background",))
    assert not (found & ~behind).any() and found.sum() > 0.99 * behind.sum()


@pytest.mark.parametrize("domain", list(DOMAINS))
def test_a_rehearsal_of_192_rows_and_a_photo_of_24_megapixels_get_the_same_support(domain: str) -> None:
    """4,242 rows are 13.5 megapixels of 3:4; the rows of 24 megapixels are tried in test_composite."""
    small, large = standing(192, 144), standing(4242, 3181)
    a = edit_support(small, DOMAINS[domain], size=(144, 192))
    b = edit_support(large, DOMAINS[domain], size=(3181, 4242))
    rows = ((np.arange(192) + 0.5) * 4242 / 192).astype(int)
    columns = ((np.arange(144) + 0.5) * 3181 / 144).astype(int)
    assert alike(a, b[rows[:, None], columns], 2.5)


@pytest.mark.parametrize("size", [(288, 384), (577, 769), (35, 47), (3, 1000)])
def test_any_size_gets_a_mask_of_exactly_that_size(size: tuple[int, int]) -> None:
    found = edit_support(standing(), DOMAINS["dress"], size=size)
    assert found.shape == (size[1], size[0]) and found.dtype == np.bool_


def test_a_small_map_of_a_large_photo_keeps_to_its_own_pixels() -> None:
    regions = standing(96, 72)
    found = edit_support(regions, DOMAINS["top"], size=(720, 960))
    assert not (found & regions.at(960, 720).mask(DOMAINS["top"].keeps)).any()


def test_margin_and_box_widen_and_impossible_margins_are_refused() -> None:
    regions = standing()
    tight, wide, box = support(regions, "shoes"), support(regions, "shoes", margin=0.08), support(regions, "top", "box")
    assert wide.sum() > tight.sum() and not (tight & ~wide).any()
    assert box.sum() > support(regions, "top").sum() and not (support(regions, "top") & ~box).any()
    for margin in (-0.01, 0.26, float("nan")):
        with pytest.raises(SupportError) as caught:
            Options(margin=margin)
        assert caught.value.code == "bad-margin"


@pytest.mark.parametrize("domain", [name for name in DOMAINS if name != "bg"])
def test_a_photo_that_shows_nothing_of_the_domain_is_refused(domain: str) -> None:
    with pytest.raises(SupportError) as caught:
        support(RegionMap(np.zeros((96, 72), np.uint8)), domain)
    assert caught.value.code == "nothing-to-edit"


def test_the_digest_knows_every_parameter_and_an_expert_of_another_is_refused() -> None:
    top = DOMAINS["top"]
    kept = digest(top)
    others = {
        digest(DOMAINS["coat"]),
        digest(top, Options("box")),
        digest(top, Options(margin=0.05)),
        digest(replace(top, margin=0.031)),
        digest(replace(top, keeps=top.keeps[1:])),
        digest(replace(top, frames=())),
    }
    assert kept not in others and len(others) == 6
    check_digest(kept, top)
    with pytest.raises(SupportError, match="another edit support") as caught:
        check_digest(kept, top, Options("box"))
    assert caught.value.code == "support-differs"


def test_constants_of_the_code_are_part_of_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine_build.support import edit_support as module

    before = digest(DOMAINS["top"])
    for name, value in (("GRID", 128), ("VERSION", 2), ("LEAST_SHARE", 0.1)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert digest(DOMAINS["top"]) != before


RESULTS = (1, "cc400267397127ad")
"""Version, and what it returns for the figures below; a change of the second is a change of the first."""


def test_what_this_version_returns_is_what_it_returned() -> None:
    seen = hashlib.sha256()
    for lower, sleeves, coat in (("pants", "tops", False), ("skirts", "arms", False), ("legs", "arms", True)):
        for domain in DOMAINS.values():
            for shape in ("tight", "box"):
                regions = standing(192, 144, lower=lower, sleeves=sleeves, coat=coat)
                seen.update(np.packbits(edit_support(regions, domain, Options(shape), size=(192, GRID))).tobytes())  # type: ignore[arg-type]
    assert (VERSION, seen.hexdigest()[:16]) == RESULTS
