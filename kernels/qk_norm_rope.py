"""QK-RMSNorm and RoPE in one pass, written where attention reads.

Float32 from load to store, so one rounding where the plain form has two. `qk_norm_rope_into` writes each
token to a row of one's choosing: the packed joint tensors (no `torch.cat` of text and image afterwards) or
the reference cache. RMSNorm: Zhang and Sennrich 2019 (arXiv:1910.07467); RoPE: Su et al. 2021
(arXiv:2104.09864), on interleaved pairs as in FLUX.
Letters as in `kernels.reference`: T tokens, H heads, E head size.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from kernels import reference
from kernels.launch import row_stride, takes_kernel
from kernels.segments import Heads, Interleaved

TOKENS_PER_PROGRAM = 16


@triton.jit
def norm_rope_kernel(
    p_q: tl.tensor, p_k: tl.tensor, p_v: tl.tensor, p_out_q: tl.tensor, p_out_k: tl.tensor, p_out_v: tl.tensor,
    p_q_weight: tl.tensor, p_k_weight: tl.tensor, p_cos: tl.tensor, p_sin: tl.tensor, p_rows: tl.tensor,
    tokens: tl.tensor, stride_q: tl.tensor, stride_k: tl.tensor, stride_v: tl.tensor,
    stride_out_q: tl.tensor, stride_out_k: tl.tensor, stride_out_v: tl.tensor, head: tl.tensor, eps: tl.tensor,
    E: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, NORM: tl.constexpr, ROWS: tl.constexpr,
    PARTS: tl.constexpr,
) -> None:  # fmt: skip
    """One program: BLOCK_T tokens of one head of q, k or v (program_id 2); v is only copied.

    `head` is the distance between heads of the input; those of the output are E apart. Of q, k, v the first PARTS
    are there: a compiler has to see that no other output is written.
    """
    i_t, i_h, i_x = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    p_x, p_o, p_w, stride_x, stride_o = p_q, p_out_q, p_q_weight, stride_q, stride_out_q
    if PARTS > 1:  # noqa: SIM102 (known when compiling, the inner one is not)
        if i_x == 1:
            p_x, p_o, p_w, stride_x, stride_o = p_k, p_out_k, p_k_weight, stride_k, stride_out_k
    if PARTS > 2:  # noqa: SIM102
        if i_x == 2:
            p_x, p_o, p_w, stride_x, stride_o = p_v, p_out_v, p_k_weight, stride_v, stride_out_v

    o_t = i_t * BLOCK_T + tl.arange(0, BLOCK_T)
    o_e = tl.arange(0, BLOCK_E)
    m_t = o_t < tokens
    m_x = m_t[:, None] & (o_e < E)[None, :]
    o_x = o_t.to(tl.int64)[:, None] * stride_x + i_h * head + o_e[None, :]
    # [BLOCK_T, BLOCK_E]
    b_x = tl.load(p_x + o_x, mask=m_x, other=0.0)
    if i_x < 2:
        o_p = tl.arange(0, BLOCK_E // 2)
        m_p = m_t[:, None] & (o_p < E // 2)[None, :]
        o_r = o_t[:, None] * (E // 2) + o_p[None, :]
        b_y = b_x.to(tl.float32)
        if NORM:
            # [BLOCK_E]
            b_w = tl.load(p_w + o_e, mask=o_e < E, other=0.0).to(tl.float32)
            # [BLOCK_T]
            b_r = tl.rsqrt(tl.sum(b_y * b_y, 1) / E + eps)
            b_y = b_y * b_r[:, None] * b_w[None, :]
        # [BLOCK_T, BLOCK_E / 2]
        b_even, b_odd = tl.split(tl.reshape(b_y, [BLOCK_T, BLOCK_E // 2, 2]))
        b_cos = tl.load(p_cos + o_r, mask=m_p, other=0.0)
        b_sin = tl.load(p_sin + o_r, mask=m_p, other=0.0)
        b_turned = tl.join(b_even * b_cos - b_odd * b_sin, b_even * b_sin + b_odd * b_cos)
        # [BLOCK_T, BLOCK_E]
        b_x = tl.reshape(b_turned, [BLOCK_T, BLOCK_E]).to(b_x.dtype)
    # [BLOCK_T]
    b_row = o_t
    if ROWS:
        b_row = tl.load(p_rows + o_t, mask=m_t, other=0)
    o_o = b_row.to(tl.int64)[:, None] * stride_o + i_h * E + o_e[None, :]
    tl.store(p_o + o_o, b_x, mask=m_x)


@triton_op("changeroom::qk_norm_rope", mutates_args=())
def qk_norm_rope_op(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """`qk_norm_rope` as an operator."""
    if not takes_kernel(q):
        return reference.qk_norm_rope(q, k, q_weight, k_weight, cos, sin, eps)
    out_q, out_k = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k))
    _launch((q, k, None), (out_q, out_k, None), (q_weight, k_weight), cos, sin, eps, None)
    return out_q, out_k


@qk_norm_rope_op.register_fake
def _(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    out_q, out_k = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k))
    return out_q, out_k


@triton_op("changeroom::qk_norm_rope_into", mutates_args={"out_q", "out_k", "out_v"})
def qk_norm_rope_into_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    eps: float,
    rows: Tensor | None,
    out_q: Tensor,
    out_k: Tensor,
    out_v: Tensor,
) -> None:
    """`qk_norm_rope_into` as an operator."""
    if takes_kernel(q):
        _launch((q, k, v), (out_q, out_k, out_v), (q_weight, k_weight), cos, sin, eps, rows)
        return
    turned = reference.qk_norm_rope(q, k, q_weight, k_weight, cos, sin, eps)
    for out, x in zip((out_q, out_k, out_v), (*turned, v), strict=True):
        if rows is None:
            out.copy_(x)
        else:
            out.index_copy_(0, rows.long(), x)


@qk_norm_rope_into_op.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, eps: float,
    rows: Tensor | None, out_q: Tensor, out_k: Tensor, out_v: Tensor,
) -> None:  # fmt: skip
    return None


@triton_op("changeroom::rope", mutates_args=())
def rope_op(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rope` as an operator."""
    if not takes_kernel(x):
        return reference.rope(x, cos, sin)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch((x, None, None), (out, None, None), None, cos, sin, 0.0, None)
    return out


