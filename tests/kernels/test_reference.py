"""The reference kernels against naive per-sequence, per-head computations in float64."""

import pytest
import torch
from torch import Tensor

from kernels import BackendUnavailable, Segments, reference, select

H, E = 3, 8


def naive_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = torch.empty_like(q)
    for h in range(q.shape[1]):
        scores = q[:, h] @ k[:, h].T / q.shape[-1] ** 0.5
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        out[:, h] = weights @ v[:, h]
    return out


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("lengths", [(5,), (7, 7, 7), (1, 123, 5, 123, 17), (4, 0, 4), (0, 0), (3, 5, 3)])
def test_attention_stays_inside_each_sequence(lengths: tuple[int, ...]) -> None:
    segments = Segments(lengths)
    q, k, v = (random(segments.total, H, E, seed=i) for i in range(3))
    out = reference.attention(q, k, v, segments)
    wanted = [naive_attention(*part) for part in zip(*(x.split(lengths) for x in (q, k, v)), strict=True)]
    torch.testing.assert_close(out, torch.cat(wanted))


@pytest.mark.parametrize(
    ("lengths", "prefixes", "draws"),
    [
        ((5,), (3,), 1),
        ((6, 6), (4, 4), 1),
        ((6, 6), (4, 9), 1),
        ((5, 7), (4, 4), 1),
        ((5, 7, 5, 2), (0, 3, 11, 0), 1),
        ((5, 5, 5, 5), (4, 4), 2),
        ((5, 6, 7, 5, 6, 7), (4, 2), 3),
        ((5, 5, 5, 5), (0, 4), 2),
        ((5, 5), (0, 0), 1),
    ],
)
def test_attention_with_a_prefix(lengths: tuple[int, ...], prefixes: tuple[int, ...], draws: int) -> None:
    own, shared = Segments(lengths), Segments(prefixes)
    q, k, v = (random(own.total, H, E, seed=i).requires_grad_() for i in range(3))
    prefix_k, prefix_v = (random(shared.total, H, E, seed=i + 3).requires_grad_() for i in range(2))
    out = reference.attention(q, k, v, own, prefix_k=prefix_k, prefix_v=prefix_v, prefix_segments=shared, draws=draws)
    wanted = []
    for i, queries in enumerate(q.split(lengths)):
        keys = torch.cat((prefix_k.split(prefixes)[i // draws], k.split(lengths)[i]))
        values = torch.cat((prefix_v.split(prefixes)[i // draws], v.split(lengths)[i]))
        wanted.append(naive_attention(queries, keys, values))
    torch.testing.assert_close(out, torch.cat(wanted))
    weight = random(*out.shape, seed=9)
    inputs = [q, k, v, prefix_k, prefix_v]
    mine = torch.autograd.grad((out * weight).sum(), inputs, allow_unused=True)
    naive = torch.autograd.grad((torch.cat(wanted) * weight).sum(), inputs)
    for a, b in zip(mine, naive, strict=True):
        torch.testing.assert_close(torch.zeros_like(b) if a is None else a, b)


def test_attention_that_learns_in_bf16_on_a_cpu_is_attention() -> None:
    """Products instead of the fused kernel: the same values and gradients, as near as bf16 comes to float32."""
    generator = torch.Generator().manual_seed(3)
    segments = Segments((5, 123, 7))
    whole = [torch.randn(segments.total, 2, 32, generator=generator) for _ in range(4)]  # q, k, v and the gradient
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (x.to(dtype, copy=True).requires_grad_() for x in whole[:3])
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = reference.attention(q, k, v, segments)
        assert out.dtype == dtype
        out.backward(whole[3].to(dtype))
        results.append([x.float() for x in (out.detach(), q.grad, k.grad, v.grad)])
    for exact, near in zip(*results, strict=True):
        assert float((exact - near).norm() / exact.norm()) < 0.02


def test_attention_refuses_segments_that_do_not_fit() -> None:
    x = random(6, H, E)
    with pytest.raises(ValueError, match="q has 6 tokens, its segments 5"):
        reference.attention(x, x, x, Segments((2, 3)))
    with pytest.raises(ValueError, match="3 sequences cannot share 2 prefixes in 1 draws"):
        reference.attention(x, x, x, Segments((2, 2, 2)), prefix_k=x, prefix_v=x, prefix_segments=Segments((3, 3)))


def test_rope_rotates_interleaved_pairs() -> None:
    x, angle = random(5, H, E), random(5, E // 2, seed=1)
    out = reference.rope(x.float(), angle.cos().float(), angle.sin().float())
    for t in range(5):
        for p in range(E // 2):
            c, s = angle[t, p].cos(), angle[t, p].sin()
            turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
            torch.testing.assert_close(
                out[t, :, 2 * p : 2 * p + 2].double(),
                x[t, :, 2 * p : 2 * p + 2] @ turn.T,
                atol=1e-5,
                rtol=1e-5,
            )


def test_rope_keeps_the_dtype_and_takes_views() -> None:
    fused = random(5, 3 * H * E + 2).to(torch.bfloat16)
    x = fused[:, H * E : 2 * H * E].unflatten(-1, (H, E))
    cos, sin = torch.ones(5, E // 2), torch.zeros(5, E // 2)
    assert reference.rope(x, cos, sin).dtype == torch.bfloat16
    assert torch.equal(reference.rope(x, cos, sin), x)


def test_qk_norm_rope_normalises_before_rotating() -> None:
    q, k = random(5, H, E).float(), random(5, H, E, seed=1).float()
    q_weight, k_weight = random(E, seed=2).float(), random(E, seed=3).float()
    angle = random(5, E // 2, seed=4).float()
    out = reference.qk_norm_rope(q, k, q_weight, k_weight, angle.cos(), angle.sin(), 1e-6)
    for x, weight, mine in ((q, q_weight, out[0]), (k, k_weight, out[1])):
        normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
        torch.testing.assert_close(mine, reference.rope(normed, angle.cos(), angle.sin()))


@pytest.mark.parametrize("lengths", [(4, 4), (1, 5, 0, 2), (7,)])
def test_modulation_goes_by_sequence(lengths: tuple[int, ...]) -> None:
    segments = Segments(lengths)
    x, y = random(segments.total, 16), random(segments.total, 16, seed=1)
    shift, scale, gate = (random(len(lengths), 16, seed=i + 2) for i in range(3))
    normed = reference.adaln(x, shift, scale, segments, 1e-6)
    added = reference.gated_residual(x, y, gate, segments)
    owner = [i for i, n in enumerate(lengths) for _ in range(n)]
    for t, i in enumerate(owner):
        centred = x[t] - x[t].mean()
        plain = centred / (centred.square().mean() + 1e-6).sqrt()
        torch.testing.assert_close(normed[t], plain * (1 + scale[i]) + shift[i])
        torch.testing.assert_close(added[t], x[t] + gate[i] * y[t])


def test_float16_saturates_where_it_would_overflow() -> None:
    x = torch.full((2, 4), 60000.0, dtype=torch.float16)
    out = reference.gated_residual(x, x, torch.ones(1, 4, dtype=torch.float16), Segments((2,)))
    assert torch.equal(out, torch.full_like(x, 65504))


def test_swiglu_gates_with_the_first_half() -> None:
    x = random(5, 6)
    a, b = x[:, :3], x[:, 3:]
    torch.testing.assert_close(reference.swiglu(x), a / (1 + (-a).exp()) * b)


def test_an_unknown_backend_is_refused_by_name() -> None:
    assert select("torch").name == "torch"
    with pytest.raises(BackendUnavailable, match="no kernels named 'magic'"):
        select("magic")
