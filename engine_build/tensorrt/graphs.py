"""The MMDiT as graphs of tensors alone, in the form that ONNX and TensorRT want.

It is the model of `engine_build.model.mmdit`, weights shared, with everything that depends on lengths
turned into inputs: RoPE tables, row indices that lay several sequences next to each other, cumulative lengths. So
one graph serves every mixture of sizes. `kind` names what a graph does:

    joint       text, target and references, all attending all (`joint` checkpoints)
    references  references to keys and values of every layer (`shared` and `isolated`)
    cached      text and target, attending keys and values that came before

A picture's first step is `references`, then `cached`; the others are `cached` alone. One graph of both would be a
third engine with its own copy of the weights, for one launch less a picture.
The last block's attention and output are for the target's tokens only; its projection is for all, since one product
makes keys, values and the MLP's input, and a weight in two pieces could neither be refitted nor found by FP8.

Attention is either ONNX's own operator, one sequence a call, or `changeroom::packed_attention`, many.

Letters: T tokens, Lt text, L target, P reference tokens, N sequences, R segments of references, G query tiles,
D width, H heads, E head size, C channels, Dt text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from engine_build.config import ModelConfig
from engine_build.model.mmdit import DoubleBlock, MMDiT, SingleBlock
from engine_build.tensorrt.graph_math import (
    Attend,
    Parts,
    adaln,
    attention,
    feed_forward,
    heads,
    image_alone,
    norm_rope,
    single,
)
from engine_build.tensorrt.operators import packed_attention, prefixed_attention
from engine_build.tensorrt.ports import Attention, Graph, Kind, Port


def kinds_of(config: ModelConfig) -> tuple[Kind, ...]:
    """The graphs an engine needs for a checkpoint's reference attention."""
    return ("joint",) if config.reference_attention == "joint" else ("references", "cached")


