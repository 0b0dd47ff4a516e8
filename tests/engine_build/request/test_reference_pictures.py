"""Photos to references: as diffusers does it, never stretched; contact sheets and their words."""

import numpy as np
import pytest
from diffusers.pipelines.flux2.image_processor import Flux2ImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from engine_build.config import CheckpointConfig
from engine_build.engine import ImageInput, TryOnRequest
from engine_build.errors import RequestError
from engine_build.instruction import CATEGORIES, GarmentPhrase, assignments, compose
from engine_build.request.plan import plan, reference_tokens
from engine_build.request.reference_pictures import (
    Placed,
    arrange,
    contact_sheet,
    edge_colour,
    fit_area,
    fit_canvas,
    fit_cover,
    fit_person,
    retell,
    target_size,
)

COLOURS = ("red", "lime", "blue", "yellow", "magenta", "cyan")


def random_photo(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def disc(width: int, height: int, ground: str = "white") -> Image.Image:
    """A black disc, as large as fits, in the middle."""
    image = Image.new("RGB", (width, height), ground)
    radius = min(width, height) * 0.4
    x, y = width / 2, height / 2
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill="black")
    return image


def roundness(image: Image.Image) -> float:
    """Width over height of the dark part."""
    dark = np.asarray(image.convert("L")) < 100
    columns, rows = np.flatnonzero(dark.any(0)), np.flatnonzero(dark.any(1))
    return (columns[-1] - columns[0] + 1) / (rows[-1] - rows[0] + 1)


def garment(i: int, width: int = 60, height: int = 90, category: str | None = None) -> ImageInput:
    return ImageInput(Image.new("RGB", (width, height), COLOURS[i]), f"garment-{i}", category)


@pytest.mark.parametrize(
    "size",
    [(64, 64), (130, 77), (1023, 777), (1024, 1024), (1025, 1024), (4032, 3024), (300, 2100), (2399, 301)],
)
def test_fit_area_is_diffusers_preprocessing(size: tuple[int, int]) -> None:
    processor = Flux2ImageProcessor(vae_scale_factor=16)
    photo = random_photo(*size)
    expected = processor.check_image_input(photo)
    if size[0] * size[1] > 1024 * 1024:
        expected = processor._resize_to_target_area(expected, 1024 * 1024)
    width, height = (edge // 16 * 16 for edge in expected.size)
    tensor = processor.preprocess(expected, height=height, width=width, resize_mode="crop")
    fitted = fit_area(photo, 1024 * 1024, 16)
    assert fitted.size == (width, height)
    ours = np.asarray(fitted, dtype=np.float32) / 127.5 - 1
    assert np.abs(ours - tensor[0].permute(1, 2, 0).numpy()).max() < 1e-6


@pytest.mark.parametrize("size", [(63, 64), (64, 63), (10, 10)])
def test_a_tiny_picture_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(RequestError, match="too small"):
        fit_area(random_photo(*size), 1024 * 1024, 16)


@pytest.mark.parametrize("fit", [lambda i: fit_area(i, 1 << 20, 8), lambda i: fit_canvas(i, (48, 48))])
def test_a_ribbon_is_refused(fit) -> None:
    with pytest.raises(RequestError, match="narrow"):
        fit(random_photo(100, 801))


@settings(max_examples=200, deadline=None)
@given(st.integers(50, 6000), st.integers(50, 6000), st.sampled_from([8, 16]))
def test_output_keeps_the_persons_aspect_and_the_default_area(width: int, height: int, multiple: int) -> None:
    default = (72, 96) if multiple == 8 else (768, 1024)
    if max(width, height) > 8 * min(width, height):
        with pytest.raises(RequestError):
            target_size((width, height), default, multiple)
        return
    out = target_size((width, height), default, multiple)
    assert out[0] % multiple == out[1] % multiple == 0
    shorter = min(out)
    assert abs(np.log(out[0] / out[1] * height / width)) <= multiple / shorter
    assert 0.6 < out[0] * out[1] / (default[0] * default[1]) < 1.6


@pytest.mark.parametrize(
    ("person", "expected"),
    [((3000, 4000), (768, 1024)), ((768, 1024), (768, 1024)), ((500, 500), (880, 880))],
)
def test_portraits_come_out_at_the_default_size(person: tuple[int, int], expected: tuple[int, int]) -> None:
    assert target_size(person, (768, 1024), 16) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(60, 400), st.integers(60, 400))
