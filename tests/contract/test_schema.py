"""What the OpenAPI document says is what happens: schemathesis against the running gateway finds nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from gateway_live import Live, picture

HERE = Path(__file__).parent


@pytest.mark.timeout(300)
def test_schemathesis_finds_nothing(launch: Callable[..., Live], tmp_path: Path) -> None:
    live = launch(concurrency_per_key=0, max_in_flight=100_000)
    with live.client() as client:
        client.put("/v1/garments/SHIRT-42", files={"image": ("g.jpg", picture(64, 64))})
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
        *("--config-file", str(HERE / "schemathesis.toml"), "run", live.url + "/openapi.json"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "8"),
        *("--max-failures", "20", "--request-timeout", "30", "--seed", "1"),
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Tested: 17" in done.stdout, done.stdout[-3000:]


def test_every_operation_documents_its_errors_as_problems(live: Live) -> None:
    document = httpx.get(live.url + "/openapi.json").json()
    problem = {"$ref": "#/components/schemas/Problem"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            errors = {s: r for s, r in operation["responses"].items() if s >= "400"}
            assert errors, (method, path)
            for answer in errors.values():
                assert answer["content"]["application/problem+json"]["schema"] == problem
            for status in ("429", "503"):
                assert status not in errors or "Retry-After" in errors[status]["headers"]
