"""Whether exported graphs say what the torch backend says, without a GPU: every part, then a whole try-on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine_build.engine import ImageInput, TryOnRequest
from engine_build.errors import EngineError
from engine_build.instruction import GarmentPhrase, compose
from engine_build.model.packing import PackedBatch, Reference, Sequence, grid_ids, pack
from engine_build.model.weights import locate
from engine_build.options import EngineOptions
from engine_build.runtime.loading import fingerprint
from engine_build.runtime.torch_engine import TorchEngine
from engine_build.runtime.torch_engine import load as load_torch
from engine_build.tensorrt.backend import ENGINES, engine_over
from engine_build.tensorrt.backend import load as load_tensorrt
from engine_build.tensorrt.export import export_checkpoint
from engine_build.tensorrt.lint import check, supported
from engine_build.tensorrt.manifest import Manifest
from engine_build.tensorrt.onnx_runner import OnnxRunner
from engine_build.tensorrt.ports import Attention

PLUGIN: Attention = "plugin"
STANDARD: Attention = "standard"
BOUND = 1e-4  # of the largest value, float32 on both sides
BOUND_BFLOAT16 = 5e-2  # of the largest value, when both sides round to 8 bits in other places


@dataclass(frozen=True)
class ParityRow:
    """One comparison: largest difference over largest value, and the bound it must keep."""

    part: str
    error: float
    bound: float

    @property
    def ok(self) -> bool:
        return self.error <= self.bound


@dataclass(frozen=True)
class ParityVerdict:
    """What was found; `operators` counts each graph's nodes, all of which TensorRT's parser takes."""

    model: str
    attention: str
    tensorrt_list: str
    operators: dict[str, dict[str, int]]
    rows: tuple[ParityRow, ...]

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)

    def as_json(self) -> str:
        return json.dumps(asdict(self) | {"ok": self.ok}, indent=2)


def verify(
    model: str, out: Path, attention: Attention = "plugin", progress: Callable[[str], None] = lambda _: None
) -> ParityVerdict:
    """Exports a checkpoint in float32, lints every graph and compares each part, and a picture, with torch.

    Raises LintError for a graph that TensorRT would not take, CheckpointError, BackendError without onnxruntime.
    """
    folder = locate(model)
    runner = OnnxRunner(out)
    progress("exporting to ONNX")
    exported = export_checkpoint(folder, out, attention=attention)
    operators = {}
    for graph in exported:
        progress(f"checking {graph.name}")
        operators[graph.name] = check(graph.path, graph.outputs)
    progress("comparing with torch")
    options = EngineOptions(previews=False)
    torch_engine = load_torch(model, device="cpu", dtype="float32", options=options)
    onnx_engine = engine_over(folder.name, folder, runner, attention, options, fingerprint(folder))
    requests = 2 if attention == "plugin" else 1
    rows = (*_parts(torch_engine, onnx_engine, requests, BOUND), _picture(torch_engine, onnx_engine))
    return ParityVerdict(str(model), attention, supported().tensorrt, operators, rows)


def verify_engines(
    model: str, engines: Path | None = None, progress: Callable[[str], None] = lambda _: None
) -> ParityVerdict:
    """Compares engines that were built with torch on the same GPU, in the engines' dtype.

    Raises BackendError without TensorRT, a GPU, or engines that fit.
    """
    progress("loading engines")
    options = EngineOptions(previews=False)
    theirs = load_tensorrt(model, options=options, engines=engines)
    manifest = Manifest.load(engines or locate(model) / ENGINES)
    progress("comparing with torch")
    ours = load_torch(model, device="cuda", dtype=manifest.precision, options=options)
    bound = BOUND if manifest.precision == "float32" else BOUND_BFLOAT16
    rows = _parts(ours, theirs, 2 if manifest.attention == PLUGIN else 1, bound)
    return ParityVerdict(str(model), manifest.attention, manifest.tensorrt, {}, tuple(rows))


def _parts(ours: TorchEngine, theirs: TorchEngine, requests: int, bound: float) -> list[ParityRow]:
    a, b = ours.pipeline, theirs.pipeline
    generator = torch.Generator().manual_seed(0)
    shape = a.model.config
    batch = _batch(shape.joint_attention_dim, shape.in_channels, generator, requests).to(a.device)
    graphs = b.model
    rows = []

    def compare(part: str, got: Tensor, want: Tensor) -> None:
        far = (got.float() - want.float()).abs().max() / want.float().abs().max()
        rows.append(ParityRow(part, float(far), bound))

    with torch.inference_mode():
        if shape.reference_attention == "joint":
            compare("joint step", graphs(batch), a.model(batch))
        else:
            kv, same = a.model.encode_references(batch), graphs.encode_references(batch)
            compare("references", torch.cat(same.keys + same.values), torch.cat(kv.keys + kv.values))
            compare("cached step", graphs(batch, kv), a.model(batch, kv))
        told = compose([GarmentPhrase("tops")])
        compare("text", b.text_encoder.encode(told), a.text_encoder.encode(told))
        side = a.autoencoder.token_pixels
        noise = torch.rand((side * 6, side * 4, 3), generator=generator)
        picture = Image.fromarray((noise.numpy() * 255).astype(np.uint8))
        compare("vae encoder", b.autoencoder.encode([picture]), a.autoencoder.encode([picture]))
        latents = torch.randn((1, a.autoencoder.channels // 4, 12, 8), generator=generator)
        latents = latents.to(a.device, a.autoencoder.vae.dtype)
        decoded = [vae.decode(latents, return_dict=False)[0] for vae in (b.autoencoder.vae, a.autoencoder.vae)]
        compare("vae decoder", *decoded)
    return rows


def _batch(text_width: int, channels: int, generator: torch.Generator, requests: int) -> PackedBatch:
    """One or two requests of different sizes, with two references and one."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def one(text: int, grid: tuple[int, int], references: list[tuple[int, int]], sigma: float) -> Sequence:
        shown = tuple(
            Reference(draw(h * w, channels), grid_ids(h, w, 10 * (i + 1))) for i, (h, w) in enumerate(references)
        )
        return Sequence(draw(text, text_width), draw(grid[0] * grid[1], channels), grid_ids(*grid), sigma, shown)

    return pack([one(7, (3, 4), [(2, 3), (4, 4)], 0.9), one(12, (5, 2), [(3, 3)], 0.4)][:requests])


def _picture(ours: TorchEngine, theirs: TorchEngine) -> ParityRow:
    """The same try-on from both: rounding may tip a colour level to its neighbour."""
    width, height = ours.config.default_size
    ramp = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    person, garment = ImageInput(ramp, "person"), ImageInput(ramp.rotate(90), "garment", category="tops")
    request = TryOnRequest("verify", person, (garment,), compose([GarmentPhrase("tops")]), seed=1)
    pictures = []
    for engine in (ours, theirs):
        (outcome,) = engine.run([request])
        if outcome.image is None:
            raise EngineError(f"the {engine.describe().backend} backend cannot run: {outcome.error}")
        pictures.append(np.asarray(outcome.image, dtype=np.float32))
    difference = float(np.abs(pictures[0] - pictures[1]).max())
    return ParityRow("picture, colour levels", difference, 1.0)
