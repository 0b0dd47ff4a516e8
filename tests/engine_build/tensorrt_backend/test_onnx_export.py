"""Exported graphs against the torch backend: nano as a whole, tiny models in every mode and form."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from graph_parity import onnx_initialisers, tiny_batch, tiny_model, worst
from torch import Tensor, nn
from typer.testing import CliRunner

from engine_build.config import ReferenceAttention, read_json
from engine_build.errors import EngineError
from engine_build.model.packing import Reference, Sequence, grid_ids, pack
from engine_build.model.weights import NANO, load_model
from engine_build.tensorrt.export import export_dit, export_graph
from engine_build.tensorrt.feeds import Feeder
from engine_build.tensorrt.lint import check
from engine_build.tensorrt.model import GraphMMDiT
from engine_build.tensorrt.onnx_runner import OnnxRunner
from engine_build.tensorrt.ports import Attention, Kind, Port
from engine_build.tensorrt.torch_runner import TorchRunner
from service.cli import app

ONE = (7, (3, 4), ((2, 3), (4, 4)))
TWO = (12, (5, 2), ((3, 3),))
EXACT = 1e-5
LATENTS = int(read_json(NANO / "vae" / "config.json")["latent_channels"])


@dataclass(frozen=True)
class Verified:
    """What `changeroom engine verify` printed and wrote."""

    folder: Path
    printed: str
    verdict: dict[str, Any]


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Verified:
    folder = tmp_path_factory.mktemp("onnx")
    command = ["engine", "verify", "--model", "nano", "--out", str(folder), "--json", str(folder / "verdict.json")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return Verified(folder, done.stdout, json.loads((folder / "verdict.json").read_text()))


@pytest.mark.timeout(600)
def test_nano_agrees_with_torch_in_every_part_and_in_the_picture(nano: Verified) -> None:
    rows = nano.verdict["rows"]
    assert {row["part"] for row in rows} == {
        "references", "cached step", "text", "vae encoder", "vae decoder", "picture, colour levels",
    }  # fmt: skip
    assert nano.verdict["ok"]
    assert all(row["error"] <= row["bound"] for row in rows)
    assert all(row["bound"] == 1e-4 for row in rows if not row["part"].startswith("picture"))
    assert "all in TensorRT's list" in nano.printed


def test_every_layer_of_nano_attends_through_the_plugin(nano: Verified) -> None:
    assert nano.verdict["operators"]["cached"]["prefixed_attention"] == 8
    assert nano.verdict["operators"]["references"]["packed_attention"] == 7  # nobody reads what the last layer attends
    assert not any("Attention" in nano.verdict["operators"][name] for name in ("cached", "references"))
    assert nano.verdict["operators"]["text"]["Attention"] == 3
    model = onnx.load(nano.folder / "cached.onnx", load_external_data=False)
    node = next(n for n in model.graph.node if n.op_type == "prefixed_attention")
    told = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert told == {"plugin_namespace": b"changeroom", "plugin_version": b"1", "aot": 1}


def test_weights_keep_their_names_for_refit(nano: Verified) -> None:
    names = {f"model.{name}" for name, _ in load_model(NANO).named_parameters()}
    unused = {name for name in names if name not in onnx_initialisers(nano.folder / "cached.onnx")}
    assert not unused


def test_sizes_vary_under_shared_names(nano: Verified) -> None:
    graph = onnx.load(nano.folder / "cached.onnx", load_external_data=False).graph
    axes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    assert axes["target"] == ["L", 64]
    assert axes["key_0"] == axes["value_7"] == ["P", 4, 32]
    assert axes["tiles"] == ["G", 2]


def feeds_of(name: str, large: bool) -> dict[str, Tensor]:
    """Inputs of one of nano's graphs, in two sizes that share no axis with each other or with the traced example."""
    generator = torch.Generator().manual_seed(int(large))
    if name == "text":
        tokens = 29 if large else 3
        return {"ids": torch.arange(tokens)[None], "mask": torch.ones(1, tokens, dtype=torch.int64)}
    n, y, x = (3, 80, 48) if large else (1, 32, 40)
    if name == "vae_encoder":
        return {"pixels": torch.rand((n, 3, y, x), generator=generator) * 2 - 1}
    if name == "vae_decoder":
        return {"latents": torch.randn((n, LATENTS, y // 4, x // 4), generator=generator)}
    model = load_model(NANO)
    c = model.config

    def one(text: int, grid: tuple[int, int], *grids: tuple[int, int]) -> Sequence:
        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        shown = tuple(Reference(draw(h * w, c.in_channels), grid_ids(h, w, 10)) for h, w in grids)
        target = draw(grid[0] * grid[1], c.in_channels)
        return Sequence(draw(text, c.joint_attention_dim), target, grid_ids(*grid), 0.5, shown)

    asked = [one(9, (4, 5), (2, 2), (3, 5), (1, 7)), one(4, (3, 3), (6, 2)), one(31, (2, 8), (4, 1))]
    batch = pack(asked if large else [one(5, (2, 3), (1, 2))])
    feeder = Feeder(c, torch.float32, packed=True)
    if name == "references":
        return feeder.references(batch, batch.reference_ids)
    with torch.inference_mode():
        feeds = feeder.pass_feeds(batch, model.encode_references(batch))
    (step,) = feeds.steps(batch.target, batch.sigma)
    return step


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["references", "cached", "text", "vae_encoder", "vae_decoder"])
def test_one_file_serves_two_sizes(nano: Verified, name: str) -> None:
    """The numbers of torch at both: nothing of the example's sizes went into the file."""
    mine, theirs = OnnxRunner(nano.folder), TorchRunner(NANO, "plugin", torch.device("cpu"), torch.float32)
    for large in (False, True):
        feeds = feeds_of(name, large)
        wanted = theirs.run(name, feeds)
        for output, got in mine.run(name, feeds).items():
            assert got.shape == wanted[output].shape
            assert worst(got, wanted[output]) < 1e-4


class Specialised(nn.Module):
    """A graph that holds for its example only: for one length, or for two equal ones."""

    def __init__(self, equal: bool) -> None:
        super().__init__()
        self.equal = equal
        axes = ("N1", "M1") if equal else ("L", "Lt")
        self.inputs = tuple(Port(name, "float32", (axis,)) for name, axis in zip("ab", axes, strict=True))
        self.outputs = (Port("out", "float32", (axes[0],)),)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor]:
        if self.equal:
            return (a + b,)
        return (a * 2 if b.shape[0] == 13 else a * b.sum(),)


@pytest.mark.parametrize(("equal", "said"), [(False, "axis Lt of b .* as 13"), (True, "M1 of b .* equal to N1")])
def test_a_graph_of_one_size_is_refused(tmp_path: Path, equal: bool, said: str) -> None:
    """torch.export's Dim.AUTO gives way without a word."""
    with pytest.raises(EngineError, match=said):
        export_graph("small", Specialised(equal), tmp_path, torch.float32)
    assert not (tmp_path / "small.onnx").exists()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("mode", "kinds", "attention", "guidance"),
    [
        ("joint", ("joint",), "plugin", False),
        ("joint", ("joint",), "standard", True),
        ("shared", ("references", "cached"), "plugin", False),
        ("isolated", ("references", "cached"), "standard", False),
    ],
)
def test_modes_and_forms(
    tmp_path: Path, mode: ReferenceAttention, kinds: tuple[Kind, ...], attention: Attention, guidance: bool
) -> None:
    model, batch = tiny_model(mode, guidance), tiny_batch(ONE, TWO, guidance=guidance)
    for kind in kinds:
        graph = export_dit(model, kind, attention, tmp_path)
        counts = check(graph.path, graph.outputs)
        assert ("Attention" in counts) == (attention == "standard")
    graphs = GraphMMDiT(model.config, OnnxRunner(tmp_path), attention)
    with torch.inference_mode():
        assert worst(graphs(batch), model(batch)) < EXACT
        if mode == "joint" and attention == "plugin":
            alone = tiny_batch(ONE)
            assert worst(graphs(batch)[: alone.target_segments.total], graphs(alone)) < EXACT  # whoever is beside it
        if "references" in kinds:
            kv, ours = graphs.encode_references(batch), model.encode_references(batch)
            assert worst(torch.cat(kv.keys + kv.values), torch.cat(ours.keys + ours.values)) < EXACT


def test_the_last_block_attends_for_the_target_alone(nano: Verified) -> None:
    """Of the eight layers of a step, the last one's queries are as many as the target's tokens."""
    graph = onnx.load(nano.folder / "cached.onnx", load_external_data=False).graph
    nodes = [n for n in graph.node if n.op_type == "prefixed_attention"]
    tables = [(node.input[5], node.input[6], node.input[8]) for node in nodes]
    assert tables == [("cu_seqlens", "cu_seqlens", "tiles")] * 7 + [("target_cu", "cu_seqlens", "target_tiles")]
