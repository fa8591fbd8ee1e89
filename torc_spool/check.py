"""What is wrong with a workflow's directory, and what would mend it: pure, from a picture to findings.

What the format document allows is no damage: moves by hand, what a crash leaves, what was set aside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torc_spool import causes, naming, sortkeys
from torc_spool.graph import cycle
from torc_spool.model import OUTCOMES, Attempt, Job, Status
from torc_spool.naming import Cause, JobName
from torc_spool.picture import JobFile, Known, OwnerDirectory, Picture, Runner

_RAN = (Status.COMPLETED, Status.FAILED, Status.TERMINATED)
_WAITING = (Status.BLOCKED, Status.READY, Status.HELD)
_PARKED = "it is moved to lost+found/"
_ANEW = f"{_PARKED}, and the job is made anew from the record where no other file of it is left"
_NOTHING = "nothing: put it back from a copy of the spool"


class Park(NamedTuple):
    """Move it to lost+found/, whatever it is."""

    path: str


class Rename(NamedTuple):
    """Give a job's file the place and the name that it must have."""

    path: str
    target: str


class Make(NamedTuple):
    """Make a directory, or the lock."""

    path: str


class TakeBack(NamedTuple):
    """Take back what lies in the directories of an owner that nobody knows, or that has ended."""

    owner: str


class Anew(NamedTuple):
    """Make a lost job from the record."""

    job: int
    attempt: int  # the highest that is known of it


class AnewAction(NamedTuple):
    number: int
    performance: int


class Resubmit(NamedTuple):
    """Put the submitted value of user data in place of what lies there."""

    path: str


Fix = Park | Rename | Make | TakeBack | Anew | AnewAction | Resubmit


class Finding(NamedTuple):
    """Something that is not as the format says."""

    kind: str
    path: str  # below the workflow's directory; empty for what lies nowhere
    job: int | None
    what: str
    repair: str
    fix: Fix | None = None


def check(picture: Picture) -> list[Finding]:
    """All that is wrong. Of a workflow that runners are at work in, it may be what was just moving."""
    return [
        *_records(picture.known),
        *_tree(picture),
        *_jobs(picture),
        *_owners(picture),
        *_requests(picture),
        *_journals(picture),
        *_actions(picture),
    ]


# -- records that never change


def _records(known: Known) -> Iterator[Finding]:
    for odd in known.broken:
        yield Finding("record", odd.path, None, f"the record {odd.path} {odd.why}", _NOTHING)
    if any(odd.path.endswith("jobs.jsonl") for odd in known.broken):
        return
    jobs, edges = known.jobs, sum(len(job.depends_on) for job in known.jobs.values())
    if sorted(jobs) != list(range(1, known.num_jobs + 1)):
        yield _record(f"has the jobs of {len(jobs)} ids, and workflow.json says that there are {known.num_jobs}")
    if edges != known.num_edges:
        yield _record(f"has {edges} dependencies, and workflow.json says {known.num_edges}")
    strange = [job.id for job in jobs.values() if not set(job.depends_on) <= set(jobs)]
    if strange:
        yield _record(f"lets job {strange[0]} wait for a job that there is not")
    circle = cycle({job.id: job.depends_on for job in jobs.values()})
    if circle:
        yield _record(f"lets jobs wait for each other in a circle: {', '.join(map(str, circle))}")
    if len(known.actions) != known.num_actions and not any(odd.path == "actions.jsonl" for odd in known.broken):
        what = f"actions.jsonl has {len(known.actions)} actions, and workflow.json says {known.num_actions}"
        yield Finding("record", "actions.jsonl", None, what, _NOTHING)


def _record(what: str) -> Finding:
    return Finding("record", "jobs.jsonl", None, f"the record of the jobs {what}", _NOTHING)


# -- what lies where it may not


def _tree(picture: Picture) -> Iterator[Finding]:
    for path in picture.missing:
        yield Finding("missing", path, None, f"{path} is not there", "it is made", Make(path))
    for odd in picture.foreign:
        key = naming.job_id(odd.path.rsplit("/", 1)[-1])
        yield Finding("foreign", odd.path, key and key[0], f"{odd.path} {odd.why}", _PARKED, Park(odd.path))
    for path in picture.temporaries:
        yield Finding("temporary", path, None, f"{path} is a temporary that nobody owns", _PARKED, Park(path))
    for odd in picture.user_data:
        repair = "the submitted value is put in its place; what lies there is moved to lost+found/"
        yield Finding("user_data", odd.path, None, f"the user data in {odd.path} {odd.why}", repair, Resubmit(odd.path))


# -- jobs


