"""Largest activations of a checkpoint, seen while its graphs dress a few drawn people in torch."""

from __future__ import annotations

from pathlib import Path

from engine_build.engine import ImageInput, TryOnRequest
from engine_build.options import EngineOptions
from engine_build.runtime.loading import fingerprint, pick_device, pick_dtype
from engine_build.tensorrt.backend import engine_over
from engine_build.tensorrt.quantise import activation_peaks
from engine_build.tensorrt.torch_runner import TorchRunner
from engine_build.world.instructions import instruction_of
from engine_build.world.render import render
from engine_build.world.sample_files import picture
from engine_build.world.scenes import HELD_OUT_SEED, sample_scene

PEOPLE = 3


def calibrate(folder: Path, device: str = "auto", people: int = PEOPLE) -> dict[str, float]:
    """Peaks by linear of the MMDiT, for `quantise_file`; pictures are drawn at the checkpoint's own size."""
    place = pick_device(device)
    runner = TorchRunner(folder, "plugin", place, pick_dtype("auto", place))
    options = EngineOptions(previews=False)
    engine = engine_over(folder.name, folder, runner, "plugin", options, fingerprint(folder))
    width, height = engine.config.default_size
    requests = []
    for seed in range(people):
        scene = sample_scene(HELD_OUT_SEED + seed, min(2, engine.config.max_references - 1))
        drawn = render([scene], 96)
        person = ImageInput(picture(drawn.person[0]).resize((width, height)), f"person {seed}")
        worn = tuple(
            ImageInput(picture(drawn.garments[0, i]).resize((width, width)), f"garment {seed} {i}", garment.category)
            for i, garment in enumerate(scene.garments)
        )
        requests.append(TryOnRequest(f"{seed}", person, worn, instruction_of(scene), seed, size=(width, height)))

    def dress() -> None:
        for outcome in engine.run(requests):
            if outcome.error is not None:
                raise outcome.error

    return activation_peaks(runner.model, dress)
