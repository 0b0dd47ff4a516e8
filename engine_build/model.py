"""The MMDiT of the FLUX.2 family, over packed sequences, with three kinds of reference attention.

Parameter names are those of diffusers' Flux2Transformer2DModel, so its files load without renaming.
All maths of a block goes through a `Kernels` object that the caller chooses.

Letters: T tokens of a stream, N sequences, D width, H heads, E head size, P reference tokens.

Reference attention (a property of a checkpoint):
    joint     references are part of the joint sequence, at the target's sigma.
    shared    references of a request attend each other only, at sigma 0; text and target attend all.
    isolated  each reference attends itself only, at sigma 0; text and target attend all.
In the last two, references never see text or target, so they are encoded first, once
(`encode_references`), and their keys and values are a prefix of the main pass.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine_build.config import ModelConfig
from engine_build.packing import PackedBatch
from kernels import Kernels, Segments, select
from kernels.segments import join, split

Rope = tuple[Tensor, Tensor]  # cos, sin: (T, E/2) float32


@dataclass(frozen=True)
class ReferenceKV:
    """Keys and values of reference tokens in every layer: `layers` tensors `(P, H, E)` each.

    Keys are RMS-normed and rotated on all four axes; `slots` holds, per reference, the t-coordinate that
    was applied. RoPE angles add, so a reference encoded by itself at t = 0 serves any slot:
    `MMDiT.place` turns its keys by the difference on the t axis only.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    segments: Segments
    counts: tuple[int, ...]
    slots: Tensor

    @property
    def group_segments(self) -> Segments:
        """Reference tokens per request."""
        return self.segments.grouped(self.counts)

    @property
    def bytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in (*self.keys, *self.values))

    def single(self) -> "list[ReferenceKV]":
        """One entry per reference, views into this one. Independent only in `isolated` checkpoints."""
        keys = [k.split(self.segments.lengths) for k in self.keys]
        values = [v.split(self.segments.lengths) for v in self.values]
        return [
            ReferenceKV(
                tuple(k[i] for k in keys),
                tuple(v[i] for v in values),
                Segments((length,)),
                (1,),
                self.slots[i : i + 1],
            )
            for i, length in enumerate(self.segments.lengths)
        ]

    @staticmethod
    def join(requests: "list[list[ReferenceKV]]") -> "ReferenceKV":
        """The references of several requests as one. Raises ValueError when there is none at all."""
        parts = [part for request in requests for part in request]
        if not parts:
            raise ValueError("no references to join")
        return ReferenceKV(
            tuple(torch.cat(layer) for layer in zip(*(p.keys for p in parts), strict=True)),
            tuple(torch.cat(layer) for layer in zip(*(p.values for p in parts), strict=True)),
            Segments(tuple(n for p in parts for n in p.segments.lengths)),
            tuple(sum(len(p.segments) for p in request) for request in requests),
            torch.cat([p.slots for p in parts]),
        )


@dataclass(frozen=True)
class Prefix:
    """What the main pass attends besides itself: a ReferenceKV and how many sequences share a group."""

    kv: ReferenceKV
    segments: Segments
    draws: int

    def layer(self, index: int) -> dict[str, object]:
        """Keyword arguments of `kernels.attention` for one layer."""
        return {
            "prefix_k": self.kv.keys[index],
            "prefix_v": self.kv.values[index],
            "prefix_segments": self.segments,
            "draws": self.draws,
        }


