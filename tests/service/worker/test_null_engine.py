"""The null engine's faults: off unless its name asks for them, and only for the seeds it names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from engine_build.engine import ImageInput, TryOnRequest
from engine_build.errors import BackendError, EngineError, RequestError
from service.errors import InvalidRequest
from service.worker.null_engine import NullEngine


def request(seed: int) -> TryOnRequest:
    picture = ImageInput(Image.new("RGB", (8, 8)), str(seed))
    return TryOnRequest(id=str(seed), person=picture, garments=(picture,), instruction="", seed=seed)


@pytest.mark.parametrize(("fault", "error"), [("error", RuntimeError), ("lost", EngineError)])
def test_a_fault_strikes_the_batch_of_its_seed(fault: str, error: type[Exception]) -> None:
    engine = NullEngine.parse(f"null:2:0:{fault}@13")
    with pytest.raises(error):
        engine.run([request(1), request(13)])
    assert [outcome.status for outcome in engine.run([request(1), request(14)])] == ["succeeded"] * 2


def test_a_lack_of_memory_ends_when_the_request_runs_alone() -> None:
    engine = NullEngine.parse("null:2:0:oom@13,error@14")
    mate, starved = engine.run([request(1), request(13)])
    assert (mate.status, starved.status, type(starved.error)) == ("succeeded", "failed", MemoryError)
    assert engine.run([request(13)])[0].status == "succeeded"


@pytest.mark.parametrize("faults", ["", "slow@1", "error", "error@x", "a:b"])
def test_other_names_are_refused(faults: str) -> None:
    with pytest.raises(InvalidRequest, match=r"NAME@SEED|null:STEPS"):
        NullEngine.parse(f"null:2:0:{faults}")


def test_it_has_no_adapters_and_ignores_none(tmp_path: Path) -> None:
    engine = NullEngine.parse("null")
    with pytest.raises(BackendError, match="no model"):
        engine.register_adapter("velvet", tmp_path / "velvet.safetensors")
    with pytest.raises(RequestError, match="no adapter named 'velvet'"):
        engine.remove_adapter("velvet")
    plain, refused = engine.run([request(1), replace(request(2), adapters=(("velvet", 1.0),))])
    assert (plain.status, engine.adapters()) == ("succeeded", ())
    assert isinstance(refused.error, RequestError)