def test_nothing_is_stretched(width: int, height: int) -> None:
    photo = disc(width, height)
    for fitted in (
        fit_area(photo, 150 * 150, 8),
        fit_canvas(photo, (96, 120)),
        fit_person(photo, (96, 128), 8, on_canvas=True),
        fit_person(photo, (96, 128), 8, on_canvas=False),
    ):
        assert fitted.width % 8 == fitted.height % 8 == 0
        assert roundness(fitted) == pytest.approx(1, abs=0.12)


def test_a_canvas_is_padded_in_the_colour_of_the_edge() -> None:
    fitted = fit_canvas(disc(200, 100, "orange"), (40, 40))
    assert fitted.size == (40, 40)
    assert fitted.getpixel((0, 0)) == fitted.getpixel((39, 39)) == (255, 165, 0)
    assert edge_colour(disc(31, 77, "teal")) == (0, 128, 128)


def test_a_canvas_loses_no_pixel_of_the_picture() -> None:
    photo = Image.new("RGB", (300, 100), "white")
    photo.paste("black", (0, 0, 10, 100))
    photo.paste("black", (290, 0, 300, 100))
    row = np.asarray(fit_canvas(photo, (60, 60)).convert("L"))[30]
    assert row[0] < 90 and row[-1] < 90


def test_cover_crops_the_centre() -> None:
    photo = Image.new("RGB", (100, 60), "white")
    photo.paste("black", (20, 0, 80, 60))
    assert max(edge_colour(fit_cover(photo, (30, 30)))) < 40


def test_a_person_of_another_aspect_keeps_it_without_a_canvas() -> None:
    assert fit_person(random_photo(400, 200), (96, 128), 8, on_canvas=False).size == (152, 72)
    assert fit_person(random_photo(400, 200), (96, 128), 8, on_canvas=True).size == (96, 128)


@pytest.mark.parametrize("count", range(1, 7))
@pytest.mark.parametrize("places", range(1, 7))
def test_every_garment_is_shown_once_in_order(count: int, places: int) -> None:
    placed = arrange([garment(i) for i in range(count)], places)
    assert len(placed) == min(count, places)
    assert [n for p in placed for n in p.images] == list(range(2, count + 2))
    for picture in placed:
        assert len(picture.places) == (len(picture.images) if len(picture.images) > 1 else 0)
        assert len(set(picture.places)) == len(picture.places)


def test_no_place_for_a_garment_is_said() -> None:
    with pytest.raises(RequestError, match="no room"):
        arrange([garment(0)], 0)


@pytest.mark.parametrize("count", range(2, 7))
def test_a_contact_sheet_holds_each_garment_where_the_words_say(count: int) -> None:
    members = [garment(i, 60 + 10 * i, 120 - 10 * i) for i in range(count)]
    (placed,) = arrange(members, 1)
    sheet = np.asarray(placed.picture.image)
    height, width = sheet.shape[:2]
    for i, place in enumerate(placed.places):
        colour = np.array(members[i].image.getpixel((0, 0)))
        rows, columns = np.nonzero((np.abs(sheet.astype(int) - colour) <= 2).all(-1))
        assert columns.size > 0
        x, y = columns.mean() / width, rows.mean() / height
        seen = (columns.max() - columns.min() + 1) / (rows.max() - rows.min() + 1)
        assert seen == pytest.approx(members[i].image.width / members[i].image.height, rel=0.05)
        assert ("left" in place) == (x < 0.34)
        assert ("right" in place) == (x > 0.66)
        if "top" in place:
            assert y < 0.5
        if "bottom" in place:
            assert y > 0.5


def test_a_contact_sheet_is_named_by_its_members_and_their_order() -> None:
    a, b, c = (garment(i) for i in range(3))
    names = {contact_sheet(members).content_hash for members in ([a, b], [b, a], [a, c], [a, b, c])}
    assert len(names) == 4
    assert contact_sheet([a, b]).content_hash == contact_sheet([a, b]).content_hash


