"""What is wrong with a workflow's directory, and what would mend it: pure, from a picture to findings.

What the format document allows is no damage: moves by hand, what a crash leaves, what was set aside.
"""

from __future__ import annotations

from collections.abc import Iterator

from torc_spool import causes, naming, sortkeys
from torc_spool.checkrunners import check_owners, check_requests, check_runners
from torc_spool.findings import (
    ANEW,
    NOTHING,
    PARKED,
    RESTORED,
    Anew,
    AnewAction,
    Finding,
    Make,
    Park,
    Rename,
    Restore,
    Resubmit,
)
from torc_spool.graph import cycle
from torc_spool.model import OUTCOMES, RAN, Attempt, Job, Status
from torc_spool.naming import JobName
from torc_spool.picture import JobFile, Known, Picture

_WAITING = (Status.BLOCKED, Status.READY, Status.HELD)


def check(picture: Picture) -> list[Finding]:
    """All that is wrong. Of a workflow that runners are at work in, it may be what was just moving."""
    return [
        *_records(picture),
        *_tree(picture),
        *_jobs(picture),
        *check_owners(picture),
        *check_requests(picture),
        *check_runners(picture),
        *_actions(picture),
    ]


# -- records that never change


def _records(picture: Picture) -> Iterator[Finding]:
    known = picture.known
    for odd in known.broken:
        data = known.restored.get(odd.path)
        fix = None if data is None else Restore(odd.path, data)
        yield Finding("record", odd.path, None, f"the record {odd.path} {odd.why}", RESTORED if fix else NOTHING, fix)
    told = picture.revisions | {file.job.revision for file in picture.files if file.job is not None}
    for number in sorted(number for number in told if number > known.revision):
        path = naming.revision_directory(number)
        yield Finding("record", path, None, f"the record {path} is missing, of which others tell", NOTHING)
    for odd in picture.astray:
        yield Finding("spool", odd.path, None, f"{odd.path} {odd.why}", "nothing: a person has to rename or move it")
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
        yield Finding("record", "actions.jsonl", None, what, NOTHING)


def _record(what: str) -> Finding:
    return Finding("record", "jobs.jsonl", None, f"the record of the jobs {what}", NOTHING)


# -- what lies where it may not


def _tree(picture: Picture) -> Iterator[Finding]:
    for path in picture.missing:
        what = f"{path.removeprefix('../')} is not there"
        yield Finding("missing", path, None, what, "it is made", Make(path, is_file=path == "lock"))
    for odd in picture.foreign:
        key = naming.job_id(odd.path.rsplit("/", 1)[-1])
        yield Finding("foreign", odd.path, key and key[0], f"{odd.path} {odd.why}", PARKED, Park(odd.path))
    for path in picture.temporaries:
        yield Finding("temporary", path, None, f"{path} is a temporary that nobody owns", PARKED, Park(path))
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


def _entry(job: Job, attempt: int) -> Attempt | None:
    return next((entry for entry in job.attempts if entry.attempt == attempt), None)


def _doubled(file: JobFile, keep: JobFile) -> Finding:
    what = f"job {file.name.id} lies in {file.path} and in {keep.path}, which holds"
    return Finding("doubled", file.path, file.name.id, what, PARKED, Park(file.path))


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
    elif any(attempt.runner is not None and not naming.is_runner(attempt.runner) for attempt in job.attempts):
        yield _bad("attempts", file, f"{file.path} has an attempt of a runner whose name is none")
    elif job.depends_on != record.depends_on:
        yield _bad("edges", file, f"{file.path} waits for {_ids(job)}, and its record says {_ids(record)}")
    else:
        yield from _state(file, job)
        yield from _named(file, job, record, known)


def _ids(job: Job) -> str:
    return ", ".join(map(str, job.depends_on)) or "nothing"


def _bad(kind: str, file: JobFile, what: str) -> Finding:
    return Finding(kind, file.path, file.name.id, what, ANEW, Park(file.path))


def _state(file: JobFile, job: Job) -> Iterator[Finding]:
    """Whether place, name and attempts tell the same."""
    last = job.attempts[-1] if job.attempts else None
    highest = last.attempt if last else 0
    if file.status in RAN:
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
    if str(name) != file.filename:
        what = f"{file.path} is named otherwise than a file of job {name.id} ({record.name}), whose result it holds"
        yield _moved("name", file, what, file.directory, right)
    elif right != name:
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


# -- actions


def _actions(picture: Picture) -> Iterator[Finding]:
    latest: dict[int, int] = {}
    files = {file.name.number: file for file in sorted(picture.actions, key=lambda file: file.name.performance or 0)}
    for file in picture.actions:
        number = file.name.number
        latest[number] = max(latest.get(number, 0), file.name.performance or 0)
        if file is not files[number]:
            what = f"action {number} lies in {file.path} and in {files[number].path}, which holds"
            yield Finding("doubled", file.path, None, what, PARKED, Park(file.path))
    for number in sorted(picture.known.actions.keys() - latest.keys() - picture.actions_aside):
        what = f"action {number} lies nowhere: nobody knows whether it was performed"
        repair = "it is made anew from the record, and waits to be performed once more"
        fix = AnewAction(number, picture.actions_kept.get(number, 0) + 1)
        yield Finding("lost", "", None, what, repair, fix)
