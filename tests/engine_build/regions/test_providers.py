"""Parsers by name: tiny local models of random weights, a scripted vision model, no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support_figures import standing
from transformers import (
    Sam2Config,
    Sam2Model,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)
from vision_endpoint import Answer, said, serving

from engine_build.regions.boxes import ASKED, Box, BoxFinder
from engine_build.regions.registry import providers
from engine_build.regions.sam2 import Sam2Regions
from engine_build.regions.segmentation import SegmentationRegions
from engine_build.support.classes import ATR
from engine_build.support.domains import DOMAINS
from engine_build.support.edit_support import edit_support
from engine_build.support.errors import SupportError
from engine_build.support.port import Providers, support_of
from engine_build.support.regions import LABEL, RegionMap

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 96, 3), dtype=np.uint8))


def tiny_segformer(folder: Path, names: tuple[str, ...] = ATR) -> str:
    """A segmentation model of random weights with a parser's classes."""
    torch.manual_seed(0)
    shape = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
    config = SegformerConfig(**shape, decoder_hidden_size=16, id2label=dict(enumerate(names)))
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)


def tiny_sam2(folder: Path) -> str:
    """A SAM 2 of random weights, 64 pixels a side."""
    torch.manual_seed(0)
    backbone = {
        "hidden_size": 12,
        "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [12, 24, 48, 96],
        "num_attention_heads_per_stage": [1, 1, 1, 1],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [2, 2],
        "model_type": "sam2_hiera_det_model",
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [96, 48, 24, 12],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 32,
    }
    prompts = {"hidden_size": 32, "image_size": 64, "mask_input_channels": 8}
    decoder = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    Sam2Model(config).save_pretrained(folder)
    return str(folder)


def test_a_users_own_segmentation_model_by_folder(tmp_path: Path) -> None:
    by = f"transformers:{tiny_segformer(tmp_path)}"
    known = providers()
    regions = known.named(by)(PHOTO)
    assert regions.labels.shape == (16, 16) and known.named(by) is known.named(by)
    assert set(np.unique(regions.labels)) <= set(LABEL.values())


def test_a_model_of_unknown_classes_and_one_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SupportError) as caught:
        SegmentationRegions(tiny_segformer(tmp_path / "cats", ("background", "cat")))
    assert caught.value.code == "unknown-region"
    (tmp_path / "empty").mkdir()
    for kind, model in (("transformers", str(tmp_path / "empty")), ("sam2", str(tmp_path / "empty"))):
        with pytest.raises(SupportError) as caught:
            providers(BoxFinder("http://localhost:1/v1", "any")).named(f"{kind}:{model}")
        assert caught.value.code == "provider-failed"


def test_names_that_are_none_say_which_there_are() -> None:
    for name in ("sam3:x", "", "transformers", "sam2", "sam2:somewhere"):
        with pytest.raises(SupportError) as caught:
            providers().named(name)
        assert caught.value.code == "unknown-provider"
    with pytest.raises(SupportError, match="caller, world, transformers, sam2"):
        providers().named("densepose")


def test_sam2_outlines_what_a_vision_model_names(tmp_path: Path) -> None:
    rows = [
        {"region": "tops", "left": 0.25, "top": 0.25, "right": 0.75, "bottom": 0.6},
        {"region": "hands", "left": 0.3, "top": 0.5, "right": 0.4, "bottom": 0.6},
        {"region": "face", "left": 0.5, "top": 0.2, "right": 0.4, "bottom": 0.1},
        {"region": "spoon", "left": 0.0, "top": 0.0, "right": 1.0, "bottom": 1.0},
    ]

    def answer(number: int, request: dict[str, object]) -> Answer:
        return said({"boxes": rows})

    with serving(answer) as endpoint:
        finder = BoxFinder(endpoint.url, "any-vl", "secret")
        known = providers(finder)
        regions = known.named(f"sam2:{tiny_sam2(tmp_path)}")(PHOTO)
    (request,) = endpoint.requests
    assert endpoint.keys == ["Bearer secret"] and request["model"] == "any-vl"
    offered = request["response_format"]["json_schema"]["schema"]["properties"]["boxes"]["items"]
    assert offered["properties"]["region"]["enum"] == list(ASKED)
    assert regions.labels.shape == (128, 96)
    assert set(np.unique(regions.labels)) <= {0, LABEL["tops"], LABEL["hands"]}
    outside = np.ones((128, 96), bool)
    outside[32:77, 24:72] = False
    assert not (regions.labels[outside] != 0).any(), "nothing beyond the box that was named"