class MMDiT(nn.Module):
    """The whole model: packed tokens in, velocity of the target tokens out."""

    def __init__(self, config: ModelConfig, kernels: Kernels | None = None) -> None:
        super().__init__()
        d = config.width
        self.config = config
        self.kernels = kernels or select("torch")
        self.time_guidance_embed = TimeEmbedding(config)
        self.double_stream_modulation_img = Modulation(d, 6)
        self.double_stream_modulation_txt = Modulation(d, 6)
        self.single_stream_modulation = Modulation(d, 3)
        self.x_embedder = nn.Linear(config.in_channels, d, bias=False)
        self.context_embedder = nn.Linear(config.joint_attention_dim, d, bias=False)
        self.transformer_blocks = nn.ModuleList(DoubleBlock(config) for _ in range(config.num_layers))
        self.single_transformer_blocks = nn.ModuleList(
            SingleBlock(config) for _ in range(config.num_single_layers)
        )
        self.norm_out = Modulation(d, 2)
        self.proj_out = nn.Linear(d, config.output_channels, bias=False)

    @property
    def dtype(self) -> torch.dtype:
        return self.x_embedder.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.x_embedder.weight.device

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Weights for training from scratch: Xavier, with modulation and output zero (AdaLN-zero)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
            elif isinstance(module, nn.RMSNorm):
                nn.init.ones_(module.weight)
        for module in (*self._modulations(), self.norm_out):
            nn.init.zeros_(module.linear.weight)
        nn.init.zeros_(self.proj_out.weight)

    def forward(self, batch: PackedBatch, reference_kv: ReferenceKV | None = None) -> Tensor:
        """Velocity `(sum L, output channels)` of the target tokens, in the batch's order.

        Without `reference_kv`, references in the batch are encoded in the same pass, with gradients. With
        it, the batch's own references are ignored and must be the ones that were encoded; each of its groups
        serves `batch.draws` consecutive sequences. Raises ValueError when the groups do not fit.
        """
        if self.config.reference_attention == "joint":
            if reference_kv is not None:
                raise ValueError("a joint checkpoint has no reference K/V: references attend the target")
            if batch.draws != 1:
                raise ValueError("draws cannot share references in a joint checkpoint")
            return self._main(batch, batch.group_segments, None)
        if reference_kv is None and batch.reference_segments.total:
            reference_kv = self.encode_references(batch)
        nothing = Segments((0,) * len(batch))
        if reference_kv is None:
            return self._main(batch, nothing, None)
        groups = reference_kv.group_segments
        if len(batch) % len(groups):
            raise ValueError(
                f"{len(batch)} sequences do not divide into the {len(groups)} groups of reference_kv"
            )
        return self._main(batch, nothing, Prefix(reference_kv, groups, len(batch) // len(groups)))

    def encode_references(self, batch: PackedBatch, place: bool = True) -> ReferenceKV:
        """Keys and values of the batch's references, differentiable, independent of text and target.

        `isolated` encodes at t = 0 and then places at the ids' t; with place=False it stays at t = 0, the
        form to keep across requests. Raises ValueError for `joint`, for no references, and for `shared`
        with place=False, whose references see each other's slots.
        """
        c, k = self.config, self.kernels
        if c.reference_attention == "joint":
            raise ValueError("a joint checkpoint cannot encode references by themselves")
        if not batch.reference_segments.total:
            raise ValueError("the batch has no references")
        isolated = c.reference_attention == "isolated"
        if not isolated and not place:
            raise ValueError("shared references depend on their slots and cannot be kept without them")
        starts = torch.tensor(batch.reference_segments.offsets[:-1], device=batch.reference_ids.device)
        slots = batch.reference_ids[starts.clamp(max=batch.reference_segments.total - 1), 0]
        ids = batch.reference_ids
        if isolated:
            ids = torch.cat((torch.zeros_like(ids[:, :1]), ids[:, 1:]), dim=1)
        rope = rope_table(ids, c)
        attended = batch.reference_segments if isolated else batch.group_segments
        everything = Segments((batch.reference_segments.total,))
        time = self.time_guidance_embed(batch.sigma.new_zeros(1), None)  # (1, D)
        image_mod = self.double_stream_modulation_img(time)
        single_mod = self.single_stream_modulation(time)
        x = self.x_embedder(batch.references.to(self.dtype))  # (P, D)
        keys, values = [], []
        for block in self.transformer_blocks:
            x, key, value = block.references(
                x, image_mod, rope, everything, attended, k
            )  # (P, D), (P, H, E) twice
            keys.append(key)
            values.append(value)
        for block in self.single_transformer_blocks:
            x, key, value = block(x, single_mod, rope, everything, attended, k, {})
            keys.append(key)
            values.append(value)
        at = torch.zeros_like(slots) if isolated else slots
        kv = ReferenceKV(tuple(keys), tuple(values), batch.reference_segments, batch.reference_counts, at)
        return self.place(kv, slots) if isolated and place else kv

    def place(self, kv: ReferenceKV, slots: Tensor) -> ReferenceKV:
        """The same references at other t-coordinates `(R,)`. Raises ValueError for another number of them."""
        if slots.shape != kv.slots.shape:
            raise ValueError(f"{tuple(slots.shape)} slots for {len(kv.segments)} references")
        size = self.config.axes_dims_rope[0]
        delta = kv.segments.per_token((slots - kv.slots).double())
        cos, sin = _axis_table(delta, size, self.config.rope_theta)
        keys = tuple(
            torch.cat((self.kernels.rope(k[..., :size], cos, sin), k[..., size:]), dim=-1) for k in kv.keys
        )
        return replace(kv, keys=keys, slots=slots)

    def _main(self, batch: PackedBatch, reference_segments: Segments, prefix: Prefix | None) -> Tensor:
        """Text, target and (joint mode) references through all blocks."""
        c, k = self.config, self.kernels
        text_s, target_s = batch.text_segments, batch.target_segments
        image_s = target_s.plus(reference_segments)
        joint_s = text_s.plus(image_s)
        references, reference_ids = batch.references, batch.reference_ids
        if not reference_segments.total:
            references, reference_ids = references[:0], reference_ids[:0]

        time = self.time_guidance_embed(batch.sigma, batch.guidance)  # (N, D)
        image_mod = self.double_stream_modulation_img(time)  # 6 x (N, D)
        text_mod = self.double_stream_modulation_txt(time)
        single_mod = self.single_stream_modulation(time)
        image_ids = join(batch.target_ids, target_s, reference_ids, reference_segments)
        image_rope = rope_table(image_ids, c)
        text_rope = rope_table(batch.text_ids, c)
        joint_rope = (
            join(text_rope[0], text_s, image_rope[0], image_s),
            join(text_rope[1], text_s, image_rope[1], image_s),
        )
        image = join(batch.target.to(self.dtype), target_s, references.to(self.dtype), reference_segments)
        image = self.x_embedder(image)  # (Ti, D)
        text = self.context_embedder(batch.text.to(self.dtype))  # (Tt, D)

        layer = 0
        for block in self.transformer_blocks:
            streams = Streams(text_mod, image_mod, text_rope, image_rope, text_s, image_s)
            text, image = block(text, image, streams, k, prefix.layer(layer) if prefix else {})
            layer += 1
        x = join(text, text_s, image, image_s)  # (T, D)
        for block in self.single_transformer_blocks:
            x, _, _ = block(
                x, single_mod, joint_rope, joint_s, joint_s, k, prefix.layer(layer) if prefix else {}
            )
            layer += 1
        _, x = split(x, text_s, image_s)
        x, _ = split(x, target_s, reference_segments)  # (sum L, D)
        scale, shift = self.norm_out(time)
        return self.proj_out(k.adaln(x, shift, scale, target_s, c.eps))  # (sum L, C)

    def _modulations(self) -> tuple["Modulation", ...]:
        return (
            self.double_stream_modulation_img,
            self.double_stream_modulation_txt,
            self.single_stream_modulation,
        )


@dataclass(frozen=True)
class Streams:
    """Modulation, RoPE and segments of the two streams of a double block."""

    text_mod: tuple[Tensor, ...]
    image_mod: tuple[Tensor, ...]
    text_rope: Rope
    image_rope: Rope
    text: Segments
    image: Segments


class DoubleBlock(nn.Module):
    """Text and image with their own weights, one attention over both."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.attn = JointAttention(config)
        self.ff = FeedForward(config)
        self.ff_context = FeedForward(config)

    def forward(
        self, text: Tensor, image: Tensor, s: Streams, k: Kernels, prefix: dict[str, object]
    ) -> tuple[Tensor, Tensor]:
        t_shift, t_scale, t_gate, t_shift_ff, t_scale_ff, t_gate_ff = s.text_mod
        shift, scale, gate, shift_ff, scale_ff, gate_ff = s.image_mod
        tq, tk, tv = self.attn.text_qkv(k.adaln(text, t_shift, t_scale, s.text, self.eps), s.text_rope, k)
        iq, ik, iv = self.attn.image_qkv(k.adaln(image, shift, scale, s.image, self.eps), s.image_rope, k)
        q, key, v = (join(a, s.text, b, s.image) for a, b in ((tq, iq), (tk, ik), (tv, iv)))  # (T, H, E)
        out = k.attention(q, key, v, s.text.plus(s.image), **prefix).flatten(1)  # (T, D)
        text_out, image_out = split(out, s.text, s.image)
        text = k.gated_residual(text, self.attn.to_add_out(text_out), t_gate, s.text)
        text_ff = self.ff_context(k.adaln(text, t_shift_ff, t_scale_ff, s.text, self.eps), k)
        text = k.gated_residual(text, text_ff, t_gate_ff, s.text)  # (Tt, D)
        image = k.gated_residual(image, self.attn.to_out[0](image_out), gate, s.image)
        image_ff = self.ff(k.adaln(image, shift_ff, scale_ff, s.image, self.eps), k)
        return text, k.gated_residual(image, image_ff, gate_ff, s.image)  # (Tt, D), (Ti, D)

    def references(
        self,
        x: Tensor,
        modulation: tuple[Tensor, ...],
        rope: Rope,
        modulated: Segments,
        attended: Segments,
        k: Kernels,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The image stream alone: new `(P, D)`, and the keys and values `(P, H, E)` it attended."""
        shift, scale, gate, shift_ff, scale_ff, gate_ff = modulation
        q, key, v = self.attn.image_qkv(k.adaln(x, shift, scale, modulated, self.eps), rope, k)
        out = k.attention(q, key, v, attended).flatten(1)
        x = k.gated_residual(x, self.attn.to_out[0](out), gate, modulated)
        ff = self.ff(k.adaln(x, shift_ff, scale_ff, modulated, self.eps), k)
        return k.gated_residual(x, ff, gate_ff, modulated), key, v


class SingleBlock(nn.Module):
    """One stream; attention and MLP in parallel from one projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.attn = ParallelAttention(config)

    def forward(
        self,
        x: Tensor,
        modulation: tuple[Tensor, ...],
        rope: Rope,
        modulated: Segments,
        attended: Segments,
        k: Kernels,
        prefix: dict[str, object],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """New `(T, D)`, and the block's own keys and values `(T, H, E)`."""
        shift, scale, gate = modulation
        q, key, v, mlp = self.attn.project(k.adaln(x, shift, scale, modulated, self.eps), rope, k)
        out = k.attention(q, key, v, attended, **prefix).flatten(1)  # (T, D)
        out = self.attn.to_out(torch.cat((out, k.swiglu(mlp)), dim=-1))  # (T, D)
        return k.gated_residual(x, out, gate, modulated), key, v


class JointAttention(nn.Module):
    """Projections of a double block: plain names for the image, `add` names for the text."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, e = config.width, config.attention_head_dim
        self.head_dim, self.eps = e, config.eps
        self.to_q = nn.Linear(d, d, bias=False)
        self.to_k = nn.Linear(d, d, bias=False)
        self.to_v = nn.Linear(d, d, bias=False)
        self.norm_q = nn.RMSNorm(e, eps=config.eps)
        self.norm_k = nn.RMSNorm(e, eps=config.eps)
        self.to_out = nn.ModuleList([nn.Linear(d, d, bias=False)])
        self.norm_added_q = nn.RMSNorm(e, eps=config.eps)
        self.norm_added_k = nn.RMSNorm(e, eps=config.eps)
        self.add_q_proj = nn.Linear(d, d, bias=False)
        self.add_k_proj = nn.Linear(d, d, bias=False)
        self.add_v_proj = nn.Linear(d, d, bias=False)
        self.to_add_out = nn.Linear(d, d, bias=False)

    def image_qkv(self, x: Tensor, rope: Rope, k: Kernels) -> tuple[Tensor, Tensor, Tensor]:
        q, key, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.to_q, self.to_k, self.to_v))
        q, key = k.qk_norm_rope(q, key, self.norm_q.weight, self.norm_k.weight, *rope, self.eps)
        return q, key, v

    def text_qkv(self, x: Tensor, rope: Rope, k: Kernels) -> tuple[Tensor, Tensor, Tensor]:
        projections = (self.add_q_proj, self.add_k_proj, self.add_v_proj)
        q, key, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in projections)
        q, key = k.qk_norm_rope(q, key, self.norm_added_q.weight, self.norm_added_k.weight, *rope, self.eps)
        return q, key, v


class ParallelAttention(nn.Module):
    """Projections of a single block: q, k, v and both MLP halves in one, attention and MLP out in one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, m, e = config.width, config.mlp_width, config.attention_head_dim
        self.widths, self.head_dim, self.eps = (d, d, d, 2 * m), e, config.eps
        self.to_qkv_mlp_proj = nn.Linear(d, 3 * d + 2 * m, bias=False)
        self.norm_q = nn.RMSNorm(e, eps=config.eps)
        self.norm_k = nn.RMSNorm(e, eps=config.eps)
        self.to_out = nn.Linear(d + m, d, bias=False)

    def project(self, x: Tensor, rope: Rope, k: Kernels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v `(T, H, E)` and the MLP's input `(T, 2M)`."""
        q, key, v, mlp = self.to_qkv_mlp_proj(x).split(self.widths, dim=-1)
        q, key, v = (y.unflatten(-1, (-1, self.head_dim)) for y in (q, key, v))
        q, key = k.qk_norm_rope(q, key, self.norm_q.weight, self.norm_k.weight, *rope, self.eps)
        return q, key, v, mlp


class FeedForward(nn.Module):
    """SwiGLU MLP with both halves in one projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.linear_in = nn.Linear(config.width, 2 * config.mlp_width, bias=False)
        self.linear_out = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor, k: Kernels) -> Tensor:
        return self.linear_out(k.swiglu(self.linear_in(x)))


class Modulation(nn.Module):
    """`parts` rows `(N, D)` from the time embedding `(N, D)`."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width, bias=False)

    def forward(self, time: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(time)).chunk(self.parts, dim=-1)


class TimeEmbedding(nn.Module):
    """Time embedding `(N, D)` of sigma `(N,)`, plus the guidance scale's where the model has one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.channels = config.timestep_guidance_channels
        self.timestep_embedder = TimestepMLP(self.channels, config.width)
        self.guidance_embedder = TimestepMLP(self.channels, config.width) if config.guidance_embeds else None

    def forward(self, sigma: Tensor, guidance: Tensor | None) -> Tensor:
        time = self._embed(self.timestep_embedder, sigma)
        if self.guidance_embedder is None or guidance is None:
            return time
        return time + self._embed(self.guidance_embedder, guidance)

    def _embed(self, mlp: "TimestepMLP", value: Tensor) -> Tensor:
        dtype = mlp.linear_1.weight.dtype
        return mlp(sinusoid(value.to(dtype) * 1000, self.channels).to(dtype))


class TimestepMLP(nn.Module):
    """Two linear layers around a SiLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, width, bias=False)
        self.linear_2 = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


def sinusoid(timestep: Tensor, channels: int) -> Tensor:
    """Cosines then sines `(N, channels)` float32 of a timestep `(N,)`, periods up to 10,000."""
    half = channels // 2
    exponent = torch.arange(half, dtype=torch.float32, device=timestep.device) * (-math.log(10_000) / half)
    angle = timestep.float()[:, None] * exponent.exp()
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


def rope_table(ids: Tensor, config: ModelConfig) -> Rope:
    """cos and sin `(T, E/2)` float32 of RoPE ids `(T, 4)`; angles in float64."""
    tables = [
        _axis_table(ids[:, axis].double(), size, config.rope_theta)
        for axis, size in enumerate(config.axes_dims_rope)
    ]
    return torch.cat([cos for cos, _ in tables], dim=-1), torch.cat([sin for _, sin in tables], dim=-1)


def _axis_table(position: Tensor, size: int, theta: int) -> Rope:
    frequency = 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.float64, device=position.device) / size)
    angle = position[:, None] * frequency
    return angle.cos().float(), angle.sin().float()
