"""What made an attempt end as it did, beyond its return code; and what the death of a runner says of its jobs: pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torc_spool.model import Attempt

RUNNER_DIED = "runner_died"  # by itself, or with its node: perhaps it was the job that killed it
ALLOCATION_ENDED = "allocation_ended"  # at its walltime, canceled, preempted, requeued: that says nothing of the job
OUT_OF_MEMORY = "out_of_memory"
KILLED_RUNNERS = "killed_runners"  # several times: it is not given to another

MAX_RUNNER_DEATHS = 3
SETTING = "max_runner_deaths"  # in the settings of a workflow

_BY_THEMSELVES = {"FAILED": RUNNER_DIED, "NODE_FAIL": RUNNER_DIED, "OUT_OF_MEMORY": OUT_OF_MEMORY}
_MAY_BE_THE_JOB = (RUNNER_DIED, OUT_OF_MEMORY)


def of_allocation(state: str, *, is_requeued: bool, was_dead_before: bool) -> str:
    """What the end of an allocation says of the jobs that its dead runner ran. `state` is Slurm's word.

    A node may have failed because of a job, and the runner is killed where it, or its job, uses up the memory of the
    allocation. A limit of time, a person, other users and what Slurm has forgotten tell nothing of a job.
    """
    if is_requeued:
        return ALLOCATION_ENDED
    return RUNNER_DIED if was_dead_before else _BY_THEMSELVES.get(state, ALLOCATION_ENDED)


def max_runner_deaths(settings: Mapping[str, Any]) -> int:
    """After so many a job is set aside as failed; 0: never."""
    value = settings.get(SETTING)
    return value if isinstance(value, int) and value >= 0 else MAX_RUNNER_DEATHS


def has_killed_too_many(attempts: Sequence[Attempt], cause: str, most: int) -> bool:
    """Whether a job whose runner has died once more of this cause shall not run again by itself."""
    return most > 0 and cause in _MAY_BE_THE_JOB and 1 + runner_deaths(attempts) >= most


def runner_deaths(attempts: Sequence[Attempt]) -> int:
    """How many runners have died while they ran the job, since its outcome was last shown: who brings it back from
    there starts anew."""
    return sum(attempt.outcome is None and attempt.cause in _MAY_BE_THE_JOB for attempt in _since_shown(attempts))


def _since_shown(attempts: Sequence[Attempt]) -> Iterator[Attempt]:
    for attempt in reversed(attempts):
        if attempt.outcome is not None and attempt.retry_rule is None:
            return
        yield attempt