class Whole(Sam2Regions):
    """Every box is its own outline: what remains is the order in which they are laid."""

    def outlines(self, photo: Image.Image, boxes: Sequence[Box]) -> Sequence[np.ndarray]:
        return [np.ones((photo.height, photo.width), bool) for _ in boxes]


def test_smaller_outlines_lie_above_and_none_are_no_regions(tmp_path: Path) -> None:
    folder = tiny_sam2(tmp_path)
    small, large = (
        Box(region=name, left=left, top=0.25, right=right, bottom=0.75)
        for name, left, right in (("hands", 0.4, 0.6), ("tops", 0.2, 0.8))
    )
    for order in ([small, large], [large, small]):
        labels = Whole(folder, lambda photo, order=order: order)(PHOTO).labels
        assert labels[64, 48] == LABEL["hands"] and labels[64, 24] == LABEL["tops"] and labels[0, 0] == 0
    assert not Sam2Regions(folder, lambda photo: [])(PHOTO).labels.any()


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (500, b""),
        (200, b"not json"),
        (200, b'{"choices": []}'),
        (200, json.dumps({"choices": [{"message": {"content": '{"boxes": [{"region": "tops"}]}'}}]}).encode()),
        (200, json.dumps({"choices": [{"message": {"content": "I see a person"}}]}).encode()),
        (200, b" " * (70 << 10)),
    ],
)
def test_a_vision_model_that_does_not_answer_usably_is_a_failed_provider(status: int, content: bytes) -> None:
    with serving(lambda number, request: (status, {}, content)) as endpoint:
        with pytest.raises(SupportError) as caught:
            BoxFinder(endpoint.url, "any-vl")(PHOTO)
        assert caught.value.code == "provider-failed" and len(endpoint.requests) == 1
    with pytest.raises(SupportError) as caught:
        BoxFinder("ftp://somewhere", "any-vl")
    assert caught.value.code == "unknown-provider"


def test_a_vision_model_that_is_not_there_is_a_failed_provider() -> None:
    with serving(lambda number, request: said({})) as endpoint:
        url = endpoint.url
    with pytest.raises(SupportError, match="cannot be asked"):
        BoxFinder(url, "any-vl", timeout_s=5.0)(PHOTO)


def test_the_port_gives_the_support_of_a_parser_or_the_callers_own() -> None:
    figure, asked = standing(), []

    def drawn(model: str) -> object:
        asked.append(model)
        return lambda photo: figure

    known = Providers({"drawn": drawn})  # type: ignore[dict-item]
    photo, top = Image.new("RGB", (288, 384)), DOMAINS["top"]
    expected = edit_support(figure, top, size=photo.size)
    assert np.array_equal(support_of(photo, top, by="drawn:this", providers=known), expected)
    assert asked == ["this"]
    mask = Image.fromarray(expected.astype(np.uint8) * 255)
    for by in ("caller", "drawn:this"):
        assert np.array_equal(support_of(photo, top, by=by, providers=known, mask=mask), expected)
    assert asked == ["this"], "made once"
    with pytest.raises(SupportError) as caught:
        support_of(photo, top, by="caller", providers=known)
    assert caught.value.code == "mask-missing"
    with pytest.raises(SupportError) as caught:
        support_of(
            photo,
            top,
            by="drawn",
            providers=Providers({"drawn": lambda _: lambda p: RegionMap(np.zeros((8, 6), np.uint8))}),
        )
    assert caught.value.code == "nothing-to-edit"
