"""GroupNorm and the SiLU after it, for pictures in channels-last memory.

Convolutions are fastest channels-last on tensor cores, but torch's GroupNorm copies such a picture to
channels-first and its result is copied back, which costs more than the convolutions gain. Here one pass sums, one
normalises and activates. GroupNorm: Wu and He 2018 (arXiv:1803.08494).

Letters: B pictures, C channels, P pixels of one picture, G groups, K chunks of pixels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from kernels import reference
from kernels.launch import takes_kernel

PIXELS_PER_BLOCK = 32
BLOCKS_PER_CHUNK = 16


@triton.jit
def channel_sums_kernel(
    p_x: tl.tensor, p_sums: tl.tensor, pixels: tl.tensor, channels: tl.tensor, chunks: tl.tensor,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCKS: tl.constexpr,
) -> None:  # fmt: skip
    """One program: the sums of x and x^2 by channel over one chunk of one picture, to `(B, K, 2, C)`."""
    i_k, i_b = tl.program_id(0), tl.program_id(1)
    o_c = tl.arange(0, BLOCK_C)
    m_c = o_c < channels
    p_x += i_b.to(tl.int64) * pixels * channels
    # [BLOCK_P, BLOCK_C]
    b_sum = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    b_square = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for i_p in range(BLOCKS):
        o_p = (i_k * BLOCKS + i_p) * BLOCK_P + tl.arange(0, BLOCK_P)
        m_x = (o_p < pixels)[:, None] & m_c[None, :]
        b_x = tl.load(p_x + o_p.to(tl.int64)[:, None] * channels + o_c[None, :], mask=m_x, other=0.0).to(tl.float32)
        b_sum += b_x
        b_square += b_x * b_x
    p_sums += (i_b * chunks + i_k).to(tl.int64) * 2 * channels
    tl.store(p_sums + o_c, tl.sum(b_sum, 0), mask=m_c)
    tl.store(p_sums + channels + o_c, tl.sum(b_square, 0), mask=m_c)


@triton.jit
def scale_silu_kernel(
    p_x: tl.tensor, p_scale_by_channel: tl.tensor, p_shift_by_channel: tl.tensor, p_o: tl.tensor,
    pixels: tl.tensor, channels: tl.tensor,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    """One program: BLOCK_P pixels of one picture, silu(scale x + shift) with a scale and shift by channel."""
    i_p, i_b = tl.program_id(0), tl.program_id(1)
    o_c = tl.arange(0, BLOCK_C)
    m_c = o_c < channels
    # [BLOCK_C]
    b_scale = tl.load(p_scale_by_channel + i_b * channels + o_c, mask=m_c, other=0.0)
    b_shift = tl.load(p_shift_by_channel + i_b * channels + o_c, mask=m_c, other=0.0)
    o_p = i_p * BLOCK_P + tl.arange(0, BLOCK_P)
    m_x = (o_p < pixels)[:, None] & m_c[None, :]
    o_x = (i_b.to(tl.int64) * pixels + o_p.to(tl.int64))[:, None] * channels + o_c[None, :]
    # [BLOCK_P, BLOCK_C]
    b_y = tl.load(p_x + o_x, mask=m_x, other=0.0).to(tl.float32) * b_scale[None, :] + b_shift[None, :]
    tl.store(p_o + o_x, (b_y / (1.0 + tl.exp(-b_y))).to(p_o.dtype.element_ty), mask=m_x)


@triton_op("changeroom::group_norm_silu", mutates_args=())
def group_norm_silu_op(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`group_norm_silu` as an operator."""
    out = torch.empty_like(x, memory_format=torch.channels_last)
    if not takes_kernel(x):
        return out.copy_(reference.group_norm_silu(x, groups, weight, bias, eps))
    batch, channels, height, width = x.shape
    pixels = height * width
    if not out.numel():
        return out
    chunks = triton.cdiv(pixels, PIXELS_PER_BLOCK * BLOCKS_PER_CHUNK)
    block = triton.next_power_of_2(channels)
    sums = torch.empty(batch, chunks, 2, channels, dtype=torch.float32, device=x.device)
    wrap_triton(channel_sums_kernel)[(chunks, batch)](
        x, sums, pixels, channels, chunks,
        BLOCK_P=PIXELS_PER_BLOCK, BLOCK_C=block, BLOCKS=BLOCKS_PER_CHUNK, num_warps=8,
    )  # fmt: skip
    mean, square = (sums.double().sum(1).unflatten(-1, (groups, -1)).sum(-1) / (pixels * channels // groups)).unbind(1)
    spread = (square - mean * mean).clamp(min=0).add(eps).rsqrt()  # (B, G)
    mean, spread = (part.repeat_interleave(channels // groups, dim=1) for part in (mean, spread))  # (B, C)
    scale = spread * weight.double()
    shift = bias.double() - mean * scale
    wrap_triton(scale_silu_kernel)[(triton.cdiv(pixels, PIXELS_PER_BLOCK), batch)](
        x, scale.float(), shift.float(), out, pixels, channels,
        BLOCK_P=PIXELS_PER_BLOCK, BLOCK_C=block, num_warps=8,
    )  # fmt: skip
    return out


@group_norm_silu_op.register_fake
def _(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def group_norm_silu(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`silu(group_norm(x))`: x `(B, C, H, W)`, weight and bias `(C,)`; the result is channels-last.

    A picture in another memory format is copied first. Raises ValueError when groups do not divide C.
    """
    if x.ndim != 4 or x.shape[1] % groups or weight.shape != x.shape[1:2] or bias.shape != x.shape[1:2]:
        raise ValueError(f"x {tuple(x.shape)}, {groups} groups and weight {tuple(weight.shape)} do not fit")
    out: Tensor = group_norm_silu_op(x.contiguous(memory_format=torch.channels_last), groups, weight, bias, eps)
    return out
