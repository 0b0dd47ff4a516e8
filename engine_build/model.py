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

from dataclasses import replace

import torch
from torch import Tensor, nn

from engine_build.blocks import DoubleBlock, SingleBlock
from engine_build.config import ModelConfig
from engine_build.embeddings import Modulation, TimeEmbedding, axis_table, rope_table
from engine_build.packing import PackedBatch
from engine_build.stage import Prefix, ReferenceKV, Stage
from kernels import Kernels, Segments, select
from kernels.fp8 import Fp8Linear
from kernels.segments import Interleaved


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
        return self.velocity(self.prepare(batch, reference_kv), batch.target, batch.sigma)

    def prepare(self, batch: PackedBatch, reference_kv: ReferenceKV | None = None) -> Stage:
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
                raise ValueError(
                    f"{len(batch)} sequences do not divide into the {len(groups)} groups of reference_kv"
                )
            prefix = Prefix(reference_kv.keys, reference_kv.values, groups, len(batch) // len(groups))
        beside = batch.group_segments if joint else Segments((0,) * len(batch), batch.target_segments.fixed)
        references, ids = batch.references[: beside.total], batch.reference_ids[: beside.total]
        image = Interleaved(batch.target_segments, beside)
        whole = Interleaved(batch.text_segments, image.segments)
        text_rope = rope_table(batch.text_ids, self.config)
        image_rope = rope_table(image.join(batch.target_ids, ids), self.config)
        return Stage(
            text=self.context_embedder(batch.text.to(self.dtype)),
            references=self.x_embedder(references.to(self.dtype)),
            text_rope=text_rope,
            image_rope=image_rope,
            joint_rope=(whole.join(text_rope[0], image_rope[0]), whole.join(text_rope[1], image_rope[1])),
            image=image,
            joint=whole,
            prefix=prefix,
            guidance=batch.guidance,
        )

    def velocity(self, stage: Stage, target: Tensor, sigma: Tensor) -> Tensor:
        """One step: target `(sum L, C)` at sigma `(N,)` to velocity `(sum L, output channels)`.

        Modulation is computed once for all blocks; the last block and the output only for the target's tokens.
        Starts no copy between host and device and waits for none.
        """
        c, k = self.config, self._producers
        time = self.time_guidance_embed(sigma, stage.guidance)  # (N, D)
        image_mod = self.double_stream_modulation_img(time)  # 6 x (N, D)
        text_mod = self.double_stream_modulation_txt(time)
        single_mod = self.single_stream_modulation(time)
        text = stage.text  # (Tt, D)
        image = stage.image.join(self.x_embedder(target.to(self.dtype)), stage.references)  # (Ti, D)
        for i, block in enumerate(self.transformer_blocks):
            text, image = block(text, image, text_mod, image_mod, stage, k, stage.attending(i))
        x = stage.joint.join(text, image)  # (T, D)
        *blocks, last = self.single_transformer_blocks
        for i, block in enumerate(blocks, len(self.transformer_blocks)):
            x = block(x, single_mod, stage.joint_rope, stage.joint.segments, k, stage.attending(i))
        x = last.targets(x, single_mod, stage, k, stage.attending(c.layers - 1))  # (sum L, D)
        scale, shift = self.norm_out(time)
        return self.proj_out(self.kernels.adaln(x, shift, scale, stage.image.first, c.eps))  # (sum L, C)

    @property
    def _producers(self) -> Kernels:
        """The kernels of the blocks: those with FP8 outputs where the blocks' linears are FP8."""
        converted = isinstance(self.single_transformer_blocks[0].attn.to_out, Fp8Linear)
        return self.kernels.quantising() if converted else self.kernels

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
        time = self.time_guidance_embed(batch.sigma.new_zeros(1), None)  # (1, D)
        image_mod = self.double_stream_modulation_img(time)
        single_mod = self.single_stream_modulation(time)
        x = self.x_embedder(batch.references.to(self.dtype))  # (P, D)
        keys, values = [], []
        for block in self.transformer_blocks:
            x, key, value = block.references(x, image_mod, rope, everything, attended, k)  # (P, D), (P, H, E) twice
            keys.append(key)
            values.append(value)
        *blocks, last = self.single_transformer_blocks
        for block in blocks:
            x, key, value = block.references(x, single_mod, rope, everything, attended, k)
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
        keys = tuple(
            torch.cat((self.kernels.rope(k[..., :size], cos, sin), k[..., size:]), dim=-1) for k in kv.keys
        )
        return replace(kv, keys=keys, slots=slots)

    def _modulations(self) -> tuple[Modulation, ...]:
        return (
            self.double_stream_modulation_img,
            self.double_stream_modulation_txt,
            self.single_stream_modulation,
        )
