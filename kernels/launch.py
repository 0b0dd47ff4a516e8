"""Whether a tensor is for a Triton kernel or for its plain-torch twin.

The only choice is by device: CUDA tensors get the kernel, CPU tensors the twin, so that export and
torch.compile work without a GPU. Under TRITON_INTERPRET=1 Triton runs kernels on the CPU, for tests.
"""

import triton
from torch import Tensor

INTERPRETED: bool = triton.knobs.runtime.interpret


def takes_kernel(x: Tensor) -> bool:
    """True on CUDA, and on any device while Triton interprets."""
    return INTERPRETED or x.device.type == "cuda"


def row_stride(x: Tensor, name: str) -> int:
    """Elements between rows of x `(T, ...)`. Raises ValueError unless all but the rows is contiguous."""
    expected = 1
    for size, stride in zip(reversed(x.shape[1:]), reversed(x.stride()[1:]), strict=True):
        if size != 1 and stride != expected:
            raise ValueError(f"{name} has strides {x.stride()}; each of its rows must be contiguous")
        expected *= size
    return x.stride(0)
