"""What a build asks of TensorRT: strong types, one profile a bucket, the timing cache. A stand-in takes the calls.

That every name used exists in TensorRT's own bindings is checked in `test_plugin_registration.py`.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine_build.config import CheckpointConfig
from engine_build.errors import BackendError
from engine_build.model.weights import NANO
from engine_build.request.warm_sizes import WarmSize
from engine_build.tensorrt.compile import BuildOptions, _build_plan
from engine_build.tensorrt.export import Exported
from engine_build.tensorrt.ports import Port
from engine_build.tensorrt.profiles import profile, spans

CACHE = b"tactics and their times"


class TensorRT:
    """Remembers what it is asked for; `refuses` names the step at which it gives up."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses, self.asked, self.profiles = refuses, {}, []
        self.Logger = type("Logger", (), {"WARNING": 1, "__init__": lambda *_: None})
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1, PREFER_AOT_PYTHON_PLUGINS=3)
        self.ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.BuilderFlag = SimpleNamespace(REFIT="refit", VERSION_COMPATIBLE="version compatible")
        self.HardwareCompatibilityLevel = SimpleNamespace(SAME_COMPUTE_CAPABILITY="same family")

    def Builder(self, _: object) -> Any:
        return SimpleNamespace(
            create_network=lambda flags: self.asked.update(flags=flags),
            create_builder_config=self._config,
            create_optimization_profile=self._profile,
            build_serialized_network=lambda *_: None if self.refuses == "build" else b"an engine",
        )

    def OnnxParser(self, *_: object) -> Any:
        return SimpleNamespace(
            parse_from_file=lambda path: self.asked.update(path=path) or self.refuses != "parse",
            num_errors=1,
            get_error=lambda _: SimpleNamespace(desc=lambda: "no importer\nfor Det"),
        )

    def _profile(self) -> Any:
        shapes: dict[str, tuple[tuple[int, ...], ...]] = {}
        return SimpleNamespace(shapes=shapes, set_shape=lambda name, *sizes: shapes.update({name: sizes}))

    def _config(self) -> Any:
        set_flags: list[str] = self.asked.setdefault("set", [])

        def add(made: Any) -> int:
            self.profiles.append(made.shapes)
            return -1 if self.refuses == "profile" else len(self.profiles) - 1

        config = SimpleNamespace(
            set_flag=set_flags.append,
            set_memory_pool_limit=lambda pool, size: self.asked.update({pool: size}),
            create_timing_cache=lambda data: self.asked.update(cache=data),
            set_timing_cache=lambda cache, ignore_mismatch: self.asked.update(ignore_mismatch=ignore_mismatch),
            add_optimization_profile=add,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: CACHE),
        )
        self.asked["config"] = config
        return config


def build(folder: Path, trt: TensorRT, **options: Any) -> bytes:
    ports = (Port("target", "float32", ("L", 64)), Port("pixels", "model", ("B", 3, "Y", "X")))
    graph = Exported("cached", folder / "cached.onnx", ports, ())
    buckets = [WarmSize(72, 96, 2, 1), WarmSize(48, 64, 6, 3)]
    sizes = [spans(bucket, CheckpointConfig.load(NANO), 8, torch.bfloat16) for bucket in buckets]
    chosen = BuildOptions(attention="standard", **options)
    return _build_plan(trt, graph, [profile(ports, one) for one in sizes], chosen, folder / "timing.cache")  # type: ignore[arg-type]


def test_a_build_is_strongly_typed_with_one_profile_a_bucket(tmp_path: Path) -> None:
    trt = TensorRT()
    assert build(tmp_path, trt) == b"an engine"
    assert trt.asked["flags"] == 1 << 1
    assert trt.asked["path"] == str(tmp_path / "cached.onnx")
    assert trt.asked["set"] == []
    assert [shapes["target"] for shapes in trt.profiles] == [
        ((108, 64), (108, 64), (108, 64)),
        ((48, 64), (48, 64), (144, 64)),
    ]
    assert all(shapes["pixels"][0][0] == 1 for shapes in trt.profiles)


def test_the_timing_cache_is_read_and_written(tmp_path: Path) -> None:
    first, second = TensorRT(), TensorRT()
    build(tmp_path, first)
    assert (first.asked["cache"], (tmp_path / "timing.cache").read_bytes()) == (b"", CACHE)
    build(tmp_path, second)
    assert (second.asked["cache"], second.asked["ignore_mismatch"]) == (CACHE, False)


def test_what_is_chosen_reaches_the_builder(tmp_path: Path) -> None:
    trt = TensorRT()
    build(tmp_path, trt, level=5, workspace_bytes=1 << 30, refit=True, same_family=True, version_compatible=True)
    config = trt.asked["config"]
    assert trt.asked["set"] == ["refit", "version compatible"]
    assert (config.builder_optimization_level, config.hardware_compatibility_level) == (5, "same family")
    assert trt.asked["workspace"] == 1 << 30


@pytest.mark.parametrize(
    ("refuses", "said"),
    [("parse", "no importer for Det"), ("profile", "refuses a profile of cached"), ("build", "could not build cached")],
)
def test_a_refusal_is_one_line(tmp_path: Path, refuses: str, said: str) -> None:
    with pytest.raises(BackendError, match=said) as caught:
        build(tmp_path, TensorRT(refuses))
    assert "\n" not in str(caught.value)
