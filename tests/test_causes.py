"""What the death of a runner says of its jobs, and when a job is given to no other."""

from __future__ import annotations

import os
import signal
from typing import Any

import cliutil
import pytest
from cliutil import Lab
from hypothesis import given
from hypothesis import strategies as st

from torc_spool import causes
from torc_spool.causes import (
    ALLOCATION_ENDED,
    OUT_OF_MEMORY,
    RUNNER_DIED,
    has_killed_too_many,
    max_runner_deaths,
    of_allocation,
    runner_deaths,
)
from torc_spool.model import Attempt, Status
from torc_spool.squeue import ENDED

lab = cliutil.lab


def attempts(*kinds: Any) -> list[Attempt]:
    """Of each a cause (lost with its runner), an outcome, or a retry by a failure handler (a number)."""
    made = []
    for number, kind in enumerate(kinds, 1):
        if isinstance(kind, int):
            made.append(Attempt(attempt=number, outcome=Status.FAILED, retry_rule=kind))
        elif isinstance(kind, Status):
            made.append(Attempt(attempt=number, outcome=kind))
        else:
            made.append(Attempt(attempt=number, cause=kind))
    return made


def test_only_what_may_be_the_doing_of_the_job_is_counted() -> None:
    told = {state: of_allocation(state, is_requeued=False, was_dead_before=False) for state in ENDED}
    assert {state for state, cause in told.items() if cause != ALLOCATION_ENDED} == {
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
    }
    assert told["OUT_OF_MEMORY"] == OUT_OF_MEMORY
    assert of_allocation("NODE_FAIL", is_requeued=True, was_dead_before=False) == ALLOCATION_ENDED
    assert of_allocation("TIMEOUT", is_requeued=False, was_dead_before=True) == RUNNER_DIED
    assert of_allocation("UNKNOWN", is_requeued=False, was_dead_before=False) == ALLOCATION_ENDED


@pytest.mark.parametrize(
    ("before", "count"),
    [
        ((), 0),
        ((RUNNER_DIED, OUT_OF_MEMORY), 2),
        ((RUNNER_DIED, ALLOCATION_ENDED, None, RUNNER_DIED), 2),
        ((RUNNER_DIED, 1, RUNNER_DIED), 2),
        ((RUNNER_DIED, RUNNER_DIED, Status.FAILED, RUNNER_DIED), 1),
        ((RUNNER_DIED, Status.COMPLETED), 0),
    ],
)
def test_deaths_are_counted_back_to_the_last_outcome_that_was_shown(before: tuple[Any, ...], count: int) -> None:
    assert runner_deaths(attempts(*before)) == count


@given(
    st.lists(st.sampled_from((RUNNER_DIED, OUT_OF_MEMORY, ALLOCATION_ENDED, None, 1)), max_size=8),
    st.integers(0, 4),
)
def test_a_job_is_given_up_at_the_number_and_never_for_the_end_of_an_allocation(before: list[Any], most: int) -> None:
    lost = attempts(*before)
    assert not has_killed_too_many(lost, ALLOCATION_ENDED, most)
    assert has_killed_too_many(lost, RUNNER_DIED, most) == (most > 0 and runner_deaths(lost) + 1 >= most)
    assert not has_killed_too_many([*lost, *attempts(Status.FAILED)], RUNNER_DIED, max(most, 2))


def test_what_a_workflow_says_of_the_number_that_is_none_does_not_count() -> None:
    assert [max_runner_deaths({"max_runner_deaths": value}) for value in (0, 5, -1, "x", None)] == [0, 5, 3, 3, 3]
    assert max_runner_deaths({}) == causes.MAX_RUNNER_DEATHS


def run_until_killed(lab: Lab) -> None:
    assert lab.torc("run", 1, code=None).code == -signal.SIGKILL


def test_a_job_that_kills_three_runners_is_failed_and_a_retry_begins_anew(lab: Lab) -> None:
    spared = lab.base / "spared"
    lab.submit(
        {"name": "killer", "command": f"test -e {spared} || kill -9 $PPID; test -e {spared}"},
        {"name": "after", "command": "true", "depends_on": ["killer"]},
    )
    for _ in range(3):
        run_until_killed(lab)
    done = lab.torc("recover", 1, "--dry-run", "-f", "json").json
    assert [row["action"] for row in done["jobs"]] == ["fail"]
    lab.run(1, code=1)
    row = lab.job("killer")
    assert (row["status"], row["reason"], row["cause"]) == ("failed", "killed its runner 3 times", "killed_runners")
    assert [entry["cause"] for entry in row["attempts"]] == ["runner_died", "runner_died", "killed_runners"]
    assert [entry["outcome"] for entry in row["attempts"]] == [None, None, "failed"]
    assert all("is gone from" in entry["evidence"] for entry in row["attempts"])
    assert lab.states()["after"] == "canceled"
    lab.check()
    lab.torc("retry", 1)
    run_until_killed(lab)
    run_until_killed(lab)
    spared.touch()
    lab.run(1)
    assert lab.states() == {"killer": "completed", "after": "completed"}
    assert len(lab.job("killer")["attempts"]) == 6
    lab.check()


def test_the_number_can_be_set_and_one_that_waits_is_not_counted(lab: Lab) -> None:
    lab.submit(
        {"name": "killer", "command": "kill -9 $PPID"}, {"name": "other", "command": "true"}, max_runner_deaths=1
    )
    assert lab.torc("run", 1, "-p", 1, code=None).code == -signal.SIGKILL
    lab.torc("recover", 1)
    row = lab.job("killer")
    assert (row["status"], row["reason"]) == ("failed", "killed its runner 1 time")
    lab.run(1, code=1)
    assert lab.states() == {"killer": "failed", "other": "completed"}
    assert os.listdir(lab.root() / "aside") == []
