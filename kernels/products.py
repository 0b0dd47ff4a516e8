"""The matrix product that our Triton kernels share."""

import triton
import triton.language as tl


@triton.jit
def dot(b_a: tl.tensor, b_b: tl.tensor, b_acc: tl.tensor, WIDE: tl.constexpr) -> tl.tensor:
    """b_a @ b_b + b_acc in float32. Triton's interpreter multiplies bfloat16 as raw bits, hence WIDE."""
    if WIDE:
        b_a, b_b = b_a.to(tl.float32), b_b.to(tl.float32)
    return tl.dot(b_a, b_b, b_acc, input_precision="ieee")
