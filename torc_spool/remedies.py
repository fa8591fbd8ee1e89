"""What to do about a job that did not complete: run it again with more, run it again as it is, or leave it. Pure."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import msgspec

from torc_spool import causes
from torc_spool.ceilings import Ceiling, Ceilings
from torc_spool.errors import UsageError
from torc_spool.model import MIB, Attempt, Job, Resources, Status
from torc_spool.quantities import MAX_RUNTIME_S, format_duration

MEMORY_MULTIPLIER, RUNTIME_MULTIPLIER, MAX_RETRIES = 1.5, 1.4, 3
_MAX_MEMORY_BYTES = 1 << 60
_OTHER = "failed"  # the cause of one that failed like any other
_BY_ITS_RUNNER = (causes.RUNNER_ENDED, causes.ALLOCATION_ENDED)


class Terms(NamedTuple):
    """How jobs are to be helped."""

    memory_multiplier: float = MEMORY_MULTIPLIER
    runtime_multiplier: float = RUNTIME_MULTIPLIER
    max_retries: int = MAX_RETRIES  # of one job
    retry_unknown: bool = False  # also what failed for other reasons, as it is

    def check(self) -> None:
        """Raises UsageError."""
        for word, factor in (("memory", self.memory_multiplier), ("runtime", self.runtime_multiplier)):
            if not 1 < factor <= 1000:
                raise UsageError(f"--{word}-multiplier must be more than 1, and at most 1000, not {factor:g}")


class Remedy(NamedTuple):
    """What is to be done about one job, and why."""

    cause: str
    resources: Resources  # with which it is to run again
    is_retried: bool
    why: str


def of(job: Job, result: Attempt | None, ceilings: Ceilings, terms: Terms) -> Remedy:
    """`job` is as it would run next, `result` what it has ended with (None: it was moved there by hand).

    A second look at the same job comes to the same: what it gets is counted from what it had when it ended.
    """
    cause = (result.cause if result is not None else None) or _OTHER
    tries = failures(job)

    def leave(why: str) -> Remedy:
        return Remedy(cause, job.resources, False, why)

    resources, why = job.resources, "run again as it is"
    if cause == causes.OUT_OF_MEMORY and result is not None:
        had = result.stated_memory_bytes or result.peak_memory_bytes
        if had is None:
            return leave("it states no memory, and what it used is not known")
        more = _more(had, job.resources.memory_bytes, terms.memory_multiplier, ceilings.memory, MIB, _MAX_MEMORY_BYTES)
        if more is None:
            return leave(f"it had {_mib(had)}, and {ceilings.memory.by} no more than {_mib(ceilings.memory.most)}")
        resources = msgspec.structs.replace(resources, memory_bytes=more)
        note = _capped(more, ceilings.memory) or _not_enough(more, result.peak_memory_bytes)
        why = f"memory {_mib(had)} -> {_mib(more)}{note}"
    elif cause == causes.OUT_OF_TIME and result is not None and result.stated_runtime_s is not None:
        stated = result.stated_runtime_s
        more = _more(stated, job.resources.runtime_s, terms.runtime_multiplier, ceilings.runtime, 1, MAX_RUNTIME_S)
        if more is None:
            most = ceilings.runtime.most or MAX_RUNTIME_S
            return leave(f"it had {format_duration(stated)}, and {ceilings.runtime.by} no more than "
                         f"{format_duration(most)}")  # fmt: skip
        resources = msgspec.structs.replace(resources, runtime_s=more)
        why = f"runtime {format_duration(stated)} -> {format_duration(more)}{_capped(more, ceilings.runtime)}"
    elif cause not in _BY_ITS_RUNNER and not terms.retry_unknown:
        return leave("it failed for a reason that more memory or time does not mend")
    if tries > terms.max_retries:
        times = f"{tries} time{'s' if tries > 1 else ''}"
        return leave(f"it has not completed {times}, and is to be retried {terms.max_retries} at most")
    return Remedy(cause, resources, True, why)


def failures(job: Job) -> int:
    """How many attempts have ended without success, and were shown so.

    The end of its runner does not count for a job that states its runtime: it was no fault of the job's. One that
    states none may be too long for any.
    """
    return sum(
        attempt.outcome in (Status.FAILED, Status.TERMINATED)
        and attempt.retry_rule is None
        and not (attempt.cause in _BY_ITS_RUNNER and job.resources.runtime_s is not None)
        for attempt in job.attempts
    )


def _more(had: int, has: int | None, factor: float, ceiling: Ceiling, unit: int, limit: int) -> int | None:
    """What it shall have: so many times what it had, in whole units, but no more than there is; None: no more than it
    had. What somebody has given it since it ended stays, if that is more."""
    wanted = min(math.ceil(Fraction(str(factor)) * had / unit) * unit, limit)
    if ceiling.most is not None:
        wanted = min(wanted, ceiling.most)
    wanted = max(wanted, has or 0)
    return wanted if wanted > had else None


def _capped(more: int, ceiling: Ceiling) -> str:
    return f" ({ceiling.by} no more)" if more == ceiling.most else ""


def _not_enough(more: int, used: int | None) -> str:
    return f"; it has used {_mib(used)} already, see --memory-multiplier" if used is not None and used > more else ""


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / MIB:.6g} MiB"
