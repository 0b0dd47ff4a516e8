"""The MMDiT against diffusers' Flux2Transformer2DModel, and its reference modes against masks."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import Flux2Transformer2DModel
from diffusers.models.transformers.transformer_flux2 import (
    Flux2KVAttnProcessor,
    Flux2KVParallelSelfAttnProcessor,
)
from tiny import TRANSFORMER, tiny_transformer
from torch import Tensor

from engine_build.config import PRESETS, ModelConfig, ReferenceAttention
from engine_build.errors import CheckpointError
from engine_build.model.mmdit import MMDiT, rope_table
from engine_build.model.packing import Reference, Sequence, grid_ids, pack, text_ids_of

REFERENCE_GRIDS = ((3, 4), (5, 2))


def request(references: int, seed: int = 0, grid: tuple[int, int] = (4, 5), sigma: float = 0.7) -> Sequence:
    g = torch.Generator().manual_seed(seed)
    images = tuple(
        Reference(torch.randn(h * w, 16, generator=g), grid_ids(h, w, t=10 * (i + 1)))
        for i, (h, w) in enumerate(REFERENCE_GRIDS[:references])
    )
    text = torch.randn(7 + seed, 48, generator=g)
    target = torch.randn(grid[0] * grid[1], 16, generator=g)
    return Sequence(text, target, grid_ids(*grid), sigma, images)


def ours(theirs: Flux2Transformer2DModel, mode: ReferenceAttention) -> MMDiT:
    model = MMDiT(ModelConfig.from_diffusers(dict(theirs.config), mode)).eval()
    model.load_state_dict(theirs.state_dict(), strict=True)
    return model


def reference_tokens(sequence: Sequence) -> tuple[Tensor, Tensor]:
    tokens = [r.tokens for r in sequence.references]
    return torch.cat([*tokens, sequence.target[:0]]), torch.cat(
        [*(r.ids for r in sequence.references), sequence.target_ids[:0]]
    )


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@torch.no_grad()
def diffusers_joint(model: Flux2Transformer2DModel, s: Sequence, guidance: float | None = None) -> Tensor:
    tokens, ids = reference_tokens(s)
    out = model(
        torch.cat([s.target, tokens])[None],
        s.text[None],
        torch.tensor([s.sigma]),
        torch.cat([s.target_ids, ids]),
        text_ids_of(s.text),
        guidance=None if guidance is None else torch.tensor([guidance]),
    )
    return out.sample[0, : len(s.target)]


@pytest.mark.parametrize("references", [0, 1, 2])
def test_joint_equals_diffusers(references: int) -> None:
    theirs = tiny_transformer()
    sequence = request(references)
    with torch.no_grad():
        velocity = ours(theirs, "joint")(pack([sequence]))
    assert relative(velocity, diffusers_joint(theirs, sequence)) < 1e-4


def test_embedded_guidance_equals_diffusers() -> None:
    theirs = tiny_transformer(guidance_embeds=True)
    sequence = request(1)
    guided = Sequence(
        sequence.text, sequence.target, sequence.target_ids, 0.7, sequence.references, guidance=3.5
    )
    with torch.no_grad():
        velocity = ours(theirs, "joint")(pack([guided]))
    assert relative(velocity, diffusers_joint(theirs, sequence, guidance=3.5)) < 1e-4
    assert relative(velocity, diffusers_joint(theirs, sequence)) > 1e-3
    with pytest.raises(CheckpointError, match="not defined for a model with embedded guidance"):
        ours(theirs, "shared")


@pytest.mark.parametrize("references", [1, 2])
def test_shared_equals_diffusers_kv_mode(references: int) -> None:
    theirs = tiny_transformer()
    model = ours(theirs, "shared")
    sequence = request(references)
    later = Sequence(sequence.text, sequence.target * 0.5, sequence.target_ids, 0.3, sequence.references)
    for block in theirs.transformer_blocks:
        block.attn.set_processor(Flux2KVAttnProcessor())
    for block in theirs.single_transformer_blocks:
        block.attn.set_processor(Flux2KVParallelSelfAttnProcessor())
    tokens, ids = reference_tokens(sequence)
    text_ids = text_ids_of(sequence.text)
    with torch.no_grad():
        first = theirs(
            torch.cat([tokens, sequence.target])[None],
            sequence.text[None],
            torch.tensor([sequence.sigma]),
            torch.cat([ids, sequence.target_ids]),
            text_ids,
            kv_cache_mode="extract",
            num_ref_tokens=len(tokens),
        )
        second = theirs(
            later.target[None],
            later.text[None],
            torch.tensor([later.sigma]),
            later.target_ids,
            text_ids,
            kv_cache=first.kv_cache,
            kv_cache_mode="cached",
        )
        assert relative(model(pack([sequence])), first.sample[0]) < 1e-4
        cache = model.encode_references(pack([sequence]))
        assert relative(model(pack([later]), cache), second.sample[0]) < 1e-4
    assert torch.allclose(cache.keys[1], first.kv_cache.get_double(1).k_ref[0], atol=1e-5)
    assert torch.allclose(cache.keys[4], first.kv_cache.get_single(2).k_ref[0], atol=1e-5)


@torch.no_grad()
def masked_reference_attention(model: MMDiT, s: Sequence, mode: ReferenceAttention) -> Tensor:
    """One sequence, modulation by token, a dense mask, written out a second time."""
    w, c = model.state_dict(), model.config
    tokens, reference_ids = reference_tokens(s)
    lt, lx, lr = len(s.text), len(s.target), len(tokens)
    owner = torch.cat([torch.full((len(r.tokens),), i) for i, r in enumerate(s.references)])
    mask = torch.ones(lt + lx + lr, lt + lx + lr, dtype=torch.bool)
    mask[lt + lx :, : lt + lx] = False
    if mode == "isolated":
        mask[lt + lx :, lt + lx :] = owner[:, None] == owner[None]
    ids = torch.cat([text_ids_of(s.text), s.target_ids, reference_ids])
    frequencies = [1 / c.rope_theta ** (torch.arange(0, n, 2).double() / n) for n in c.axes_dims_rope]
    angles = torch.cat([ids[:, i, None] * f for i, f in enumerate(frequencies)], dim=-1)
    rotation = torch.polar(torch.ones_like(angles), angles)[:, None]
    sigma = torch.cat([torch.full((lt + lx,), float(s.sigma)), torch.zeros(lr)])
    time = model.time_guidance_embed(sigma, None)
    silu = F.silu(time)
    text_mod = (silu @ w["double_stream_modulation_txt.linear.weight"].T)[:lt].chunk(6, -1)
    image_mod = (silu @ w["double_stream_modulation_img.linear.weight"].T)[lt:].chunk(6, -1)
    single_mod = (silu @ w["single_stream_modulation.linear.weight"].T).chunk(3, -1)

    def norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + c.eps).sqrt() * (1 + scale) + shift

    def head(x: Tensor, weight: Tensor | None) -> Tensor:
        x = x.unflatten(-1, (c.num_attention_heads, -1))
        return x if weight is None else x / (x.square().mean(-1, keepdim=True) + c.eps).sqrt() * weight

    def turn(x: Tensor) -> Tensor:
        return torch.view_as_real(
            torch.view_as_complex(x.double().unflatten(-1, (-1, 2))) * rotation
        ).flatten(-2)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("qhe,khe->hqk", turn(q), turn(k)) / c.attention_head_dim**0.5
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        return torch.einsum("hqk,khe->qhe", weights, v.double()).float().flatten(1)

    def gated(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return F.silu(a) * b

    text = s.text @ w["context_embedder.weight"].T
    image = torch.cat([s.target, tokens]) @ w["x_embedder.weight"].T
    for i in range(c.num_layers):
        p = f"transformer_blocks.{i}."
        a = p + "attn."
        tn, xn = norm(text, *text_mod[:2]), norm(image, *image_mod[:2])
        q, k, v = (
            torch.cat(
                [
                    head(tn @ w[f"{a}add_{n}_proj.weight"].T, w.get(f"{a}norm_added_{n}.weight")),
                    head(xn @ w[f"{a}to_{n}.weight"].T, w.get(f"{a}norm_{n}.weight")),
                ]
            )
            for n in "qkv"
        )
        out = attend(q, k, v)
        text = text + text_mod[2] * (out[:lt] @ w[a + "to_add_out.weight"].T)
        image = image + image_mod[2] * (out[lt:] @ w[a + "to_out.0.weight"].T)
        ff = norm(text, *text_mod[3:5]) @ w[p + "ff_context.linear_in.weight"].T
        text = text + text_mod[5] * (gated(ff) @ w[p + "ff_context.linear_out.weight"].T)
        ff = norm(image, *image_mod[3:5]) @ w[p + "ff.linear_in.weight"].T
        image = image + image_mod[5] * (gated(ff) @ w[p + "ff.linear_out.weight"].T)
    x = torch.cat([text, image])
    for i in range(c.num_single_layers):
        a = f"single_transformer_blocks.{i}.attn."
        projected = norm(x, *single_mod[:2]) @ w[a + "to_qkv_mlp_proj.weight"].T
        q, k, v, mlp = projected.split([c.width] * 3 + [2 * c.mlp_width], -1)
        out = attend(head(q, w[a + "norm_q.weight"]), head(k, w[a + "norm_k.weight"]), head(v, None))
        x = x + single_mod[2] * (torch.cat([out, gated(mlp)], -1) @ w[a + "to_out.weight"].T)
    scale, shift = (silu @ w["norm_out.linear.weight"].T)[lt : lt + lx].chunk(2, -1)
    return norm(x[lt : lt + lx], shift, scale) @ w["proj_out.weight"].T


@pytest.mark.parametrize("mode", ["shared", "isolated"])
def test_reference_modes_equal_a_dense_mask(mode: ReferenceAttention) -> None:
    model = ours(tiny_transformer(), mode)
    sequence = request(2)
    with torch.no_grad():
        velocity = model(pack([sequence]))
    assert relative(velocity, masked_reference_attention(model, sequence, mode)) < 1e-5


def test_the_three_modes_differ() -> None:
    theirs = tiny_transformer()
    batch = pack([request(2)])
    with torch.no_grad():
        joint, shared, isolated = (ours(theirs, mode)(batch) for mode in ("joint", "shared", "isolated"))
    assert relative(joint, shared) > 1e-3
    assert relative(shared, isolated) > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(dtype: torch.dtype) -> None:
    model = ours(tiny_transformer(), "isolated")
    batch = pack([request(2), request(1, seed=1)])
    with torch.no_grad():
        exact = model(batch)
        half = model.to(dtype)(batch)
    assert half.dtype == dtype
    assert relative(half.float(), exact) < 0.03


@pytest.mark.parametrize(("preset", "parameters"), [("klein-4b", 3_875_544_576), ("klein-9b", 9_078_581_248)])
def test_klein_has_the_published_size_and_every_key(preset: str, parameters: int) -> None:
    config = PRESETS[preset]
    settings = {k: v for k, v in config.to_diffusers().items() if not k.startswith("_")}
    with torch.device("meta"):
        model, theirs = MMDiT(config), Flux2Transformer2DModel(**settings)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference_attention": "all"}, "reference_attention is 'all'"),
        ({"axes_dims_rope": (8, 8, 8)}, "must be 4 numbers that sum to"),
        ({"axes_dims_rope": (8, 8, 8, 16)}, "must be 4 numbers that sum to"),
    ],
)
def test_shapes_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        replace(PRESETS["nano"], **change)


def test_configuration_round_trips_through_diffusers() -> None:
    config = PRESETS["klein-4b"]
    assert ModelConfig.from_diffusers(config.to_diffusers()) == config
    assert (
        dict(tiny_transformer().config).items()
        >= {k: v for k, v in TRANSFORMER.items() if k != "axes_dims_rope"}.items()
    )


def test_rope_is_the_one_of_diffusers() -> None:
    theirs = tiny_transformer()
    ids = torch.cat([grid_ids(3, 5, t=20), text_ids_of(torch.empty(300, 1))])
    cos, sin = theirs.pos_embed(ids)
    mine = rope_table(ids, ours(theirs, "joint").config)
    torch.testing.assert_close(mine[0], cos[:, ::2], atol=1e-6, rtol=0)
    torch.testing.assert_close(mine[1], sin[:, ::2], atol=1e-6, rtol=0)
