"""Grouping under the token budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from step_engine import PERSON, StepEngine

from engine_build.engine import ImageInput, TryOnRequest
from service.jobs.schemas import Claim, GarmentRef, JobSpec
from service.worker.batching import Prepared, group, request_tokens


def prepared(name: str, tokens: int, attempt: int = 1) -> Prepared:
    spec = JobSpec(
        id=name, person="p", garments=(GarmentRef(blob="g"),), instruction="", instruction_by="grammar",
        seed=0, created_at=0, deadline_at=1, tokens=tokens,
    )  # fmt: skip
    picture = ImageInput(PERSON, "h")
    request = TryOnRequest(name, picture, (picture,), "")
    return Prepared(Claim(spec=spec, fence=1, attempt=attempt, entry="e"), request, tokens)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 3)), max_size=20), st.integers(1, 50))
def test_batches_keep_order_and_fit(jobs: list[tuple[int, int]], budget: int):
    items = [prepared(str(index), tokens, attempt) for index, (tokens, attempt) in enumerate(jobs)]
    batches = group(items, budget)
    assert [item for batch in batches for item in batch] == items
    for batch in batches:
        assert len(batch) == 1 or sum(item.tokens for item in batch) <= budget
        assert len(batch) == 1 or all(item.claim.attempt == 1 for item in batch)


def test_neighbours_that_fit_share_a_batch():
    items = [prepared("a", 3), prepared("b", 3), prepared("c", 3)]
    assert [[item.request.id for item in batch] for batch in group(items, 6)] == [["a", "b"], ["c"]]


def test_a_job_delivered_before_runs_alone():
    items = [prepared("a", 1), prepared("b", 1, attempt=2), prepared("c", 1)]
    assert [len(batch) for batch in group(items, 10)] == [1, 1, 1]


def test_tokens_are_the_engines_own_count():
    class Sized(StepEngine):
        def cost(self, width: int, height: int, garments: int) -> int:
            return width * height * garments

    request = prepared("a", 0).request
    assert request_tokens(Sized(), request) == 768 * 1024