def _jobs(picture: Picture) -> Iterator[Finding]:
    known = picture.known
    files: dict[int, list[tuple[JobFile, Finding | None]]] = {}
    for file in picture.files:
        files.setdefault(file.name.id, []).append((file, next(_file(file, known), None)))
    for found in files.values():
        good = [one for one in found if one[1] is None or not isinstance(one[1].fix, Park)]
        # the higher attempt holds; of equal ones what agrees with itself, and then the one that has come further
        keep = max(
            good,
            key=lambda one: (one[0].name.attempt, one[1] is None, _shows_its_result(one[0]), found.index(one)),
            default=None,
        )
        for one in found:
            if one in good and one is not keep and keep is not None:
                yield _doubled(one[0], keep[0])
            elif one[1] is not None:
                yield one[1]
    for job in sorted(known.jobs.keys() - picture.seen - picture.aside):
        if job <= known.num_jobs:
            what = f"job {job} ({known.jobs[job].name}) lies nowhere"
            repair = "it is made anew from the record, and runs again"
            yield Finding("lost", "", job, what, repair, Anew(job, picture.kept.get(job, 0)))


def _shows_its_result(file: JobFile) -> bool:
    """Or is about to."""
    entry = _entry(file.job, file.name.attempt) if file.job is not None else None
    return entry is not None and entry.outcome is not None and file.status in (entry.outcome, Status.RUNNING)


def _doubled(file: JobFile, keep: JobFile) -> Finding:
    what = f"job {file.name.id} lies in {file.path} and in {keep.path}, which holds"
    return Finding("doubled", file.path, file.name.id, what, _PARKED, Park(file.path))


def _file(file: JobFile, known: Known) -> Iterator[Finding]:
    """What is wrong with one file, the worst first: only that is told, since its repair may settle the rest."""
    job, record = file.job, known.jobs.get(file.name.id)
    if job is None:
        yield _bad("damaged", file, f"{file.path} {file.why}")
        return
    if record is None:
        return  # the record itself is broken
    numbers = [attempt.attempt for attempt in job.attempts]
    if numbers != sorted(set(numbers)) or any(number < 1 for number in numbers):
        yield _bad("attempts", file, f"{file.path} has its attempts out of order: {numbers}")
    elif any(attempt.outcome not in (None, *OUTCOMES) for attempt in job.attempts):
        yield _bad("attempts", file, f"{file.path} has an attempt whose outcome is none")
    elif job.depends_on != record.depends_on:
        yield _bad("edges", file, f"{file.path} waits for {_ids(job)}, and its record says {_ids(record)}")
    else:
        yield from _state(file, job)
        yield from _named(file, job, record, known)


def _ids(job: Job) -> str:
    return ", ".join(map(str, job.depends_on)) or "nothing"


def _bad(kind: str, file: JobFile, what: str) -> Finding:
    return Finding(kind, file.path, file.name.id, what, _ANEW, Park(file.path))


def _state(file: JobFile, job: Job) -> Iterator[Finding]:
    """Whether place, name and attempts tell the same."""
    last = job.attempts[-1] if job.attempts else None
    highest = last.attempt if last else 0
    if file.status in _RAN:
        yield from _outcome(file, job, last)
    elif highest > file.name.attempt:
        what = f"{file.path} is named attempt {file.name.attempt}, and has had attempt {highest}"
        if file.status in _WAITING:
            yield _moved("attempt", file, what, file.directory, _next(file.name, highest))
        elif file.status is Status.CANCELED:
            yield _moved("attempt", file, what, "blocked", _next(file.name, highest))
        else:
            yield _bad("attempt", file, what)
    cause = file.name.cause
    if file.status is Status.CANCELED and cause is not None and cause.id not in job.depends_on:
        what = f"{file.path} is canceled because of job {cause.id}, for which it does not wait"
        yield _moved("cause", file, what, "blocked", _next(file.name, highest))


def _outcome(file: JobFile, job: Job, last: Attempt | None) -> Iterator[Finding]:
    """What lies in done/ must hold the result that its directory shows."""
    result = next((attempt for attempt in job.attempts if attempt.attempt == file.name.attempt), None)
    highest = last.attempt if last else 0
    agrees = result is not None and result is last and result.outcome is not None and result.retry_rule is None
    if agrees and result is not None and result.outcome == file.status:
        if file.name.cause is not None:
            what = f"{file.path} names a job because of which it was canceled, and it has {file.status}"
            yield _moved("cause", file, what, file.directory, file.name._replace(cause=None))
    elif agrees and result is not None:
        what = f"{file.path} lies among the {file.status} jobs, and its result is {result.outcome}"
        yield _moved("state", file, what, f"done/{result.outcome}", file.name._replace(cause=None))
    elif last is not None and last.outcome == file.status and last.retry_rule is None:
        what = f"{file.path} is named attempt {file.name.attempt}, and its result is of attempt {highest}"
        yield _moved("attempt", file, what, file.directory, file.name._replace(attempt=highest, cause=None))
    else:
        what = f"{file.path} lies among the {file.status} jobs, and has no result of its attempt"
        yield _moved("state", file, what, "blocked", _next(file.name, highest))


def _next(name: JobName, recorded: int) -> JobName:
    return name._replace(attempt=max(name.attempt, recorded) + 1, cause=None)


