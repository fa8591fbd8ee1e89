"""A poll that backs off while nothing happens, and is never later than it promised."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torc_spool.pace import Pace

LAW = settings(deadline=None)  # no test fails because the machine is busy
FIRST, LAST = 1.0, 30.0

moments = st.floats(0, 100, allow_nan=False)
steps = st.lists(st.tuples(st.sampled_from(["now", "hurry", "slower"]), moments))


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    return Pace(FIRST, clock=clock)


def do(pace: Pace, step: str) -> None:
    if step == "slower":
        pace.slower(LAST)
    elif step == "hurry":
        pace.hurry()
    else:
        pace.now()


def test_the_first_look_is_due_after_the_first_interval(pace: Pace, clock: Clock) -> None:
    assert not pace.due()
    clock.now += FIRST
    assert pace.due()


def test_a_look_stays_due_until_it_is_told_of(pace: Pace, clock: Clock) -> None:
    clock.now += FIRST
    assert pace.due()
    assert pace.due()
    pace.slower(LAST)
    assert not pace.due()


def test_while_nothing_happens_intervals_double_up_to_the_last(pace: Pace, clock: Clock) -> None:
    intervals = []
    for _ in range(8):
        clock.now = pace.at
        pace.slower(LAST)
        intervals.append(pace.at - clock.now)
    assert intervals == [2, 4, 8, 16, 30, 30, 30, 30]


def test_after_something_happened_intervals_start_anew(pace: Pace, clock: Clock) -> None:
    for _ in range(8):
        pace.slower(LAST)
    pace.hurry()
    assert pace.at == clock.now + FIRST
    pace.slower(LAST)
    assert pace.at == clock.now + 2 * FIRST


def test_hurry_does_not_put_off_what_is_due_sooner(pace: Pace, clock: Clock) -> None:
    clock.now += 0.75 * FIRST
    pace.hurry()
    assert pace.at == clock.now + 0.25 * FIRST


def test_events_that_never_end_do_not_put_off_a_look_for_ever(pace: Pace, clock: Clock) -> None:
    for _ in range(10):
        pace.hurry()
        clock.now += FIRST / 8
    assert pace.due()


def test_now_is_due_at_once(pace: Pace) -> None:
    pace.slower(LAST)
    pace.now()
    assert pace.due()


@LAW
@given(steps)
def test_the_next_look_is_never_further_away_than_the_last_interval(steps: list[tuple[str, float]]) -> None:
    clock = Clock()
    pace = Pace(FIRST, clock=clock)
    for step, passed in steps:
        clock.now += passed
        before = pace.at
        do(pace, step)
        assert pace.at <= clock.now + LAST
        if step == "hurry":
            assert clock.now <= pace.at <= clock.now + FIRST
            assert pace.at <= max(before, clock.now)
        elif step == "now":
            assert pace.due()
        else:
            assert pace.at > clock.now


@LAW
@given(steps, moments)
def test_it_is_due_from_the_moment_it_names_on(steps: list[tuple[str, float]], passed: float) -> None:
    clock = Clock()
    pace = Pace(FIRST, clock=clock)
    for step, _ in steps:
        do(pace, step)
    clock.now += passed
    assert pace.due() == (clock.now >= pace.at)
