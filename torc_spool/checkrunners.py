"""What is wrong with runners' directories, records, journals and wishes: pure, a part of `check`."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torc_spool import naming
from torc_spool.findings import ANEW, PARKED, Close, Finding, Make, Park, Rewrite, TakeBack
from torc_spool.model import Attempt, Job
from torc_spool.naming import Cause
from torc_spool.picture import Event, JobFile, Known, OwnerDirectory, Picture, Runner


def check_owners(picture: Picture) -> Iterator[Finding]:
    """Directories below pending/ and running/ are of actors that have a record and have not ended."""
    for directory in picture.owners:
        runner = picture.runners.get(directory.holder)
        why = "has no record" if runner is None or not runner.is_said else None
        if runner is not None and runner.ended is not None:
            why = "has ended"
        elif runner is not None and runner.taker is not None:
            taker = picture.runners.get(runner.taker)
            why = f"{runner.taker} has taken, and has ended" if taker is None or taker.ended is not None else why
        if why is None:
            continue
        what = f"{directory.path} is a directory of runner {directory.holder}, which {why}"
        yield _owner(directory, what)


def _owner(directory: OwnerDirectory, what: str) -> Finding:
    if directory.holder != directory.owner:
        return Finding("owner", directory.path, None, what, ANEW, Park(directory.path))
    repair = "what lies in it is taken back as from a dead runner, and the directory is removed"
    return Finding("owner", directory.path, None, what, repair, TakeBack(directory.holder))


# -- requests


def check_requests(picture: Picture) -> Iterator[Finding]:
    """Wishes are about jobs, attempts and runners that there are."""
    attempts: dict[int, int] = {}
    for file in picture.files:
        attempts[file.name.id] = max(attempts.get(file.name.id, 0), file.name.attempt)
    for path, request in picture.requests:
        why = None
        if request.job is not None:
            why = _wish(request.job, attempts, picture.known)
        elif request.runner not in picture.runners:
            why = f"is about runner {request.runner}, of which there is none"
        if why is not None:
            yield Finding("request", path, request.job and request.job.id, f"{path} {why}", PARKED, Park(path))


def _wish(wish: Cause, attempts: dict[int, int], known: Known) -> str | None:
    if wish.id > known.num_jobs:
        return f"is about job {wish.id}, and the workflow has {known.num_jobs}"
    if wish.id in attempts and wish.attempt > attempts[wish.id]:
        return f"is about attempt {wish.attempt}, and the job has come to attempt {attempts[wish.id]}"
    return None


# -- records and journals


def check_runners(picture: Picture) -> Iterator[Finding]:
    """Each runner of which anything tells has a record, a heartbeat, and a journal that the jobs' files bear out."""
    ran = _ran(picture.files)
    named = {*ran, *(file.name.runner for file in picture.actions if file.name.runner is not None)}
    holders = {name for each in picture.owners for name in (each.holder, each.owner)}
    files = {file.name.id: file for file in picture.files}
    for name, runner in sorted(picture.runners.items()):
        if "runner.json" not in runner.files:
            is_closed = runner.ended == "dead" and runner.files == {"end.json"}
            if not is_closed and name not in holders and (runner.files or name in named):
                yield _close(runner.path, f"{runner.path} is of a runner whose record is gone", runner.files)
            continue
        has_lived = runner.ended == "ended" or name in holders or name in named or "journal" in runner.files
        if has_lived and "heartbeat" not in runner.files:
            path = f"{runner.path}/heartbeat"
            yield Finding("runner", path, None, f"{path} is not there", "it is made", Make(path, is_file=True))
        why = "is not there" if has_lived and "journal" not in runner.files else None
        why = why or _contradiction(runner, name, files, ran.get(name, []))
        if why is not None:
            path = f"{runner.path}/journal"
            repair = f"it is made anew from the jobs' files, which hold; {PARKED}"
            yield Finding("journal", path, None, f"{path} {why}", repair, Rewrite(path, _retold(ran.get(name, []))))
    for name in sorted(named - picture.runners.keys() - holders):
        yield _close(f"runners/{name}", f"runner {name} has run something, and has no record")


def _close(path: str, what: str, left: Collection[str] = ()) -> Finding:
    repair = "it is noted there as dead, and its record as lost"
    return Finding("runner", path, None, what, repair, Close(path, tuple(sorted(left))))


def _ran(files: list[JobFile]) -> dict[str, list[tuple[int, Attempt]]]:
    """The attempts in the jobs' files by the runner that they name."""
    ran: dict[str, list[tuple[int, Attempt]]] = {}
    for file in files:
        for entry in file.job.attempts if file.job is not None else ():
            if entry.runner is not None and naming.is_runner(entry.runner):  # it becomes a path
                ran.setdefault(entry.runner, []).append((file.name.id, entry))
    return ran


def _retold(ran: list[tuple[int, Attempt]]) -> tuple[Event, ...]:
    return tuple(
        Event("end" if entry.retry_rule is None else "retry", job, entry.attempt, entry.outcome)
        for job, entry in ran
        if entry.outcome is not None
    )


def _contradiction(runner: Runner, name: str, files: dict[int, JobFile], ran: list[tuple[int, Attempt]]) -> str | None:
    told = {(event.job, event.attempt): event.outcome for event in runner.journal if event.event in ("end", "retry")}
    for (number, attempt), outcome in told.items():
        file = files.get(number)
        if file is None or file.job is None or _is_younger(file, attempt):
            continue
        entry = _entry(file.job, attempt)
        if entry is None:
            return f"tells the end of attempt {attempt} of job {number}, and the job's file does not have it"
        if entry.outcome is not None and outcome is not None and entry.outcome != outcome:
            return f"tells that attempt {attempt} of job {number} {outcome}, and the job's file that it {entry.outcome}"
        if entry.runner not in (None, name):
            return f"tells the end of attempt {attempt} of job {number}, which runner {entry.runner} had"
    if runner.ended != "ended":
        return None  # who was killed may have recorded what it could not tell any more
    for number, entry in ran:
        if entry.outcome is not None and (number, entry.attempt) not in told:
            return f"lacks the end of attempt {entry.attempt} of job {number}, which the job's file has"
    return None


def _is_younger(file: JobFile, attempt: int) -> bool:
    """Whether a job's file was made anew since: then its earlier attempts are told by what was moved away."""
    assert file.job is not None
    return file.name.attempt > attempt and all(entry.attempt > attempt for entry in file.job.attempts)


def _entry(job: Job, attempt: int) -> Attempt | None:
    return next((entry for entry in job.attempts if entry.attempt == attempt), None)
