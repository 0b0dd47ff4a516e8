"""The model's parts as graphs of tensors alone, in the form that ONNX and TensorRT want.

The MMDiT here is the one of `engine_build.model`, weights shared, with everything that depends on lengths
turned into inputs: RoPE tables, row indices that lay several sequences next to each other, cumulative lengths. So
one graph serves every mixture of sizes. `kind` names what a graph does:

    joint       text, target and references, all attending all (`joint` checkpoints)
    references  references to keys and values of every layer (`shared` and `isolated`)
    first       both in one: velocity, keys and values
    cached      text and target, attending keys and values that came before

Attention is either ONNX's own operator, one sequence a call, or `changeroom::packed_attention`, many.

Letters: T tokens, Lt text, L target, P reference tokens, N sequences, R segments of references, G query tiles,
D width, H heads, E head size, C channels, Dt text width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine_build.config import ModelConfig
from engine_build.model import DoubleBlock, MMDiT, SingleBlock
from engine_build.tensorrt.operators import packed_attention, prefixed_attention

Kind = Literal["joint", "references", "first", "cached"]
Attention = Literal["standard", "plugin"]
Parts = tuple[Tensor, ...]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Port:
    """One input or output: its dtype name and its axes, numbers or names of sizes that vary."""

    name: str
    dtype: Literal["float32", "model", "int32", "int64", "bool"]
    axes: tuple[int | str, ...]


def kinds_of(config: ModelConfig) -> tuple[Kind, ...]:
    """The graphs an engine needs for a checkpoint's reference attention; `first` is for callers without a cache."""
    return ("joint",) if config.reference_attention == "joint" else ("references", "cached")


class DitGraph(nn.Module):
    """One graph of an MMDiT. Call it with tensors in the order of `inputs`; it returns those of `outputs`."""

    def __init__(self, model: MMDiT, kind: Kind, attention: Attention) -> None:
        super().__init__()
        self.model, self.kind, self.packed = model, kind, attention == "plugin"
        self.inputs = self._inputs()
        self.outputs = self._outputs()

    def forward(self, *tensors: Tensor) -> Parts:
        given = {port.name: tensor for port, tensor in zip(self.inputs, tensors, strict=True)}
        if self.kind == "references":
            return self._references(given)
        if self.kind == "first":
            kv = self._references(given)
            return (self._main(given, kv), *kv)
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
        if self.kind != "cached":
            ports.append(Port("references", "float32", ("P", channels)))
        if self.kind == "joint" and self.packed:
            ports += [Port("stream_rows", "int64", ("Ti",)), Port("target_rows", "int64", ("L",))]
        if self.kind in ("references", "first"):
            ports += _rope_ports("reference", "P", half)
            if self.packed:
                ports += [Port("reference_cu", "int32", ("R1",)), Port("reference_tiles", "int32", ("Gr", 2))]
            elif c.reference_attention == "isolated":
                ports.append(Port("reference_mask", "bool", (1, 1, "P", "P")))
        if self.kind in ("first", "cached") and self.packed:
            ports.append(Port("prefix_cu", "int32", ("M1",)))
        if self.kind == "cached":
            ports += self._kv_ports()
        return tuple(ports)

    def _outputs(self) -> tuple[Port, ...]:
        velocity = (Port("velocity", "model", ("L", self.model.config.output_channels)),)
        if self.kind == "references":
            return self._kv_ports()
        return (*velocity, *self._kv_ports()) if self.kind == "first" else velocity

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
                return packed_attention(q, key, value, given["reference_cu"], given["reference_tiles"])
            return _attention(q, key, value, given.get("reference_mask"))

        for block in m.transformer_blocks:
            x = _image_alone(block, x, image_mod, rope, attend)
        for block in m.single_transformer_blocks:
            x = _single(block, x, single_mod, rope, attend)
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
            return self._attend(q, key, value, prefix, given)

        for block in m.transformer_blocks:
            mods, ropes = (text_mod, image_mod), (text_rope, image_rope)
            text, image = self._double(block, text, image, mods, ropes, attend, given)
        x = self._join(text, image, given)  # (T, D)
        rope = tuple(self._join(a, b, given) for a, b in zip(text_rope, image_rope, strict=True))
        sequence = self._join(given["text_sequence"], given["image_sequence"], given) if self.packed else None
        single_mod = tuple(
            part if sequence is None else part.index_select(0, sequence) for part in m.single_stream_modulation(time)
        )
        for block in m.single_transformer_blocks:
            x = _single(block, x, single_mod, rope, attend)
        x = self._split(x, text.shape[0], given)[1]
        scale, shift = self._rows(m.norm_out(time), given, "image_sequence")
        x = _adaln(x, shift, scale, m.config.eps)
        if self.kind == "joint":
            x = x.index_select(0, given["target_rows"]) if self.packed else x[: given["target"].shape[0]]
        return m.proj_out(x)

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
        x = _adaln(text, t_shift, t_scale, eps)
        text_qkv = _heads(attn.head_dim, attn.add_q_proj(x), attn.add_k_proj(x), attn.add_v_proj(x))
        text_qkv = _norm_rope(text_qkv, attn.norm_added_q, attn.norm_added_k, ropes[0])
        x = _adaln(image, shift, scale, eps)
        image_qkv = _heads(attn.head_dim, attn.to_q(x), attn.to_k(x), attn.to_v(x))
        image_qkv = _norm_rope(image_qkv, attn.norm_q, attn.norm_k, ropes[1])
        q, key, value = (self._join(a, b, given) for a, b in zip(text_qkv, image_qkv, strict=True))  # (T, H, E)
        out = attend(q, key, value).flatten(1)
        text_out, image_out = self._split(out, text.shape[0], given)
        text = text + t_gate * attn.to_add_out(text_out)
        text = text + t_gate_ff * _feed_forward(block.ff_context, _adaln(text, t_shift_ff, t_scale_ff, eps))
        image = image + gate * attn.to_out[0](image_out)
        return text, image + gate_ff * _feed_forward(block.ff, _adaln(image, shift_ff, scale_ff, eps))

    def _attend(
        self, q: Tensor, key: Tensor, value: Tensor, prefix: tuple[Tensor, Tensor] | None, given: dict[str, Tensor]
    ) -> Tensor:
        """`(T, H, E)`; a prefix is attended before a sequence's own keys."""
        if not self.packed:
            if prefix is not None:
                key, value = torch.cat((prefix[0], key)), torch.cat((prefix[1], value))
            return _attention(q, key, value, None)
        if prefix is None:
            return packed_attention(q, key, value, given["cu_seqlens"], given["tiles"])
        return prefixed_attention(q, key, value, *prefix, given["cu_seqlens"], given["prefix_cu"], given["tiles"])

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


