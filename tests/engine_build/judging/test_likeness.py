"""M-DINO and M-CLIP-I: cut-outs as OmniTry-Bench makes them, cosines of local models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_set import drawn
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_networks import clip_folder, dino_folder
from transformers import CLIPModel, ViTModel

from engine_build.errors import CheckpointError
from engine_build.judging.similarity.likeness import Likeness, cut_out

RED, BLUE = drawn("#cc2222", "#ffffff", (60, 80), 0), drawn("#2222cc", "#ffffff", (60, 80), 5)


def mask_of(size: tuple[int, int], left: int, top: int, right: int, bottom: int) -> NDArray[np.bool_]:
    mask = np.zeros((size[1], size[0]), bool)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


def test_a_cut_out_shows_the_garment_alone_on_white_in_the_pictures_proportions() -> None:
    """By hand: the mask is 41 x 61 pixels, so 40 + 60 wide, 60 + 60 high; 120 * 300 // 400 = 90 < 100 wide."""
    picture = Image.new("RGB", (300, 400), "green")
    picture.paste("red", (120, 150, 161, 211))
    found = cut_out(picture, mask_of(picture.size, 120, 150, 160, 210))
    assert found is not None and found.size == (300, 400)
    wanted = Image.new("RGB", (300, 400), "white")
    wanted.paste("red", (120, 150, 161, 211))
    width, height = 100, 133
    left, top = int(140 - width / 2), int(180 - height / 2)
    wanted = wanted.crop((left, top, left + width, top + height)).resize((300, 400), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(found), np.asarray(wanted))


def test_a_large_or_an_empty_mask() -> None:
    whole = cut_out(RED, mask_of(RED.size, 2, 2, 57, 77))
    assert whole is not None and whole.size == RED.size and whole.getpixel((0, 0)) == (255, 255, 255)
    assert cut_out(RED, np.zeros((80, 60), bool)) is None


def test_a_crop_at_the_edge_stays_in_the_picture() -> None:
    picture = Image.new("RGB", (300, 400), "red")
    found = cut_out(picture, mask_of(picture.size, 290, 390, 299, 399))
    assert found is not None and found.size == (300, 400)
    assert np.asarray(found)[..., 1].min() == 0 and np.asarray(found)[0, 0].tolist() == [255, 255, 255]


def by_hand(image: Image.Image) -> torch.Tensor:
    """Pixels of a model of 32 pixels whose processor resizes the whole picture: no crop, mean and deviation a half."""
    small = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), np.float32)
    return torch.from_numpy(small / 127.5 - 1).permute(2, 0, 1)[None]


def test_m_dino_is_the_cosine_of_class_tokens(tmp_path: Path) -> None:
    folder = dino_folder(tmp_path)
    model = ViTModel.from_pretrained(folder).eval()
    with torch.no_grad():
        one, two = (model(pixel_values=by_hand(image)).last_hidden_state[0, 0] for image in (RED, BLUE))
    wanted = float(torch.dot(one, two) / one.norm() / two.norm())
    found = Likeness(folder, "dino").cosine(RED, BLUE)
    assert found == pytest.approx(wanted, abs=1e-5) and found < 0.9999
    assert Likeness(folder, "dino").cosine(RED, RED) == pytest.approx(1.0, abs=1e-9)


def test_m_clip_i_is_the_cosine_of_image_embeddings(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path)
    square = [image.resize((32, 32)) for image in (RED, BLUE)]
    model = CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        seen = [model.vision_model(pixel_values=by_hand(image)).pooler_output for image in square]
        one, two = (model.visual_projection(x)[0] for x in seen)
    wanted = float(torch.dot(one, two) / one.norm() / two.norm())
    assert Likeness(folder, "clip").cosine(*square) == pytest.approx(wanted, abs=1e-5)


def test_folders_that_are_no_such_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json, preprocessor_config\.json.*hf download"):
        Likeness(tmp_path / "none", "dino")
    folder = dino_folder(tmp_path / "dino")
    with pytest.raises(CheckpointError, match="is a ViTModel, which has no image embedding"):
        Likeness(folder, "clip")
    weights = load_file(folder / "model.safetensors")
    lacking = {name: tensor for name, tensor in weights.items() if "intermediate" not in name}
    save_file(lacking, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks weights of its model: .*fc1\.weight"):
        Likeness(folder, "dino")
