"""What files of results tell of the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import torch

from engine_build.bench.machine import accelerator, host, versions


def test_the_host_is_told_without_torch() -> None:
    code = "import json, sys; from engine_build.bench.machine import host; print(json.dumps((host(), [*sys.modules])))"
    told, loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert told == json.loads(json.dumps(host()))
    assert (told["python"], told["cores"]) == (platform.python_version(), os.cpu_count())
    assert told["processor"] and "torch" not in loaded


def test_a_package_that_is_not_there_has_no_version() -> None:
    assert versions(["torch", "no-such-package"]) == {"torch": torch.__version__, "no-such-package": None}


def test_a_cpu_has_the_fields_of_a_gpu_and_no_memory() -> None:
    found = accelerator("cpu")
    assert found["device"] == "cpu " + platform.machine()
    assert not found["cuda_device"]
    assert found["memory_bytes"] is None and found["cudnn"] is None
    if torch.cuda.is_available():
        assert accelerator("auto").keys() == found.keys()
        assert accelerator("cuda")["device"] == torch.cuda.get_device_name()