@rope_op.register_fake
def _(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def qk_norm_rope(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """RMSNorm over E then RoPE. q, k `(T, H, E)`, weights `(E,)`, cos and sin `(T, E/2)` float32.

    Returns contiguous tensors in the dtype of q. Raises ValueError when shapes or layouts do not fit.
    """
    _check(q, cos, sin, {"q": q, "k": k}, {"q_weight": q_weight, "k_weight": k_weight})
    out_q, out_k = qk_norm_rope_op(q, k, q_weight, k_weight, cos.contiguous(), sin.contiguous(), eps)
    return out_q, out_k


def qk_norm_rope_into(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    eps: float,
    *,
    out_q: Tensor,
    out_k: Tensor,
    out_v: Tensor,
    rows: Tensor | None = None,
) -> None:
    """`qk_norm_rope` of q and k, and v as it is, written to rows `(T,)` int32 of outputs `(R, H, E)`.

    Without rows, in order. Rows must be distinct and below R: they are not checked, since that would wait for
    the device.
    Raises ValueError when shapes or layouts do not fit.
    """
    _check(q, cos, sin, {"q": q, "k": k, "v": v}, {"q_weight": q_weight, "k_weight": k_weight})
    if rows is not None and (rows.shape != q.shape[:1] or rows.dtype != torch.int32):
        raise ValueError(f"rows is {rows.dtype} {tuple(rows.shape)}, not int32 {tuple(q.shape[:1])}")
    for name, out in (("out_q", out_q), ("out_k", out_k), ("out_v", out_v)):
        if out.shape[1:] != q.shape[1:] or out.dtype != q.dtype or (rows is None and out.shape != q.shape):
            raise ValueError(f"{name} is {out.dtype} {tuple(out.shape)}, not {q.dtype} (R, H, E) like q")
        row_stride(out, name)
    cos, sin = cos.contiguous(), sin.contiguous()
    qk_norm_rope_into_op(q, k, v, q_weight, k_weight, cos, sin, eps, rows, out_q, out_k, out_v)


def joint_qkv(first: Heads, second: Heads, joined: Interleaved, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """`kernels.reference.joint_qkv`: each stream's heads go straight to their rows of q, k, v `(T, H, E)`."""
    tokens = joined.first.total + joined.second.total
    q, k, v = (first.q.new_empty(tokens, *first.q.shape[1:]) for _ in range(3))
    for heads, rows in zip((first, second), joined.rows(first.q.device), strict=True):
        qk_norm_rope_into(
            heads.q, heads.k, heads.v, *heads.to_norm[2:], eps, rows=rows, out_q=q, out_k=k, out_v=v
        )  # fmt: skip
    return q, k, v


def cached_qkv(heads: Heads, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """`kernels.reference.cached_qkv`: k and v are written straight into memory of their own, to be kept."""
    q, k, v = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (heads.q, heads.k, heads.v))
    qk_norm_rope_into(heads.q, heads.k, heads.v, *heads.to_norm[2:], eps, out_q=q, out_k=k, out_v=v)
    return q, k, v


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the interleaved pairs of x `(T, H, E)` by cos, sin `(T, E/2)` float32.

    x may be a slice of wider heads. Raises ValueError when shapes do not fit.
    """
    _check(x, cos, sin, {}, {})
    if x.stride(-1) != 1:
        raise ValueError(f"x has strides {x.stride()}; each head must be contiguous")
    turned: Tensor = rope_op(x, cos.contiguous(), sin.contiguous())
    return turned


def _launch(
    inputs: tuple[Tensor, Tensor | None, Tensor | None],
    outputs: tuple[Tensor, Tensor | None, Tensor | None],
    weights: tuple[Tensor, Tensor] | None,
    cos: Tensor,
    sin: Tensor,
    eps: float,
    rows: Tensor | None,
) -> None:
    """As many of q, k, v as are given; the kernel neither reads nor writes what stands in for the others."""
    first, target = inputs[0], outputs[0]
    tokens, heads, size = first.shape
    if tokens == 0:
        return
    xs = [first if x is None else x for x in inputs]
    outs = [target if x is None else x for x in outputs]
    parts = sum(x is not None for x in inputs)
    wrap_triton(norm_rope_kernel)[(triton.cdiv(tokens, TOKENS_PER_PROGRAM), heads, parts)](
        *xs, *outs, *(weights or (cos, cos)), cos, sin, cos if rows is None else rows,
        tokens, *(x.stride(0) for x in xs), *(x.stride(0) for x in outs), first.stride(1), eps,
        E=size, BLOCK_T=TOKENS_PER_PROGRAM, BLOCK_E=triton.next_power_of_2(size),
        NORM=weights is not None, ROWS=rows is not None, PARTS=parts, num_warps=4,
    )  # fmt: skip


def _check(q: Tensor, cos: Tensor, sin: Tensor, packed: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    if q.ndim != 3 or q.shape[-1] % 2:
        raise ValueError(f"{tuple(q.shape)} is not (T, H, E) with an even E")
    for name, x in packed.items():
        if x.shape != q.shape or x.dtype != q.dtype:
            raise ValueError(f"{name} is {x.dtype} {tuple(x.shape)}, q {q.dtype} {tuple(q.shape)}")
        row_stride(x, name)
    for name, x in weights.items():
        if x.shape != q.shape[-1:] or not x.is_contiguous():
            raise ValueError(f"{name} is {tuple(x.shape)}, not a contiguous {tuple(q.shape[-1:])}")
    for name, x in (("cos", cos), ("sin", sin)):
        if x.shape != (q.shape[0], q.shape[-1] // 2) or x.dtype != torch.float32:
            raise ValueError(f"{name} is {x.dtype} {tuple(x.shape)}, not float32 (T, E/2) of {tuple(q.shape)}")
