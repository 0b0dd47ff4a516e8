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

A pass has two halves: `prepare` makes what stays the same from step to step, `velocity` is one step. After
`kernels.fp8.convert` the blocks' linears are FP8, and the kernels before them hand over quantised rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine_build.config import ModelConfig
from engine_build.model.adapted_linear import Adapting, plain, some
from engine_build.model.packing import PackedBatch
from engine_build.model.reference_kv import Prefix, ReferenceKV, Rope, StepConstants
from kernels import Kernels, Route, Segments, select
from kernels.fp8 import Fp8Linear, Quantised, Rows
from kernels.segments import Heads, Interleaved


class MMDiT(nn.Module):
    """The whole model: packed tokens in, velocity of the target tokens out."""

    def __init__(self, config: ModelConfig, kernels: Kernels | None = None) -> None:
        super().__init__()
        d = config.width
        self.config = config
        self.kernels = kernels or select("torch")
        self.adapting: Adapting | None = None  # what its adapted linears share, once there are any
        self.time_guidance_embed = TimeEmbedding(config)
        self.double_stream_modulation_img = Modulation(d, 6)
        self.double_stream_modulation_txt = Modulation(d, 6)
        self.single_stream_modulation = Modulation(d, 3)
        self.x_embedder = nn.Linear(config.in_channels, d, bias=False)
        self.context_embedder = nn.Linear(config.joint_attention_dim, d, bias=False)
        self.transformer_blocks = nn.ModuleList(DoubleBlock(config) for _ in range(config.num_layers))
        self.single_transformer_blocks = nn.ModuleList(SingleBlock(config) for _ in range(config.num_single_layers))
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

        Each sequence, with its references, goes through the adapters that the batch's route gives it.
        Without `reference_kv`, references in the batch are encoded in the same pass, with gradients. With
        it, the batch's own references are ignored and must be the ones that were encoded; each of its groups
        serves `batch.draws` consecutive sequences. Raises ValueError when the groups do not fit.
        """
        return self.velocity(self.prepare(batch, reference_kv), batch.target, batch.sigma)

    def prepare(self, batch: PackedBatch, reference_kv: ReferenceKV | None = None) -> StepConstants:
        """All of a pass that depends neither on the target's tokens nor on sigma. Raises as `forward`."""
        joint = self.config.reference_attention == "joint"
        if joint and reference_kv is not None:
            raise ValueError("a joint checkpoint has no reference K/V: references attend the target")
        if joint and batch.draws != 1:
            raise ValueError("draws cannot share references in a joint checkpoint")
        if not joint and reference_kv is None and batch.reference_segments.total:
            reference_kv = self.encode_references(batch)
        prefix = None
        if reference_kv is not None:
            groups = reference_kv.group_segments
            if len(batch) % len(groups):
                raise ValueError(f"{len(batch)} sequences do not divide into the {len(groups)} groups of reference_kv")
            prefix = Prefix(reference_kv.keys, reference_kv.values, groups, len(batch) // len(groups))
        beside = batch.group_segments if joint else Segments((0,) * len(batch), batch.target_segments.fixed)
        references, ids = batch.references[: beside.total], batch.reference_ids[: beside.total]
        image = Interleaved(batch.target_segments, beside)
        whole = Interleaved(batch.text_segments, image.segments)
        text_rope = rope_table(batch.text_ids, self.config)
        image_rope = rope_table(image.join(batch.target_ids, ids), self.config)
        return StepConstants(
            text=self.context_embedder(batch.text.to(self.dtype)),
            references=self.x_embedder(references.to(self.dtype)),
            text_rope=text_rope,
            image_rope=image_rope,
            joint_rope=(whole.join(text_rope[0], image_rope[0]), whole.join(text_rope[1], image_rope[1])),
            image=image,
            joint=whole,
            prefix=prefix,
            guidance=batch.guidance,
            route=batch.route,
        )

    def velocity(self, constants: StepConstants, target: Tensor, sigma: Tensor) -> Tensor:
        """One step: target `(sum L, C)` at sigma `(N,)` to velocity `(sum L, output channels)`.

        Modulation is computed once for all blocks; the last block and the output only for the target's tokens.
        Starts no copy between host and device and waits for none.
        """
        c, k = self.config, self._producers
        joint = constants.joint
        self._adapt(
            constants.route, text=joint.first, image=joint.second, joint=joint.segments, target=constants.image.first
        )
        time = self.time_guidance_embed(sigma, constants.guidance)  # (N, D)
        image_mod = self.double_stream_modulation_img(time)  # 6 x (N, D)
        text_mod = self.double_stream_modulation_txt(time)
        single_mod = self.single_stream_modulation(time)
        text = constants.text  # (Tt, D)
        image = constants.image.join(self.x_embedder(target.to(self.dtype)), constants.references)  # (Ti, D)
        for i, double in enumerate(self._double_blocks):
            text, image = double(text, image, text_mod, image_mod, constants, k, constants.attending(i))
        x = joint.join(text, image)  # (T, D)
        *singles, last = self._single_blocks
        for i, single in enumerate(singles, len(self.transformer_blocks)):
            x = single(x, single_mod, constants.joint_rope, joint.segments, k, constants.attending(i))
        x = last.targets(x, single_mod, constants, k, constants.attending(c.layers - 1))  # (sum L, D)
        scale, shift = self.norm_out(time)
        made: Tensor = self.proj_out(self.kernels.adaln(x, shift, scale, constants.image.first, c.eps))  # (sum L, C)
        return made

    @property
    def _producers(self) -> Kernels:
        """The kernels of the blocks: those with FP8 outputs where the blocks' linears are FP8."""
        converted = isinstance(plain(self._single_blocks[0].attn.to_out), Fp8Linear)
        return self.kernels.quantising() if converted else self.kernels

    def _adapt(self, route: Route | None, **segments: Segments) -> None:
        """Tells the adapted linears what the pass that begins is made of. Raises ValueError when there are none."""
        if self.adapting is not None:
            self.adapting.enter(route, **segments)
        elif route is not None:
            raise ValueError("the batch goes through adapters, of which the model has none")

    def encode_references(self, batch: PackedBatch, place: bool = True) -> ReferenceKV:
        """Keys and values of the batch's references, differentiable, independent of text and target.

        `isolated` encodes at t = 0 and then places at the ids' t; with place=False it stays at t = 0, the
        form to keep across requests. Raises ValueError for `joint`, for no references, and for `shared`
        with place=False, whose references see each other's slots.
        """
        c, k = self.config, self._producers
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
        of_requests = None if batch.route is None else Route(batch.route.pairs[:: batch.draws], batch.route.width)
        self._adapt(of_requests, image=batch.group_segments, joint=batch.group_segments)
        time = self.time_guidance_embed(batch.sigma.new_zeros(1), None)  # (1, D)
        image_mod = self.double_stream_modulation_img(time)
        single_mod = self.single_stream_modulation(time)
        x = self.x_embedder(batch.references.to(self.dtype))  # (P, D)
        keys, values = [], []
        for double in self._double_blocks:
            x, key, value = double.references(x, image_mod, rope, everything, attended, k)  # (P, D), (P, H, E) twice
            keys.append(key)
            values.append(value)
        *singles, last = self._single_blocks
        for single in singles:
            x, key, value = single.references(x, single_mod, rope, everything, attended, k)
            keys.append(key)
            values.append(value)
        key, value = last.keys_values(x, single_mod, rope, everything, k)
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
        cos, sin = axis_table(delta, size, self.config.rope_theta)
        keys = tuple(torch.cat((self.kernels.rope(k[..., :size], cos, sin), k[..., size:]), dim=-1) for k in kv.keys)
        return replace(kv, keys=keys, slots=slots)

    @property
    def _double_blocks(self) -> Sequence[DoubleBlock]:
        return cast("Sequence[DoubleBlock]", self.transformer_blocks)

    @property
    def _single_blocks(self) -> Sequence[SingleBlock]:
        return cast("Sequence[SingleBlock]", self.single_transformer_blocks)

    def _modulations(self) -> tuple[Modulation, ...]:
        return (
            self.double_stream_modulation_img,
            self.double_stream_modulation_txt,
            self.single_stream_modulation,
        )


class DoubleBlock(nn.Module):
    """Text and image with their own weights, one attention over both."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.attn = JointAttention(config)
        self.ff = FeedForward(config)
        self.ff_context = FeedForward(config)

    def forward(
        self,
        text: Tensor,
        image: Tensor,
        text_mod: tuple[Tensor, ...],
        image_mod: tuple[Tensor, ...],
        constants: StepConstants,
        k: Kernels,
        prefix: dict[str, object],
    ) -> tuple[Tensor, Tensor]:
        text_s, image_s = constants.joint.first, constants.joint.second
        text_in = k.adaln(text, *text_mod[:2], text_s, self.eps)
        image_in = k.adaln(image, *image_mod[:2], image_s, self.eps)
        text_heads = self.attn.text_heads(text_in, constants.text_rope)
        image_heads = self.attn.image_heads(image_in, constants.image_rope)
        q, key, v = k.joint_qkv(text_heads, image_heads, constants.joint, self.eps)  # (T, H, E)
        out = k.attention(q, key, v, constants.joint.segments, **prefix).flatten(1)  # (T, D)
        text_out, image_out = constants.joint.split(out)
        text = self._finish(text, self.attn.to_add_out(k.feed(text_out)), text_mod, text_s, self.ff_context, k)
        image = self._finish(image, self.attn.to_out[0](k.feed(image_out)), image_mod, image_s, self.ff, k)
        return text, image  # (Tt, D), (Ti, D)

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
        normed = k.adaln(x, *modulation[:2], modulated, self.eps)
        q, key, v = k.cached_qkv(self.attn.image_heads(normed, rope), self.eps)
        out = self.attn.to_out[0](k.feed(k.attention(q, key, v, attended).flatten(1)))
        return self._finish(x, out, modulation, modulated, self.ff, k), key, v

    def _finish(
        self,
        x: Tensor,
        attended: Tensor,
        modulation: tuple[Tensor, ...],
        segments: Segments,
        ff: FeedForward,
        k: Kernels,
    ) -> Tensor:
        """A stream after its attention: gate, MLP, gate."""
        _, _, gate, shift, scale, gate_ff = modulation
        x, normed = k.residual_adaln(x, attended, gate, shift, scale, segments, self.eps)
        return k.gated_residual(x, ff(normed, k), gate_ff, segments)


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
        segments: Segments,
        k: Kernels,
        prefix: dict[str, object],
    ) -> Tensor:
        shift, scale, gate = modulation
        heads, mlp = self.attn.project(k.adaln(x, shift, scale, segments, self.eps), rope)
        q, key = k.qk_norm_rope(*heads.to_norm, self.eps)  # (T, H, E)
        out = k.attention(q, key, heads.v, segments, **prefix).flatten(1)  # (T, D)
        return k.gated_residual(x, self.attn.to_out(k.swiglu(mlp, out)), gate, segments)  # (T, D)

    def targets(
        self, x: Tensor, modulation: tuple[Tensor, ...], constants: StepConstants, k: Kernels, prefix: dict[str, object]
    ) -> Tensor:
        """`forward` for the target's tokens only, `(T, D)` to `(sum L, D)`: the others give keys and values."""
        shift, scale, gate = modulation
        joint_s, target_s = constants.joint.segments, constants.image.first
        normed = k.adaln(x, shift, scale, joint_s, self.eps)
        pick = constants.targets
        mlp = self.attn.mlp(normed.moved(pick) if isinstance(normed, Quantised) else pick(normed))
        heads = self.attn.heads(normed, constants.joint_rope)
        q, key = k.qk_norm_rope(*heads.to_norm, self.eps)  # (T, H, E)
        q = constants.targets(q)  # (sum L, H, E)
        out = k.attention(q, key, heads.v, target_s, key_segments=joint_s, **prefix).flatten(1)  # (sum L, D)
        return k.gated_residual(constants.targets(x), self.attn.to_out(k.swiglu(mlp, out)), gate, target_s)

    def references(
        self,
        x: Tensor,
        modulation: tuple[Tensor, ...],
        rope: Rope,
        modulated: Segments,
        attended: Segments,
        k: Kernels,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """New `(P, D)`, and the keys and values `(P, H, E)` it attended."""
        shift, scale, gate = modulation
        heads, mlp = self.attn.project(k.adaln(x, shift, scale, modulated, self.eps), rope)
        q, key, v = k.cached_qkv(heads, self.eps)
        out = k.attention(q, key, v, attended).flatten(1)
        return k.gated_residual(x, self.attn.to_out(k.swiglu(mlp, out)), gate, modulated), key, v

    def keys_values(
        self, x: Tensor, modulation: tuple[Tensor, ...], rope: Rope, modulated: Segments, k: Kernels
    ) -> tuple[Tensor, Tensor]:
        """All that a last block is asked of references: keys and values `(P, H, E)`."""
        shift, scale, _ = modulation
        heads = self.attn.heads(k.adaln(x, shift, scale, modulated, self.eps), rope)
        _, key, v = k.cached_qkv(heads, self.eps)
        return key, v


class JointAttention(nn.Module):
    """Projections of a double block: plain names for the image, `add` names for the text."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, e = config.width, config.attention_head_dim
        self.head_dim = e
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

    def image_heads(self, x: Rows, rope: Rope) -> Heads:
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.to_q, self.to_k, self.to_v))
        return Heads(q, k, v, self.norm_q.weight, self.norm_k.weight, *rope)

    def text_heads(self, x: Rows, rope: Rope) -> Heads:
        projections = (self.add_q_proj, self.add_k_proj, self.add_v_proj)
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in projections)
        return Heads(q, k, v, self.norm_added_q.weight, self.norm_added_k.weight, *rope)


class ParallelAttention(nn.Module):
    """Projections of a single block: q, k, v and both MLP halves in one, attention and MLP out in one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, m, e = config.width, config.mlp_width, config.attention_head_dim
        self.widths, self.head_dim = (d, d, d, 2 * m), e
        self.to_qkv_mlp_proj = nn.Linear(d, 3 * d + 2 * m, bias=False)
        self.norm_q = nn.RMSNorm(e, eps=config.eps)
        self.norm_k = nn.RMSNorm(e, eps=config.eps)
        self.to_out = nn.Linear(d + m, d, bias=False)

    def project(self, x: Rows, rope: Rope) -> tuple[Heads, Tensor]:
        """q, k, v `(T, H, E)` and the MLP's input `(T, 2M)`."""
        *qkv, mlp = self.to_qkv_mlp_proj(x).split(self.widths, dim=-1)
        return self._heads(qkv, rope), mlp

    def heads(self, x: Rows, rope: Rope) -> Heads:
        """`project` without the MLP's input."""
        qkv = some(self.to_qkv_mlp_proj, x, slice(0, sum(self.widths[:3])), "joint")
        return self._heads(qkv.chunk(3, dim=-1), rope)

    def mlp(self, x: Rows) -> Tensor:
        """`project` of the target's tokens, without q, k and v."""
        return some(self.to_qkv_mlp_proj, x, slice(sum(self.widths[:3]), None), "target")

    def _heads(self, qkv: Iterable[Tensor], rope: Rope) -> Heads:
        q, k, v = (y.unflatten(-1, (-1, self.head_dim)) for y in qkv)
        return Heads(q, k, v, self.norm_q.weight, self.norm_k.weight, *rope)


class FeedForward(nn.Module):
    """SwiGLU MLP with both halves in one projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.linear_in = nn.Linear(config.width, 2 * config.mlp_width, bias=False)
        self.linear_out = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Rows, k: Kernels) -> Tensor:
        made: Tensor = self.linear_out(k.swiglu(self.linear_in(x)))
        return made


class Modulation(nn.Module):
    """`parts` rows `(N, D)` from the time embedding `(N, D)`."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width, bias=False)

    def forward(self, time: Tensor) -> tuple[Tensor, ...]:
        rows: Tensor = self.linear(F.silu(time))
        return rows.chunk(self.parts, dim=-1)


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

    def _embed(self, mlp: TimestepMLP, value: Tensor) -> Tensor:
        dtype = mlp.linear_1.weight.dtype
        embedded: Tensor = mlp(sinusoid(value.to(dtype) * 1000, self.channels).to(dtype))
        return embedded


class TimestepMLP(nn.Module):
    """Two linear layers around a SiLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, width, bias=False)
        self.linear_2 = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return made


def sinusoid(timestep: Tensor, channels: int) -> Tensor:
    """Cosines then sines `(N, channels)` float32 of a timestep `(N,)`, periods up to 10,000."""
    half = channels // 2
    exponent = torch.arange(half, dtype=torch.float32, device=timestep.device) * (-math.log(10_000) / half)
    angle = timestep.float()[:, None] * exponent.exp()
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


def rope_table(ids: Tensor, config: ModelConfig) -> Rope:
    """cos and sin `(T, E/2)` float32 of RoPE ids `(T, 4)`; angles in float64."""
    tables = [
        axis_table(ids[:, axis].double(), size, config.rope_theta) for axis, size in enumerate(config.axes_dims_rope)
    ]
    return torch.cat([cos for cos, _ in tables], dim=-1), torch.cat([sin for _, sin in tables], dim=-1)


def axis_table(position: Tensor, size: int, theta: int) -> Rope:
    frequency = 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.float64, device=position.device) / size)
    angle = position[:, None] * frequency
    return angle.cos().float(), angle.sin().float()
