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
from typer.testing import CliRunner

from engine_build.config import ReferenceAttention
from engine_build.tensorrt.export import export_dit
from engine_build.tensorrt.lint import check
from engine_build.tensorrt.model import GraphMMDiT
from engine_build.tensorrt.onnx_runner import OnnxRunner
from engine_build.tensorrt.ports import Attention, Kind
from engine_build.weights import NANO, load_model
from service.cli import app

ONE = (7, (3, 4), ((2, 3), (4, 4)))
TWO = (12, (5, 2), ((3, 3),))
EXACT = 1e-5


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
