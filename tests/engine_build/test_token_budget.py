"""The rule of the token budget: order kept, budget kept, nobody left out, and who is alone stays alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine_build.token_budget import batches

REQUESTS = st.lists(st.tuples(st.integers(1, 1500), st.booleans()), max_size=30)


@given(REQUESTS, st.integers(1, 1200))
def test_every_batch_is_as_full_as_its_order_allows(requests: list[tuple[int, bool]], budget: int) -> None:
    made = list(batches(requests, budget, lambda one: one[0], lambda one: one[1]))
    assert [one for batch in made for one in batch] == requests
    for batch, after in zip(made, [*made[1:], [None]], strict=False):
        used = sum(tokens for tokens, _ in batch)
        assert used <= budget or len(batch) == 1
        assert len(batch) == 1 or not any(alone for _, alone in batch)
        follower = after[0]
        if follower is not None and not batch[-1][1] and not follower[1]:
            assert used + follower[0] > budget


def test_nothing_makes_no_batch() -> None:
    assert list(batches([], 10, int)) == []
