"""Votes counted: against a count by hand, against Wilson's formula in another form, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine_build.errors import RequestError
from engine_build.judging.people.votes import count, find_key
from engine_build.judging.people.wilson import Z95, wilson

PAGE = "ab" * 32


def key_file(folder: Path, trials: dict[str, tuple[int, str]], page: str = PAGE) -> Path:
    told = {name: {"sample": f"s-{name}", "garments": n, "left": left} for name, (n, left) in trials.items()}
    path = folder / "page.key.json"
    missing = {"a": ["x"], "b": ["x", "y"]}
    key = {"kind": "changeroom-key", "page": page, "a": "nano", "b": "klein", "missing": missing, "trials": told}
    path.write_text(json.dumps(key))
    return path


def vote_file(path: Path, votes: dict[str, Any], page: str = PAGE) -> Path:
    told = {name: vote if isinstance(vote, dict) else {"vote": vote, "seconds": 1.5} for name, vote in votes.items()}
    path.write_text(json.dumps({"kind": "changeroom-votes", "page": page, "sitting": path.stem, "votes": told}))
    return path


def test_wins_are_unblinded_and_counted_by_garments(tmp_path: Path) -> None:
    key = key_file(tmp_path, {"t1": (1, "a"), "t2": (1, "b"), "t3": (2, "a"), "t4": (2, "b"), "t5": (2, "b")})
    tally = count([vote_file(tmp_path / "v.json", {"t1": "left", "t2": "left", "t3": "same", "t4": "right"})], key)
    one, two, every = tally.rows
    assert [row.garments for row in tally.rows] == ["1", "2", "all"]
    assert (one.win.share, one.tie.share, one.lose.share) == (0.5, 0.0, 0.5)
    assert (two.win.share, two.tie.share, two.lose.share) == (0.5, 0.5, 0.0)
    assert (every.samples, every.votes, tally.samples, tally.left_out) == (4, 4, 5, 2)
    assert tally.left is not None and tally.left.share == pytest.approx(2 / 3)
    assert tally.agreement is None and tally.usable == {}
    assert tally.preference == {"s-t1": 1, "s-t2": -1, "s-t3": 0, "s-t4": 1}
    assert "4 of 5 pairs voted on" in tally.text() and "50% (9 to 91)" in tally.text()


def test_many_people_on_one_sample_are_one_case(tmp_path: Path) -> None:
    key = key_file(tmp_path, {"t1": (1, "a"), "t2": (1, "b")})
    files = [vote_file(tmp_path / f"v{i}.json", {"t1": "left", "t2": "right" if i < 6 else "left"}) for i in range(8)]
    every = count(files, key).rows[-1]
    assert (every.samples, every.votes) == (2, 16)
    assert every.win.share == pytest.approx((1 + 6 / 8) / 2)
    assert count(files, key).preference == {"s-t1": 1, "s-t2": 0.5}
    assert (every.win.low, every.win.high) == (wilson(1.75, 2).low, wilson(1.75, 2).high)
    assert count(files, key).agreement == pytest.approx((28 + 15 + 1) / 56, abs=1e-4)


def test_usable_is_counted_for_each_system_whichever_side_it_was_on(tmp_path: Path) -> None:
    key = key_file(tmp_path, {"t1": (1, "a"), "t2": (3, "b")})
    ship = {"t1": {"vote": "left", "ship": {"left": True, "right": False}}}
    ship["t2"] = {"vote": "same", "ship": {"left": False, "right": True}}
    tally = count([vote_file(tmp_path / "v.json", ship)], key)
    assert tally.usable["a"].share == 1.0 and tally.usable["b"].share == 0.0
    assert "Good enough to ship: B 0% (0 to 66)" in tally.text()


def test_the_same_votes_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    key = key_file(tmp_path, {"t1": (1, "a"), "t2": (1, "b"), "t3": (2, "b")})
    first = vote_file(tmp_path / "one.json", {"t1": "left", "t2": "same", "t3": "right"})
    second = vote_file(tmp_path / "two.json", {"t3": "right", "t1": "right"})
    assert json.dumps(count([first, second], key).as_dict()) == json.dumps(count([second, first], key).as_dict())


def test_votes_of_another_page_are_refused_and_the_right_key_is_found(tmp_path: Path) -> None:
    key = key_file(tmp_path, {"t1": (1, "a")})
    (tmp_path / "elsewhere").mkdir()
    other = vote_file(tmp_path / "elsewhere" / "other.json", {"t1": "left"}, page="cd" * 32)
    mine = vote_file(tmp_path / "mine.json", {"t1": "left"})
    assert find_key([mine]) == key
    with pytest.raises(RequestError, match=r"votes on the page cdcdcdcd, but .* unblinds the page abababab"):
        count([mine, other], key)
    with pytest.raises(RequestError, match="no key of the page cdcdcdcd"):
        find_key([other])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("words", "not JSON"),
        ("[]", "not votes saved by a page"),
        (json.dumps({"kind": "changeroom-votes", "page": PAGE}), "not votes saved by a page"),
        (json.dumps({"kind": "changeroom-votes", "page": PAGE, "votes": {}}), "hold no votes yet"),
        (json.dumps({"kind": "changeroom-votes", "page": PAGE, "votes": {"t9": {"vote": "left"}}}), "'t9' is no vote"),
        (json.dumps({"kind": "changeroom-votes", "page": PAGE, "votes": {"t1": {"vote": "a"}}}), "'t1' is no vote"),
    ],
)
def test_a_file_that_is_no_votes_is_refused(tmp_path: Path, text: str, said: str) -> None:
    key = key_file(tmp_path, {"t1": (1, "a")})
    path = tmp_path / "v.json"
    path.write_text(text)
    with pytest.raises(RequestError, match=said):
        count([path], key)


def test_one_sitting_saved_twice_is_not_two_people(tmp_path: Path) -> None:
    key = key_file(tmp_path, {"t1": (1, "a")})
    path = vote_file(tmp_path / "v.json", {"t1": "left"})
    (tmp_path / "copy.json").write_text(path.read_text())
    with pytest.raises(RequestError, match="are one sitting"):
        count([path, tmp_path / "copy.json"], key)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (0, 20), (3, 20), (10, 20), (20, 20), (7.25, 9)])
def test_wilson_ends_are_where_the_score_test_just_rejects(hits: float, n: int) -> None:
    """The ends are the p for which |share - p| is 1.96 standard errors of p itself."""
    found = wilson(hits, n)
    assert 0 <= found.low <= found.share <= found.high <= 1
    for end in (found.low, found.high):
        if 0 < end < 1:
            assert abs(found.share - end) == pytest.approx(Z95 * (end * (1 - end) / n) ** 0.5, rel=1e-9)
    with pytest.raises(ValueError, match="not a share"):
        wilson(n + 1, n)