class DitGraph(Graph):
    """One graph of an MMDiT."""

    def __init__(self, model: MMDiT, kind: Kind, attention: Attention) -> None:
        super().__init__()
        self.model, self.kind, self.packed = model, kind, attention == "plugin"
        self.inputs = self._inputs()
        self.outputs = self._outputs()

    def forward(self, *tensors: Tensor) -> Parts:
        given = {port.name: tensor for port, tensor in zip(self.inputs, tensors, strict=True)}
        if self.kind == "references":
            return self._references(given)
        layers = self.model.config.layers
        kv = () if self.kind == "joint" else tuple(given[name] for name in _kv_names(layers))
        return (self._main(given, kv),)

    def _inputs(self) -> tuple[Port, ...]:
        c = self.model.config
        half, channels = c.attention_head_dim // 2, c.in_channels
        ports: list[Port] = []
        if self.kind != "references":
            ports += [
                Port("target", "float32", ("L", channels)),
                Port("text", "model", ("Lt", c.joint_attention_dim)),
                Port("sigma", "float32", ("N" if self.packed else 1,)),
            ]
            if c.guidance_embeds:
                ports.append(Port("guidance", "float32", ("N" if self.packed else 1,)))
            image = "Ti" if self.kind == "joint" else "L"
            ports += _rope_ports("text", "Lt", half) + _rope_ports("image", image, half)
            if self.packed:
                ports += [Port("text_sequence", "int64", ("Lt",)), Port("image_sequence", "int64", (image,))]
                ports += [Port("joint_rows", "int64", ("T",)), Port("text_rows", "int64", ("Lt",))]
                ports += [Port("image_rows", "int64", (image,))]
                ports += [Port("cu_seqlens", "int32", ("N1",)), Port("tiles", "int32", ("G", 2))]
                ports += [Port("target_rows", "int64", ("L",)), Port("target_sequence", "int64", ("L",))]
                ports += [Port("target_cu", "int32", ("N1",)), Port("target_tiles", "int32", ("Gt", 2))]
        if self.kind != "cached":
            ports.append(Port("references", "float32", ("P", channels)))
        if self.kind == "joint" and self.packed:
            ports.append(Port("stream_rows", "int64", ("Ti",)))
        if self.kind == "references":
            ports += _rope_ports("reference", "P", half)
            if self.packed:
                ports += [Port("reference_cu", "int32", ("R1",)), Port("reference_tiles", "int32", ("Gr", 2))]
            elif c.reference_attention == "isolated":
                ports.append(Port("reference_mask", "bool", (1, 1, "P", "P")))
        if self.kind == "cached":
            ports += [Port("prefix_cu", "int32", ("M1",))] if self.packed else []
            ports += self._kv_ports()
        return tuple(ports)

    def _outputs(self) -> tuple[Port, ...]:
        if self.kind == "references":
            return self._kv_ports()
        return (Port("velocity", "model", ("L", self.model.config.output_channels)),)

    def _kv_ports(self) -> tuple[Port, ...]:
        c = self.model.config
        axes = ("P", c.num_attention_heads, c.attention_head_dim)
        return tuple(Port(name, "model", axes) for name in _kv_names(c.layers))

    def _references(self, given: dict[str, Tensor]) -> Parts:
        """Keys, then values `(P, H, E)` of every layer."""
        m = self.model
        rope = given["reference_cos"], given["reference_sin"]
        x = m.x_embedder(given["references"].to(m.dtype))  # (P, D)
        time = m.time_guidance_embed(x.new_zeros(1, dtype=torch.float32), None)  # (1, D)
        image_mod, single_mod = m.double_stream_modulation_img(time), m.single_stream_modulation(time)
        keys: list[Tensor] = []
        values: list[Tensor] = []

        def attend(q: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys.append(key)
            values.append(value)
            if self.packed:
                cu = given["reference_cu"]
                out: Tensor = packed_attention(q, key, value, cu, cu, given["reference_tiles"])
                return out
            return attention(q, key, value, given.get("reference_mask"))

        for double_block in _double_blocks(m):
            x = image_alone(double_block, x, image_mod, rope, attend)
        for block in _single_blocks(m):
            x = single(block, x, single_mod, rope, attend)
        return (*keys, *values)

    def _main(self, given: dict[str, Tensor], kv: Parts) -> Tensor:
        """Velocity `(L, C)`."""
        m, layers = self.model, self.model.config.layers
        text_rope = given["text_cos"], given["text_sin"]
        image_rope = given["image_cos"], given["image_sin"]
        time = m.time_guidance_embed(given["sigma"], given.get("guidance"))  # (N, D)
        image_mod = self._rows(m.double_stream_modulation_img(time), given, "image_sequence")
        text_mod = self._rows(m.double_stream_modulation_txt(time), given, "text_sequence")
        stream = given["target"]
        if self.kind == "joint":
            stream = torch.cat((stream, given["references"]))
            stream = stream.index_select(0, given["stream_rows"]) if self.packed else stream
        image = m.x_embedder(stream.to(m.dtype))  # (Ti, D)
        text = m.context_embedder(given["text"])  # (Lt, D)
        done = 0

        def attend(q: Tensor, key: Tensor, value: Tensor) -> Tensor:
            nonlocal done
            prefix = (kv[done], kv[layers + done]) if kv else None
            done += 1
            return self._attend(q, key, value, prefix, given, last=done == layers)

        for double_block in _double_blocks(m):
            mods, ropes = (text_mod, image_mod), (text_rope, image_rope)
            text, image = self._double(double_block, text, image, mods, ropes, attend, given)
        x = self._join(text, image, given)  # (T, D)
        rope = tuple(self._join(a, b, given) for a, b in zip(text_rope, image_rope, strict=True))
        sequence = self._join(given["text_sequence"], given["image_sequence"], given) if self.packed else None
        single_mod = tuple(
            part if sequence is None else part.index_select(0, sequence) for part in m.single_stream_modulation(time)
        )
        *blocks, last = _single_blocks(m)
        for block in blocks:
            x = single(block, x, single_mod, rope, attend)

        def targets(y: Tensor) -> Tensor:
            if self.packed:
                return y.index_select(0, given["target_rows"])
            own = y[text.shape[0] :]
            return own[: given["target"].shape[0]] if self.kind == "joint" else own

        x = single(last, x, single_mod, rope, attend, targets)  # (L, D)
        scale, shift = self._rows(m.norm_out(time), given, "target_sequence")
        velocity: Tensor = m.proj_out(adaln(x, shift, scale, m.config.eps))
        return velocity

    def _double(
        self,
        block: DoubleBlock,
        text: Tensor,
        image: Tensor,
        mods: tuple[Parts, Parts],
        ropes: tuple[Parts, Parts],
        attend: Attend,
        given: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        attn, eps = block.attn, block.eps
        t_shift, t_scale, t_gate, t_shift_ff, t_scale_ff, t_gate_ff = mods[0]
        shift, scale, gate, shift_ff, scale_ff, gate_ff = mods[1]
        x = adaln(text, t_shift, t_scale, eps)
        text_qkv = heads(attn.head_dim, attn.add_q_proj(x), attn.add_k_proj(x), attn.add_v_proj(x))
        text_qkv = norm_rope(text_qkv, attn.norm_added_q, attn.norm_added_k, ropes[0])
        x = adaln(image, shift, scale, eps)
        image_qkv = heads(attn.head_dim, attn.to_q(x), attn.to_k(x), attn.to_v(x))
        image_qkv = norm_rope(image_qkv, attn.norm_q, attn.norm_k, ropes[1])
        q, key, value = (self._join(a, b, given) for a, b in zip(text_qkv, image_qkv, strict=True))  # (T, H, E)
        out = attend(q, key, value).flatten(1)
        text_out, image_out = self._split(out, text.shape[0], given)
        text = text + t_gate * attn.to_add_out(text_out)
        text = text + t_gate_ff * feed_forward(block.ff_context, adaln(text, t_shift_ff, t_scale_ff, eps))
        image = image + gate * attn.to_out[0](image_out)
        return text, image + gate_ff * feed_forward(block.ff, adaln(image, shift_ff, scale_ff, eps))

    def _attend(
        self,
        q: Tensor,
        key: Tensor,
        value: Tensor,
        prefix: tuple[Tensor, Tensor] | None,
        given: dict[str, Tensor],
        last: bool,
    ) -> Tensor:
        """`(T, H, E)`, of the last layer `(L, H, E)`; a prefix is attended before a sequence's own keys."""
        if not self.packed:
            if prefix is not None:
                key, value = torch.cat((prefix[0], key)), torch.cat((prefix[1], value))
            return attention(q, key, value, None)
        cu, tiles = (given["target_cu"], given["target_tiles"]) if last else (given["cu_seqlens"], given["tiles"])
        out: Tensor
        if prefix is None:
            out = packed_attention(q, key, value, cu, given["cu_seqlens"], tiles)
        else:
            out = prefixed_attention(q, key, value, *prefix, cu, given["cu_seqlens"], given["prefix_cu"], tiles)
        return out

    def _join(self, text: Tensor, image: Tensor, given: dict[str, Tensor]) -> Tensor:
        both = torch.cat((text, image))
        return both.index_select(0, given["joint_rows"]) if self.packed else both

    def _split(self, x: Tensor, text: int, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        if self.packed:
            return x.index_select(0, given["text_rows"]), x.index_select(0, given["image_rows"])
        return x[:text], x[text:]

    def _rows(self, parts: Parts, given: dict[str, Tensor], sequence: str) -> Parts:
        """`(N, D)` parts a token `(T, D)`; a single sequence's `(1, D)` broadcast by themselves."""
        return tuple(part.index_select(0, given[sequence]) for part in parts) if self.packed else parts


def _double_blocks(model: MMDiT) -> Sequence[DoubleBlock]:
    return cast("Sequence[DoubleBlock]", model.transformer_blocks)


def _single_blocks(model: MMDiT) -> Sequence[SingleBlock]:
    return cast("Sequence[SingleBlock]", model.single_transformer_blocks)


def _rope_ports(name: str, tokens: str, half: int) -> list[Port]:
    return [Port(f"{name}_{part}", "float32", (tokens, half)) for part in ("cos", "sin")]


def _kv_names(layers: int) -> tuple[str, ...]:
    return (*(f"key_{i}" for i in range(layers)), *(f"value_{i}" for i in range(layers)))