def _named(file: JobFile, job: Job, record: Job, known: Known) -> Iterator[Finding]:
    """Whether the name tells what the job was submitted with, or defined with later."""
    name = file.name
    needs = known.needs.get(name.id, set()) | {job.resources.needs, *causes.needs_then(job)}
    right = name._replace(slug=naming.slugify(record.name))
    if name.needs not in needs:
        right = right._replace(needs=record.resources.needs)
    right = right._replace(key=sortkeys.key(known.sort_method, right.needs))
    if right != name:
        parts = {"needs": name.needs, "slug": name.slug, "sort key": name.key}
        others = {"needs": right.needs, "slug": right.slug, "sort key": right.key}
        wrong = " and ".join(part for part in parts if parts[part] != others[part])
        what = f"{file.path} is named with another {wrong} than job {name.id} ({record.name}) has"
        yield _moved("name", file, what, file.directory, right)


def _moved(kind: str, file: JobFile, what: str, directory: str, name: JobName) -> Finding:
    target = f"{directory}/{name}"
    again = directory == "blocked" and file.directory != "blocked"
    repair = f"it is renamed to {target}" + (", and runs again when nothing that it waits for is open" if again else "")
    return Finding(kind, file.path, file.name.id, what, repair, Rename(file.path, target))


# -- owners, requests, journals


def _owners(picture: Picture) -> Iterator[Finding]:
    for directory in picture.owners:
        runner = picture.runners.get(directory.holder)
        if runner is not None and runner.is_said and runner.ended is None:
            continue
        why = "has ended" if runner is not None and runner.ended is not None else "has no record"
        what = f"{directory.path} is a directory of runner {directory.holder}, which {why}"
        yield _owner(directory, what)


def _owner(directory: OwnerDirectory, what: str) -> Finding:
    if directory.holder != directory.owner:
        return Finding("owner", directory.path, None, what, _ANEW, Park(directory.path))
    repair = "what lies in it is taken back as from a dead runner, and the directory is removed"
    return Finding("owner", directory.path, None, what, repair, TakeBack(directory.holder))


def _requests(picture: Picture) -> Iterator[Finding]:
    attempts: dict[int, int] = {}
    for file in picture.files:
        attempts[file.name.id] = max(attempts.get(file.name.id, 0), file.name.attempt)
    for path, request in picture.requests:
        if request.job is not None:
            why = _wish(request.job, attempts, picture.known)
        else:
            why = (
                None
                if request.runner in picture.runners
                else f"is about runner {request.runner}, of which there is none"
            )
        if why is not None:
            yield Finding("request", path, request.job and request.job.id, f"{path} {why}", _PARKED, Park(path))


def _wish(wish: Cause, attempts: dict[int, int], known: Known) -> str | None:
    if wish.id > known.num_jobs:
        return f"is about job {wish.id}, and the workflow has {known.num_jobs}"
    if wish.id in attempts and wish.attempt > attempts[wish.id]:
        return f"is about attempt {wish.attempt}, and the job has come to attempt {attempts[wish.id]}"
    return None


def _journals(picture: Picture) -> Iterator[Finding]:
    jobs = {file.name.id: file for file in picture.files}
    for name, runner in sorted(picture.runners.items()):
        why = _contradiction(runner, name, jobs)
        if why is not None:
            path = f"{runner.path}/journal"
            yield Finding("journal", path, None, f"{path} {why}", f"{_PARKED}; the jobs' files hold", Park(path))


def _contradiction(runner: Runner, name: str, files: dict[int, JobFile]) -> str | None:
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
    if runner.ended != "ended":
        return None  # who was killed may have recorded what it could not tell any more
    for event in runner.journal:
        file = files.get(event.job)
        if event.event != "start" or (event.job, event.attempt) in told or file is None or file.job is None:
            continue
        entry = _entry(file.job, event.attempt)
        if entry is not None and entry.runner == name and entry.outcome is not None:
            return f"lacks the end of attempt {event.attempt} of job {event.job}, which the job's file has"
    return None


def _is_younger(file: JobFile, attempt: int) -> bool:
    """Whether a job's file was made anew since: then its earlier attempts are told by what was moved away."""
    assert file.job is not None
    return file.name.attempt > attempt and all(entry.attempt > attempt for entry in file.job.attempts)


def _entry(job: Job, attempt: int) -> Attempt | None:
    return next((entry for entry in job.attempts if entry.attempt == attempt), None)


# -- actions


def _actions(picture: Picture) -> Iterator[Finding]:
    latest: dict[int, int] = {}
    files = {file.name.number: file for file in sorted(picture.actions, key=lambda file: file.name.performance or 0)}
    for file in picture.actions:
        number = file.name.number
        latest[number] = max(latest.get(number, 0), file.name.performance or 0)
        if file is not files[number]:
            what = f"action {number} lies in {file.path} and in {files[number].path}, which holds"
            yield Finding("doubled", file.path, None, what, _PARKED, Park(file.path))
    for number in sorted(picture.known.actions.keys() - latest.keys() - picture.actions_aside):
        what = f"action {number} lies nowhere: nobody knows whether it was performed"
        repair = "it is made anew from the record, and waits to be performed once more"
        fix = AnewAction(number, picture.actions_kept.get(number, 0) + 1)
        yield Finding("lost", "", None, what, repair, fix)
