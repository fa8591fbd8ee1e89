"""What made an attempt end as it did, beyond its return code; and what the death of a runner says of its jobs: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import msgspec

from torc_spool.handlers import RETURN_CODE_RUNTIME
from torc_spool.model import Attempt, Job, Needs, Resources
from torc_spool.oomkills import NOT_KNOWN, OomKills

RUNNER_DIED = "runner_died"  # by itself, or with its node: perhaps it was the job that killed it
ALLOCATION_ENDED = "allocation_ended"  # at its walltime, canceled, preempted, requeued: that says nothing of the job
OUT_OF_MEMORY = "out_of_memory"
OUT_OF_TIME = "out_of_time"  # of its own stated runtime
RUNNER_ENDED = "runner_ended"  # it was stopped, or its time was over, or that of its allocation
KILLED_RUNNERS = "killed_runners"  # several times: it is not given to another

RETURN_CODE_KILLED = 137  # by SIGKILL; so Torc records a job that was killed for its memory

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


def of_exit(code: int, before: OomKills = NOT_KNOWN, after: OomKills = NOT_KNOWN, *, is_alone: bool) -> str | None:
    """What a return code and the kernel's counts before and after tell of a job that ended by itself; None: a failure
    like any other.

    A job that was killed has run out of memory if the kernel has killed for that anywhere on this host meanwhile (the
    job may have a container of its own), or if nobody counts. Of a job that failed in another way a part may have been
    killed: that is known only where no other job ran beside it.
    """
    if code == RETURN_CODE_RUNTIME:
        return OUT_OF_TIME
    own, host = _rise(before.own, after.own), _rise(before.host, after.host)
    if code == RETURN_CODE_KILLED:
        return OUT_OF_MEMORY if own or host or (own is None and host is None) else None
    return OUT_OF_MEMORY if code and own and is_alone else None


def stated(cause: str | None, resources: Resources) -> dict[str, Any]:
    """What an attempt had that was out of memory or time: fields of its record."""
    if cause not in (OUT_OF_MEMORY, OUT_OF_TIME):
        return {}
    return {"stated_memory_bytes": resources.memory_bytes, "stated_runtime_s": resources.runtime_s}


def needs_then(job: Job) -> set[Needs]:
    """What its name may have told when it was out of memory or time; it may have been given more since."""
    return {
        msgspec.structs.replace(
            job.resources, memory_bytes=attempt.stated_memory_bytes, runtime_s=attempt.stated_runtime_s
        ).needs
        for attempt in job.attempts
        if attempt.cause in (OUT_OF_MEMORY, OUT_OF_TIME)
    }


def _rise(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(0, after - before)


def max_runner_deaths(settings: Mapping[str, Any]) -> int:
    """After so many a job is set aside as failed; 0: never."""
    value = settings.get(SETTING)
    return value if isinstance(value, int) and value >= 0 else MAX_RUNNER_DEATHS


def has_killed_too_many(attempts: Sequence[Attempt], cause: str, most: int) -> bool:
    """Whether a job whose runner has died once more of this cause shall not run again by itself."""
    return most > 0 and cause in _MAY_BE_THE_JOB and 1 + runner_deaths(attempts) >= most


def runner_deaths(attempts: Sequence[Attempt]) -> int:
    """How many runners have died while they ran the job, since it last came to an outcome: who brings it back from
    there starts anew."""
    lost = takewhile(lambda attempt: attempt.outcome is None, reversed(attempts))
    return sum(attempt.cause in _MAY_BE_THE_JOB for attempt in lost)