@pytest.mark.parametrize("count", range(1, 7))
@pytest.mark.parametrize("places", range(1, 7))
def test_the_instruction_names_the_picture_and_place_of_every_garment(count: int, places: int) -> None:
    phrases = [GarmentPhrase(category) for category in CATEGORIES[:count]]
    told = compose(phrases, 'leave "image 3" alone')
    placed = arrange([garment(i) for i in range(count)], places)
    retold = retell(told, placed)
    where = {
        n: (slot, p.places[i] if p.places else None) for slot, p in enumerate(placed, 2) for i, n in enumerate(p.images)
    }
    before, after = assignments(told), assignments(retold)
    assert len(before) == len(after) == count
    for old, new in zip(before, after, strict=True):
        assert new.noun == old.noun
        assert (new.image, new.place) == where[old.image]
    assert retold.startswith("The person of image 1,")
    assert retold.endswith("leave 'image 3' alone\"")
    if count <= places:
        assert retold == told


def test_free_words_are_renumbered_too() -> None:
    placed = [Placed(garment(0), (2, 3), ("left", "right")), Placed(garment(2), (4,))]
    told = retell("Put Image 3 on the person of image 1, with image 4; see image 9", placed)
    assert told == "Put Image 2 (right) on the person of image 1, with image 3; see image 9"


CONFIG = CheckpointConfig("joint", max_references=4, default_size=(96, 128), max_pixels=40_000, max_steps=8)


def request(count: int, **changes) -> TryOnRequest:
    garments = tuple(garment(i, category=CATEGORIES[i]) for i in range(count))
    told = compose([GarmentPhrase(g.category) for g in garments], "nice")
    person = ImageInput(random_photo(300, 400), "person")
    return TryOnRequest(**{"id": "r", "person": person, "garments": garments, "instruction": told, **changes})


def test_a_plan_fits_every_picture_to_whole_tokens() -> None:
    planned = plan(request(3), CONFIG, 8, "sheets")
    assert planned.size == planned.person.image.size == (96, 128)
    assert planned.steps == CONFIG.default_steps
    (only,) = planned.passes
    assert [g.image.size for g in only.garments] == [(56, 88)] * 3


def test_sheets_get_the_area_of_their_members() -> None:
    config = CheckpointConfig("joint", max_references=2, default_size=(96, 128), garment_area=64 * 64)
    (only,) = plan(request(4), config, 8, "sheets").passes
    (sheet,) = only.garments
    assert 0.7 * 4 * 64 * 64 < sheet.image.width * sheet.image.height <= 4 * 64 * 64


def test_sequential_passes_put_coats_on_last_and_speak_only_of_their_own() -> None:
    planned = plan(request(6), CONFIG, 8, "sequential")
    assert [len(p.garments) for p in planned.passes] == [3, 3]
    first, second = (assignments(p.instruction) for p in planned.passes)
    assert {a.noun for a in first} == {"top", "pants", "skirt"}
    assert {a.noun for a in second} == {"dress", "coat", "shoes"}
    assert second[-1].noun == "coat"
    assert all("nice" in p.instruction for p in planned.passes)
    for assigned in (first, second):
        assert sorted(a.image for a in assigned) == [2, 3, 4]
    named = {g.content_hash for p in planned.passes for g in p.garments}
    assert named == {f"garment-{i}" for i in range(6)}


def test_sequential_is_one_pass_when_everything_fits() -> None:
    assert len(plan(request(3), CONFIG, 8, "sequential").passes) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"garments": ()}, "1 to 6"),
        ({"garments": tuple(garment(0) for _ in range(7))}, "1 to 6"),
        ({"steps": 0}, "steps"),
        ({"steps": 9}, "steps"),
        ({"size": (97, 128)}, "multiples of 8"),
        ({"size": (8, 128)}, "at least 32"),
        ({"size": (256, 256)}, "40000"),
        ({"person": ImageInput(random_photo(40, 400), "thin")}, "narrow"),
    ],
)
def test_what_a_checkpoint_cannot_do_is_one_clear_error(changes: dict, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        plan(request(1, **changes), CONFIG, 8, "sheets")


@pytest.mark.parametrize("count", range(1, 7))
@pytest.mark.parametrize("canvas", [None, (48, 48)])
def test_no_request_brings_more_reference_tokens_than_counted(count: int, canvas) -> None:
    config = CheckpointConfig("joint", default_size=(96, 128), garment_area=64 * 64, garment_canvas=canvas)
    planned = plan(request(count), config, 8, "sheets")
    pictures = [planned.person, *planned.passes[0].garments]
    tokens = sum(p.image.width * p.image.height // 64 for p in pictures)
    assert 0.5 * tokens < tokens <= reference_tokens(planned.size, count, config, 8)
