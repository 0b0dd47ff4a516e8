"""Tensor functions of the engine: packed attention, QK-norm with RoPE, AdaLN, SwiGLU, FP8 rows, GroupNorm,
low-rank adapters.

In come tensors of several requests laid end to end, with their lengths as `Segments`; out come tensors, or e4m3 rows
with scales. `kernels.reference` is the truth in plain torch; `kernels.backend.select` names the set in use.
transformers probes for a package called `kernels` and reads its version, hence `__version__`.
"""

from kernels.backend import BACKENDS, BackendUnavailable, Kernels, select
from kernels.routes import Route
from kernels.segments import Segments

__version__ = "0.1.0"

__all__ = ["BACKENDS", "BackendUnavailable", "Kernels", "Route", "Segments", "__version__", "select"]
