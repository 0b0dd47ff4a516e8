"""The packed attention kernel in the order of arguments that TensorRT launches: inputs, int32 scalars, output.

TensorRT hands over contiguous tensors, so strides are constants, and no float scalars, so the scale is one.
"""

import triton
import triton.language as tl

from kernels.attention import attention_kernel


@triton.jit
def packed_attention_kernel(
    p_q: tl.tensor, p_k: tl.tensor, p_v: tl.tensor,
    p_cu: tl.tensor, p_cu_keys: tl.tensor, p_tiles: tl.tensor, p_o: tl.tensor,
    H: tl.constexpr, E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SCALE: tl.constexpr,
) -> None:  # fmt: skip
    """One program: one row of tiles, one head."""
    attention_kernel(
        p_q=p_q, p_k=p_k, p_v=p_v, p_o=p_o, p_prefix_k=p_k, p_prefix_v=p_v,
        p_cu=p_cu, p_cu_keys=p_cu_keys, p_cu_prefix=p_cu, p_tiles=p_tiles,
        stride_q=H * E, stride_k=H * E, stride_v=H * E, stride_prefix_k=H * E, stride_prefix_v=H * E,
        draws=1, scale=SCALE, H=H, E=E, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, PREFIX=False, TMA=False, WIDE=False,
    )  # fmt: skip


@triton.jit
def prefixed_attention_kernel(
    p_q: tl.tensor, p_k: tl.tensor, p_v: tl.tensor, p_prefix_k: tl.tensor, p_prefix_v: tl.tensor,
    p_cu: tl.tensor, p_cu_keys: tl.tensor, p_cu_prefix: tl.tensor, p_tiles: tl.tensor, draws: tl.tensor, p_o: tl.tensor,
    H: tl.constexpr, E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SCALE: tl.constexpr,
) -> None:  # fmt: skip
    """`packed_attention_kernel` whose sequences i also attend prefix i // draws."""
    attention_kernel(
        p_q=p_q, p_k=p_k, p_v=p_v, p_o=p_o, p_prefix_k=p_prefix_k, p_prefix_v=p_prefix_v,
        p_cu=p_cu, p_cu_keys=p_cu_keys, p_cu_prefix=p_cu_prefix, p_tiles=p_tiles,
        stride_q=H * E, stride_k=H * E, stride_v=H * E, stride_prefix_k=H * E, stride_prefix_v=H * E,
        draws=draws, scale=SCALE, H=H, E=E, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, PREFIX=True, TMA=False, WIDE=False,
    )  # fmt: skip
