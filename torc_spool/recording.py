"""From a result to what is shown of it: the last steps of an attempt (f1 to f3), and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torc_spool import fsops, handlers, naming
from torc_spool.actor import Actor, Given
from torc_spool.errors import StorageError
from torc_spool.execution import Execution
from torc_spool.model import Attempt, Status
from torc_spool.naming import Cause
from torc_spool.served import Claimed, Served


def record(actor: Actor, execution: Execution, attempt: Attempt) -> Given | None:
    """The result is written (f1, f2), then it is shown (f3), or the job is given back to be run again (f3').

    None when the job's file was moved away by hand. Raises Fenced; StorageError, and then it may be called again:
    what is written is not written anew, for a move that was refused may have happened all the same.
    """
    if not execution.is_recorded and not actor.record_result(execution.filename, execution.content, attempt):
        return None
    execution.is_recorded = True
    if attempt.retry_rule is not None:
        return actor.give_back(execution.filename, execution.name, execution.job)
    assert attempt.outcome is not None
    return Given(None, attempt.outcome) if actor.show(execution.filename, attempt.outcome) else None


def follow(served: Served, execution: Execution, attempt: Attempt, came: Given | None) -> Iterator[str]:
    """What follows from a result that is recorded; yields what is to be told. Raises StorageError, Fenced."""
    job, name = execution.job, execution.name
    if came is None:
        yield f"job {job.name} was moved away while it ran; its result is not recorded"
        return
    is_retried = attempt.retry_rule is not None
    served.owner().note(_event("retry" if is_retried else "end", name.id, attempt))
    if attempt.outcome is not Status.COMPLETED:
        yield _sentence(execution, attempt, came)
    elif execution.stdio.delete_on_success:
        yield from _delete_output(execution)
    if is_retried:
        follow_given(served, execution, came)
        return
    if attempt.outcome is Status.CANCELED:
        served.obeyed(naming.Request(job=Cause(name.id, name.attempt)))
    assert attempt.outcome is not None
    served.add(served.settler.after(name.id, name.attempt, attempt.outcome))


def follow_given(served: Served, execution: Execution, given: Given) -> None:
    """What follows when a job was given back: it can be claimed, or it was canceled."""
    name = execution.name
    if given.entry is not None:
        served.add([given.entry])
    elif given.outcome is not None:
        served.add(served.settler.after(name.id, name.attempt + 1, given.outcome))


def obey_late_wish(served: Served, claimed: Claimed) -> bool:
    """A wish to cancel an attempt after which the job came back, where who gave it back died before he could see it
    (X21): it is obeyed before the next attempt starts. False when there is none, or the job's file is gone. Raises
    StorageError, Fenced."""
    name, shown = claimed.name, handlers.last_shown(claimed.content.job.attempts)
    if name.attempt - 1 <= shown:
        return False
    wishes = [wish for wish in served.wishes()[0] if wish.id == name.id and shown < wish.attempt < name.attempt]
    if not wishes or not served.owner().show(claimed.filename, Status.CANCELED, Status.PENDING):
        return False
    for wish in wishes:
        served.obeyed(naming.Request(job=wish))
    served.add(served.settler.after(name.id, name.attempt, Status.CANCELED))
    return True


def _event(event: str, job: int, attempt: Attempt) -> dict[str, Any]:
    rule = {} if attempt.retry_rule is None else {"rule": attempt.retry_rule}
    return {
        "event": event,
        "id": job,
        "attempt": attempt.attempt,
        "outcome": attempt.outcome,
        "return_code": attempt.return_code,
        "time": attempt.end_time,
        **rule,
    }


def _sentence(execution: Execution, attempt: Attempt, came: Given) -> str:
    text = f"{attempt.outcome}: job {execution.job.name} (attempt {attempt.attempt}): {attempt.reason}"
    if attempt.retry_rule is not None and came.entry is None:
        text += "; canceled by request before it could be run again"
    elif attempt.retry_rule is not None and execution.handler is not None:
        handler = f"rule {attempt.retry_rule} of failure handler {execution.handler.name}"
        text += f"; attempt {attempt.attempt + 1} follows by {handler}"
    if execution.outputs.stderr is not None:
        text += f"; stderr: {execution.outputs.stderr}"
    return text


def _delete_output(execution: Execution) -> Iterator[str]:
    """An output that cannot be removed is left, and said: its job has completed all the same."""
    for path in sorted(execution.made):
        try:
            fsops.remove_file(path)
        except StorageError as error:
            yield f"output of job {execution.job.name} is left: {error}"
