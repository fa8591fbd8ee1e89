"""What becomes of a job that was in the hands of a dead runner, and what is noted of the attempt that was lost."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from torc_spool import causes
from torc_spool.contents import Content
from torc_spool.errors import DamagedFile
from torc_spool.model import OUTCOMES, Attempt, Status
from torc_spool.naming import Cause
from torc_spool.store import Place, Store


class Loss(NamedTuple):
    """A runner's death, as its jobs know it."""

    runner: str
    host: str | None
    evidence: str | None
    walltime: str | None  # why its running jobs are terminated, where its allocation ended so
    cause: str  # what the death says of them: a word of `causes`


def of(store: Store, place: Place, wishes: Collection[Cause], loss: Loss) -> str:
    """What is to be done with a job of the dead: "requeue", "keep result", "cancel", "terminate", "fail", "set aside";
    "gone" where its file is not there any more."""
    try:
        content = store.read_job(store.path(place), place.name.id)
    except DamagedFile:
        return "set aside"
    if content is None:
        return "gone"
    # one in pending is of an earlier run of the same attempt, moved back by hand: it is to be run again
    shown = result(content, place.name.attempt) if place.status is Status.RUNNING else None
    if shown is not None and shown.retry_rule is None:
        return "keep result"
    if Cause(place.name.id, place.name.attempt) in wishes:
        return "cancel"
    # where the attempt is noted as lost, another taker has begun to give the job back
    attempts = content.job.attempts
    is_noted = bool(attempts) and attempts[-1].attempt >= place.name.attempt
    if place.status is Status.RUNNING and not is_noted:
        if loss.walltime is not None:
            return "terminate"
        if causes.has_killed_too_many(attempts, loss.cause, causes.max_runner_deaths(store.workflow.settings)):
            return "fail"
    return "requeue"


def result(content: Content, attempt: int) -> Attempt | None:
    """The result of that attempt, where the file holds it."""
    last = content.job.attempts[-1] if content.job.attempts else None
    return last if last is not None and last.attempt == attempt and last.outcome in OUTCOMES else None


def lost(
    place: Place, content: Content, loss: Loss, started: Mapping[str, Any], outcome: Status | None, *, by: str
) -> Attempt | None:
    """The attempt that ended with its runner, with the evidence, who notes it (`by`), and what the runner's journal
    says of it. None where it is noted already."""
    loss = _of_its_own_runner(loss, started)
    if content.job.attempts and content.job.attempts[-1].attempt >= place.name.attempt:
        return None
    stdout, stderr, gpus = (_text(started.get(name)) for name in ("stdout", "stderr", "gpus"))
    began = started.get("time")
    cause = _cause(loss, outcome)
    return Attempt(
        attempt=place.name.attempt,
        outcome=outcome,
        runner=loss.runner,
        host=loss.host,
        reason=_reason(content, loss, outcome),
        cause=cause,
        evidence=loss.evidence,
        recovered_by=by,
        start_time=began if isinstance(began, float) else None,
        end_time=time.time(),
        stdout=stdout,
        stderr=stderr,
        gpus=gpus,
        **causes.stated(cause, content.job.resources),
    )


def _of_its_own_runner(loss: Loss, started: Mapping[str, Any]) -> Loss:
    """Who died last may only have taken the work of who ran the job, and not have come to the end of that."""
    runner = _text(started.get("runner"))
    if runner in (None, loss.runner):
        return loss
    evidence = f"{loss.runner} had taken it for dead, and died before it was through: {loss.evidence}"
    return loss._replace(runner=runner, host=_text(started.get("host")), evidence=evidence)


def _reason(content: Content, loss: Loss, outcome: Status | None) -> str:
    died = f"its runner died: {loss.evidence}"
    if outcome is Status.CANCELED:
        return f"canceled by request; {died}"
    if outcome is Status.FAILED:
        deaths = 1 + causes.runner_deaths(content.job.attempts)
        return f"killed its runner {deaths} time{'s' if deaths > 1 else ''}"
    if outcome is Status.TERMINATED and loss.walltime is not None:
        return loss.walltime
    return died


def _cause(loss: Loss, outcome: Status | None) -> str:
    killed = outcome is Status.FAILED and loss.cause == causes.RUNNER_DIED
    return causes.KILLED_RUNNERS if killed else loss.cause


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
