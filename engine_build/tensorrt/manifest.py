"""What a folder of engines was built from, as JSON beside them, and whether it may run here.

An engine is bound to the TensorRT that built it, to a GPU architecture and to weights. Loading one elsewhere
crashes late or answers wrongly, so every difference is refused at once, in one line.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from engine_build.errors import BackendError

FILE = "manifest.json"
FORMAT = 1
_REBUILD = "run: changeroom engine build"


@dataclass(frozen=True)
class EngineFile:
    """One engine: its file, the file's SHA-256, and for each bucket min, opt and max of every input."""

    file: str
    sha256: str
    profiles: list[dict[str, list[list[int]]]]


@dataclass(frozen=True)
class Manifest:
    """Everything that must agree before an engine is used; `arch` is like 90, `driver` CUDA's number like 12080."""

    model: str
    checkpoint: str
    tensorrt: str
    driver: int
    gpu: str
    arch: int
    attention: str
    precision: str
    plugin: str | None
    buckets: list[str]
    engines: dict[str, EngineFile] = field(default_factory=dict)
    fp8: bool = False
    refit: bool = False
    format: int = FORMAT

    def save(self, folder: Path) -> None:
        """Writes `manifest.json`."""
        text = json.dumps(asdict(self), indent=2, sort_keys=True)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises BackendError when it is missing or cannot be read."""
        path = folder / FILE
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            engines = {name: EngineFile(**engine) for name, engine in values.pop("engines").items()}
            loaded = cls(**values, engines=engines)
        except FileNotFoundError as error:
            raise BackendError(f"{path} is missing: no engines were built there; {_REBUILD}") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BackendError(f"{path} cannot be read ({error}); {_REBUILD}") from error
        if loaded.format != FORMAT:
            raise BackendError(f"{path} has format {loaded.format}, this version reads {FORMAT}; {_REBUILD}")
        return loaded

    def require(self, *, checkpoint: str, tensorrt: str, driver: int, arch: int) -> None:
        """Raises BackendError, naming the first difference, when these engines do not belong to what is here."""
        for what, built, here in (
            ("weights", self.checkpoint[:12], checkpoint[:12]),
            ("TensorRT", self.tensorrt, tensorrt),
            ("GPU architecture", f"sm_{self.arch}", f"sm_{arch}"),
        ):
            if built != here:
                raise BackendError(f"the engines were built for {what} {built}, here it is {here}; {_REBUILD}")
        if driver < self.driver:
            raise BackendError(
                f"the engines were built with driver {self.driver}, here it is the older {driver}; {_REBUILD}"
            )

    def plan(self, folder: Path, name: str) -> Path:
        """The file of one engine, its content checked. Raises BackendError."""
        if name not in self.engines:
            raise BackendError(f"{folder} has no engine {name!r}; {_REBUILD}")
        engine = self.engines[name]
        path = folder / engine.file
        if not path.is_file():
            raise BackendError(f"{path} is missing; {_REBUILD}")
        if digest_file(path) != engine.sha256:
            raise BackendError(f"{path} is not the file that was built; {_REBUILD}")
        return path


def digest_file(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_checkpoint(folder: Path) -> str:
    """SHA-256 over names and contents of a checkpoint's configurations and tensors, the same on every machine."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".safetensors"):
            digest.update(f"{path.relative_to(folder).as_posix()} {digest_file(path)}\n".encode())
    return digest.hexdigest()
