"""TensorRT, imported only when something needs it, or one line that says how to get it; and what it runs on."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

from engine_build.errors import BackendError

OLDEST = (10, 15)
INSTALL = "pip install 'changeroom[tensorrt]' on a Linux machine with an NVIDIA GPU"


def tensorrt() -> ModuleType:
    """The module. Raises BackendError where it is missing, broken, or older than `OLDEST`."""
    try:
        import tensorrt as trt
    except ModuleNotFoundError as error:
        raise BackendError(f"TensorRT is not installed; run: {INSTALL}") from error
    except (ImportError, OSError) as error:
        raise BackendError(f"TensorRT does not load ({error}); run: {INSTALL}") from error
    if not hasattr(trt, "__version__"):
        raise BackendError(f"the tensorrt found at {list(trt.__path__)} is not NVIDIA's; run: {INSTALL}")
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if version < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise BackendError(f"TensorRT {trt.__version__} is too old, {wanted} or newer is needed; run: {INSTALL}")
    module: ModuleType = trt
    return module


def gpu_arch() -> int:
    """Compute capability of the current GPU, like 90."""
    major, minor = torch.cuda.get_device_capability()
    return major * 10 + minor


def driver_version() -> int:
    """The newest CUDA the installed driver serves, like 12080."""
    compiled: Any = torch._C  # its stub leaves out what only a build with CUDA has
    return int(compiled._cuda_getDriverVersion())