class TextGraph(nn.Module):
    """Token ids and mask `(1, Lt)` to the hidden states `(1, Lt, D)` of the layers in use."""

    def __init__(self, model: nn.Module, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.layers = model, layers
        width = model.config.hidden_size
        self.inputs = (Port("ids", "int64", (1, "Lt")), Port("mask", "int64", (1, "Lt")))
        self.outputs = tuple(Port(f"state_{layer}", "model", (1, "Lt", width)) for layer in layers)

    def forward(self, ids: Tensor, mask: Tensor) -> Parts:
        states = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        return tuple(states.hidden_states[layer] for layer in self.layers)


class VaeEncoderGraph(nn.Module):
    """Pixels `(B, 3, Y, X)` in [-1, 1] to the posterior's mean `(B, c, y, x)`."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae
        self.inputs = (Port("pixels", "model", ("B", 3, "Y", "X")),)
        self.outputs = (Port("latents", "model", ("B", vae.config.latent_channels, "y", "x")),)

    def forward(self, pixels: Tensor) -> Parts:
        moments = self.vae.encoder(pixels)
        if self.vae.quant_conv is not None:
            moments = self.vae.quant_conv(moments)
        return (moments.chunk(2, dim=1)[0],)


class VaeDecoderGraph(nn.Module):
    """Latents `(B, c, y, x)` to pixels `(B, 3, Y, X)` around [-1, 1]."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae
        self.inputs = (Port("latents", "model", ("B", vae.config.latent_channels, "y", "x")),)
        self.outputs = (Port("pixels", "model", ("B", 3, "Y", "X")),)

    def forward(self, latents: Tensor) -> Parts:
        if self.vae.post_quant_conv is not None:
            latents = self.vae.post_quant_conv(latents)
        return (self.vae.decoder(latents),)


def _rope_ports(name: str, tokens: str, half: int) -> list[Port]:
    return [Port(f"{name}_{part}", "float32", (tokens, half)) for part in ("cos", "sin")]


def _kv_names(layers: int) -> tuple[str, ...]:
    return (*(f"key_{i}" for i in range(layers)), *(f"value_{i}" for i in range(layers)))


def _adaln(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return (1 + scale) * F.layer_norm(x, x.shape[-1:], eps=eps) + shift


def _feed_forward(block: nn.Module, x: Tensor) -> Tensor:
    return block.linear_out(_swiglu(block.linear_in(x)))


def _swiglu(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def _heads(size: int, *parts: Tensor) -> Parts:
    return tuple(part.unflatten(-1, (-1, size)) for part in parts)


def _norm_rope(qkv: Parts, norm_q: nn.RMSNorm, norm_k: nn.RMSNorm, rope: Parts) -> Parts:
    q, key, value = qkv
    return _rotate(norm_q(q), *rope), _rotate(norm_k(key), *rope), value


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Interleaved pairs `(T, H, E)` turned by cos, sin `(T, E/2)`, in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)


def _attention(q: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """One sequence `(T, H, E)`."""
    q, key, value = (x.transpose(0, 1)[None] for x in (q, key, value))
    return F.scaled_dot_product_attention(q, key, value, attn_mask=mask)[0].transpose(0, 1)


def _image_alone(block: DoubleBlock, x: Tensor, modulation: Parts, rope: Parts, attend: Attend) -> Tensor:
    """The image stream of a double block, for references."""
    attn, eps = block.attn, block.eps
    shift, scale, gate, shift_ff, scale_ff, gate_ff = modulation
    y = _adaln(x, shift, scale, eps)
    qkv = _norm_rope(_heads(attn.head_dim, attn.to_q(y), attn.to_k(y), attn.to_v(y)), attn.norm_q, attn.norm_k, rope)
    x = x + gate * attn.to_out[0](attend(*qkv).flatten(1))
    return x + gate_ff * _feed_forward(block.ff, _adaln(x, shift_ff, scale_ff, eps))


def _single(block: SingleBlock, x: Tensor, modulation: Parts, rope: Parts, attend: Attend) -> Tensor:
    attn = block.attn
    shift, scale, gate = modulation
    projected = attn.to_qkv_mlp_proj(_adaln(x, shift, scale, block.eps))
    width = attn.to_out.out_features
    *qkv, mlp = projected.split((width, width, width, projected.shape[-1] - 3 * width), dim=-1)
    qkv = _norm_rope(_heads(attn.head_dim, *qkv), attn.norm_q, attn.norm_k, rope)
    out = attend(*qkv).flatten(1)
    return x + gate * attn.to_out(torch.cat((out, _swiglu(mlp)), dim=-1))
