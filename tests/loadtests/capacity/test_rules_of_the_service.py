"""The simulation's numbers are those of the service: of its atomic scripts, its token estimate and its settings."""

from __future__ import annotations

import re

import pytest

from loadtests.capacity import admission, fleet, line, simulation
from loadtests.capacity.fleet import SimulatedFleet, packed_length
from service.gateway.work import fleet as gateway_fleet
from service.jobs.store import script_text
from service.settings import Settings

NUMBER = r"[\d.]+"


def named(script: str, name: str) -> float:
    """The value of `local name = number`, also one of `local other, name = 1, 2`, in a script."""
    for names, values in re.findall(rf"^\s*local ([\w, ]+) = ({NUMBER}(?:, {NUMBER})*)$", script_text(script), re.M):
        found = dict(zip(names.split(", "), values.split(", "), strict=True))
        if name in found:
            return float(found[name])
    raise AssertionError(f"{script}.lua: no `local {name} = number`")


def within(script: str, pattern: str) -> list[float]:
    """The numbers at the groups of a pattern, which a script must hold once."""
    found = re.findall(pattern, script_text(script))
    assert len(found) == 1, f"{script}.lua: {pattern} is there {len(found)} times"
    return [float(number) for number in (found[0] if isinstance(found[0], tuple) else found)]


def test_who_has_room() -> None:
    for name in ("LEAST_WAITING", "ROOM_SHARE", "LIGHT_ROOM"):
        assert getattr(admission, name) == named("reserve", name), name
    assert within("reserve", rf"own < room / ({NUMBER}) and") == [admission.LIGHT_PART]


def test_learned_seconds_of_a_job() -> None:
    known, new = within("finish", rf"seconds = ({NUMBER}) \* tonumber\(known\) \+ ({NUMBER}) \* seconds")
    assert (new, known) == pytest.approx((admission.LEARNING, 1 - admission.LEARNING))


def test_rate_of_a_key() -> None:
    window_ms = 1000 * admission.RATE_WINDOW_S
    assert [window_ms] == within("reserve", rf"local gap = ({NUMBER}) / rate")
    assert [window_ms] == within("reserve", rf"arrival - now > ({NUMBER}) - gap")[:1]


def test_line_of_waiting_jobs() -> None:
    entries = re.findall(r"HANDICAP_MS = \{(.*)\}", script_text("claim"))
    handicaps = dict(entry.split(" = ") for entry in entries[0].split(", "))
    assert {name: 1000 * seconds for name, seconds in line.HANDICAP_S.items()} == {
        name: float(milliseconds) for name, milliseconds in handicaps.items()
    }
    assert named("submit", "DEBT_MS") == 1000 * line.DEBT_S
    assert within("submit", rf"math\.max\(now, last \+ ({NUMBER}),") == [1000 * line.STEP_S]


def test_tokens_of_a_request() -> None:
    for name in ("TEXT_TOKENS", "PIXELS_A_TOKEN", "GARMENT_PIXELS"):
        assert getattr(fleet, name) == getattr(gateway_fleet, name), name
    usual = SimulatedFleet(1)
    assert (usual.tokens, usual.garment_tokens) == packed_length(*gateway_fleet.DEFAULT_SIZE)


def test_settings_left_alone() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    usual = SimulatedFleet(1)
    assert (usual.max_in_flight, usual.lease_s, usual.max_attempts, usual.deadline_s) == (
        defaults["max_in_flight"],
        defaults["lease_s"],
        defaults["max_attempts"],
        defaults["deadline_default_s"],
    )
    assert defaults["sweep_s"] == simulation.SWEEP_S
