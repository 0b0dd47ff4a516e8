"""Exported graphs in onnxruntime on the CPU, with our plugin nodes given a body of ONNX's own operators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnx import ModelProto, parser
from torch import Tensor

from engine_build.errors import BackendError
from engine_build.tensorrt.operators import DOMAIN

if TYPE_CHECKING:
    import onnxruntime

_HEAD = f'<domain: "{DOMAIN}", opset_import: ["" : 23]>'
_SEQUENCES = """
    {name}_first = Constant <value_ints = [1]> ()
    {name}_last = Constant <value_ints = [2147483647]> ()
    {name}_ends = Slice ({cu}, {name}_first, {name}_last)
    {name}_shape = Shape <start = 0, end = 1> ({tokens})
    {name}_length = Squeeze ({name}_shape)
    {name}_zero = Constant <value_int = 0> ()
    {name}_one = Constant <value_int = 1> ()
    {name}_long = Range ({name}_zero, {name}_length, {name}_one)
    {name}_at = Cast <to = 6> ({name}_long)
    {name}_column = Unsqueeze ({name}_at, {name}_first)
    {name}_past = LessOrEqual ({name}_ends, {name}_column)
    {name}_counted = Cast <to = 7> ({name}_past)
    {name} = ReduceSum <keepdims = 0> ({name}_counted, {name}_first)
"""  # sequence of each token: how many sequences end at or before it
_ATTEND = """
    heads_q = Transpose <perm = [1, 0, 2]> (q)
    heads_k = Transpose <perm = [1, 0, 2]> ({keys})
    heads_v = Transpose <perm = [1, 0, 2]> ({values})
    batch = Constant <value_ints = [0]> ()
    batch_q = Unsqueeze (heads_q, batch)
    batch_k = Unsqueeze (heads_k, batch)
    batch_v = Unsqueeze (heads_v, batch)
    both = Constant <value_ints = [0, 1]> ()
    mask4 = Unsqueeze (mask, both)
    attended = Attention (batch_q, batch_k, batch_v, mask4)
    heads_o = Squeeze (attended, batch)
    out = Transpose <perm = [1, 0, 2]> (heads_o)
"""
_PACKED = f"""{_HEAD}
packed_attention <plugin_namespace, plugin_version, aot> (q, k, v, cu_seqlens, key_cu, tiles) => (out) {{
    {_SEQUENCES.format(name="sequence", cu="cu_seqlens", tokens="q")}
    {_SEQUENCES.format(name="key", cu="key_cu", tokens="k")}
    axis_0 = Constant <value_ints = [0]> ()
    axis_1 = Constant <value_ints = [1]> ()
    mine = Unsqueeze (sequence, axis_1)
    theirs = Unsqueeze (key, axis_0)
    mask = Equal (mine, theirs)
    {_ATTEND.format(keys="k", values="v")}
}}"""
_PREFIXED = f"""{_HEAD}
prefixed_attention <plugin_namespace, plugin_version, aot>
    (q, k, v, prefix_k, prefix_v, cu_seqlens, key_cu, prefix_cu, tiles) => (out) {{
    {_SEQUENCES.format(name="sequence", cu="cu_seqlens", tokens="q")}
    {_SEQUENCES.format(name="key", cu="key_cu", tokens="k")}
    {_SEQUENCES.format(name="group", cu="prefix_cu", tokens="prefix_k")}
    axis_0 = Constant <value_ints = [0]> ()
    axis_1 = Constant <value_ints = [1]> ()
    sequences_shape = Shape (sequence_ends)
    groups_shape = Shape (group_ends)
    draws = Div (sequences_shape, groups_shape)
    owner = Div (sequence, draws)
    mine = Unsqueeze (sequence, axis_1)
    theirs = Unsqueeze (key, axis_0)
    own_mask = Equal (mine, theirs)
    my_group = Unsqueeze (owner, axis_1)
    its_group = Unsqueeze (group, axis_0)
    prefix_mask = Equal (my_group, its_group)
    mask = Concat <axis = 1> (prefix_mask, own_mask)
    all_k = Concat <axis = 0> (prefix_k, k)
    all_v = Concat <axis = 0> (prefix_v, v)
    {_ATTEND.format(keys="all_k", values="all_v")}
}}"""


class OnnxRunner:
    """The graphs `NAME.onnx` of a folder, float32, on the CPU; sessions are made when first used."""

    def __init__(self, folder: Path) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise BackendError("onnxruntime is not installed; run: pip install 'changeroom[tensorrt]'") from error
        self._runtime = onnxruntime
        self._folder = folder
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self.device = torch.device("cpu")
        self.dtype = torch.float32

    def run(self, graph: str, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name. Raises BackendError when there is no such file."""
        session = self._session(graph)
        given = {name: np.ascontiguousarray(x.detach().numpy()) for name, x in feeds.items()}
        names = [value.name for value in session.get_outputs()]
        return dict(zip(names, map(torch.from_numpy, session.run(names, given)), strict=True))

    def _session(self, graph: str) -> onnxruntime.InferenceSession:
        if graph not in self._sessions:
            path = self._folder / f"{graph}.onnx"
            if not path.is_file():
                raise BackendError(f"{path} is missing; run: changeroom engine verify or build")
            model = with_reference_attention(onnx.load(path, load_external_data=False))
            options = self._runtime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self._folder))
            self._sessions[graph] = self._runtime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[graph]


def with_reference_attention(model: ModelProto) -> ModelProto:
    """The model with bodies for our operators, for runtimes that have no plugins."""
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    model.functions.extend(f for f in map(parser.parse_function, (_PACKED, _PREFIXED)) if f.name in used)
    return model
