"""docs/training.md in miniature: its commands and klein-4b-lora.toml's tables, nano in klein's place, made-up pairs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from real_pairs import garment, person, write_viton_hd
from scripted_judge import place, worn
from typer.testing import CliRunner
from vision_endpoint import Answer, said, serving

from engine_build.training.config import DEFAULT_CONFIG
from service.cli import app

GUIDE = Path(__file__).parents[3] / "docs" / "training.md"
STAGES = ("tryon", "nft", "cfg-distill", "dmd")
SMALL = {
    "steps": 1,
    "height": 64,
    "shot": 32,
    "batch": 2,
    "chunk": 2,
    "prompts": 1,
    "group": 2,
    "micro": 1,
    "sample_steps": 1,
    "updates": 1,
    "fake_updates": 1,
    "lora_rank": 4,
    "learning_rate": "1e-3",
    "warm_up": 1,
    "show_every": 0,
}


def _changeroom(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, f"{words}: {done.output} {done.exception!r}"
    return done.output


def _configuration(folder: Path, judge: str) -> Path:
    """The bundled tables as the guide says to change them, and small."""
    text = (DEFAULT_CONFIG.parent / "klein-4b-lora.toml").read_text()
    text = text.replace("black-forest-labs/FLUX.2-klein-base-4B", "nano").replace("runs/klein-4b-lora", f"{folder}/run")
    for name, value in SMALL.items():
        text = re.sub(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
    text = text.replace('device = "auto"', 'device = "cpu"').replace("tensorboard = true", "tensorboard = false")
    snippets = re.findall(r"(?m)^```\n((?:data|judge_).*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(snippets) == 2
    plain, judged = (one.replace("shards/*.tar", f"{folder}/shards/*.tar") for one in snippets)
    judged = judged.replace("http://localhost:8001/v1", judge)
    for table in (*STAGES, "expert"):
        text = text.replace(f"[{table}]\n", f"[{table}]\n{judged if table == 'nft' else plain}show_every = 0\n")
    path = folder / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.timeout(400)
def test_the_guide_leads_from_pairs_to_a_picture(tmp_path: Path) -> None:
    guide = GUIDE.read_text()
    assert all(f"changeroom train {stage} --config mine.toml" in guide for stage in STAGES)
    write_viton_hd(tmp_path / "VITON-HD", 4)
    small = ("--min-side", "64", "--min-garment", "64")
    built = _changeroom("data", "build", f"{tmp_path}/shards", "--from", f"{tmp_path}/VITON-HD", *small)
    assert "written 4" in built
    _changeroom("data", "inspect", f"{tmp_path}/shards", "--every", "--sheet", f"{tmp_path}/sheet.png")

    def scores(number: int, request: dict[str, Any]) -> Answer:
        of_garments = request["response_format"]["json_schema"]["name"] == "worn"
        return said(worn(5, 1 + number % 10) if of_garments else place(5, 5))

    with serving(scores) as judge:
        config = _configuration(tmp_path, judge.url)
        for stage in (*STAGES, "expert"):
            left = _changeroom("train", stage, "--config", str(config)).split()[-1]
            assert Path(left) == tmp_path / "run" / stage / "lora.safetensors" and Path(left).exists()
    person(1).save(tmp_path / "me.jpg")
    garment(2).save(tmp_path / "shirt.jpg")
    asked = ["tryon", "--person", f"{tmp_path}/me.jpg", "--garment", f"top={tmp_path}/shirt.jpg", "--model", "nano"]
    loras = [word for stage in STAGES for word in ("--lora", f"{tmp_path}/run/{stage}/lora.safetensors=9")]
    for name, more in (("with", loras), ("without", [])):
        _changeroom(*asked, *more, "-o", f"{tmp_path}/{name}.png")
    with Image.open(tmp_path / "with.png") as one, Image.open(tmp_path / "without.png") as other:
        assert one.size == other.size and one.tobytes() != other.tobytes()
