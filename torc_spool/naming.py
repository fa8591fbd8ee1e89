"""Every name in a spool, both ways, and nothing else: no file is touched here.

What is not a valid name is never made and never listed as a job. `docs/spool-format.md` has the grammar.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from torc_spool.errors import BadName
from torc_spool.model import MAX_PRIORITY, Needs, Trigger

MAX_NAME_BYTES = 255
SLUG_LENGTH = 80
ANY_SCHEDULER = "any"

_ASIDE_KEPT = 220  # bytes of a name that is set aside: more than any job's file has

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_ATTEMPT = r"((?!0{9})[0-9]{9})\.([1-9][0-9]{0,8})"
# a number has one spelling, so that a name that is read and written again stays the same
_JOB = re.compile(
    rf"([0-9]{{6}})(?:\.([0-9a-z]{{1,32}}))?-{_ATTEMPT}"
    r"-c([1-9][0-9]{0,5})g(0|[1-9][0-9]{0,5})n([1-9][0-9]{0,5})m([1-9][0-9]{0,12})t(0|[1-9][0-9]{0,11})"
    rf"-([A-Za-z0-9_][A-Za-z0-9._-]{{0,79}})(?:~{_ATTEMPT})?\.json"
)
_KEY = re.compile(r"[0-9a-z]{1,32}")
_ASIDE = re.compile(rf"({_JOB.pattern})~.*", re.DOTALL)
_REVISION = re.compile(r"revision-([1-9][0-9]{0,8})")
_WORKFLOW = re.compile(r"([1-9][0-9]{0,8})-([A-Za-z0-9_][A-Za-z0-9._-]{0,79})")
_OWNER = r"([A-Za-z0-9_][A-Za-z0-9._-]{0,99}-[0-9]{1,10}-[0-9a-f]{8})"
_RUNNER = re.compile(_OWNER)
_TAKEN = re.compile(f"{_OWNER}~{_OWNER}")
_ALLOCATION = re.compile(r"([1-9][0-9]{0,18})\.json")
_ARRIVAL = re.compile(r"\.arrived-([0-9]{13})-[0-9a-f]{8}")
_WHOLE = re.compile(r"0*[0-9]{1,18}")
_REQUEST = re.compile(rf"cancel-{_ATTEMPT}|stop-{_OWNER}")
_ACTION = re.compile(
    rf"((?!000)[0-9]{{3}}|[1-9][0-9]{{3,8}})(?:\.([1-9][0-9]{{0,8}}))?-({'|'.join(Trigger)})"
    rf"(?:~{_OWNER})?(?:~(0|[1-9][0-9]{{0,2}}))?\.json"
)


class Cause(NamedTuple):
    """The job and its attempt because of which a job was canceled."""

    id: int
    attempt: int


class JobName(NamedTuple):
    """What the name of a job's file says."""

    rank: int
    id: int
    attempt: int
    needs: Needs
    slug: str
    key: str | None = None  # orders jobs of one rank before their ids do
    cause: Cause | None = None

    @property
    def priority(self) -> int:
        return MAX_PRIORITY - self.rank

    def __str__(self) -> str:
        key = f".{self.key}" if self.key else ""
        c, g, n, m, t = self.needs
        cause = f"~{self.cause.id:09d}.{self.cause.attempt}" if self.cause else ""
        return f"{self.rank:06d}{key}-{self.id:09d}.{self.attempt}-c{c}g{g}n{n}m{m}t{t}-{self.slug}{cause}.json"


def job_name(*, priority: int, job: int, needs: Needs, name: str, attempt: int = 1, key: str | None = None) -> JobName:
    """The file name of a job as it is submitted. Raises BadName for what no name can hold."""
    c, g, n, m, t = needs
    fits = 0 <= priority <= MAX_PRIORITY and 0 < job < 10**9 and 0 < attempt < 10**9
    fits = fits and 0 < c < 10**6 and 0 <= g < 10**6 and 0 < n < 10**6 and 0 < m < 10**13 and 0 <= t < 10**12
    if not fits or not (key is None or _KEY.fullmatch(key)):
        raise BadName(
            f"job {job}, attempt {attempt}, priority {priority}, key {key!r}, {needs}: no file name holds this"
        )
    return JobName(MAX_PRIORITY - priority, job, attempt, needs, slugify(name), key)


def parse_job(name: str) -> JobName:
    """What a file name says; raises BadName for any name that is not exactly one of ours."""
    match = _JOB.fullmatch(name)
    if match is None:
        raise BadName(f"{name!r} is not the name of a job's file")
    rank, key, id_, attempt, c, g, n, m, t, slug, cause, cause_attempt = match.groups()
    return JobName(
        int(rank),
        int(id_),
        int(attempt),
        Needs(int(c), int(g), int(n), int(m), int(t)),
        slug,
        key,
        Cause(int(cause), int(cause_attempt)) if cause else None,
    )


def job_id(name: str) -> tuple[int, int] | None:
    """The id and the attempt in a file name, or None for a name that is not one of ours."""
    match = _JOB.fullmatch(name)
    return (int(match[3]), int(match[4])) if match else None


def slugify(name: str, limit: int = SLUG_LENGTH) -> str:
    """A name made safe for a file name: never empty, no leading dot or dash, only ``[A-Za-z0-9._-]``."""
    slug = _UNSAFE.sub("_", name)[:limit]
    if not slug or not (slug[0].isalnum() or slug[0] == "_"):
        slug = ("_" + slug)[:limit]
    return slug


def scheduler_directory(scheduler: str | None) -> str:
    """The directory below ``ready/`` of a scheduler's jobs; ``any`` for a job that is bound to none."""
    return ANY_SCHEDULER if scheduler is None else slugify(scheduler)


def user_data_files(names: Iterable[str]) -> dict[str, str]:
    """A file name for each of a workflow's user data: its name made safe, with a number where that is taken."""
    files: dict[str, str] = {}
    taken: set[str] = set()
    counts: dict[str, int] = {}
    for name in names:
        slug = candidate = slugify(name)
        while candidate in taken:
            counts[slug] = counts.get(slug, 1) + 1
            candidate = f"{slug}_{counts[slug]}"
        taken.add(candidate)
        files[name] = f"{candidate}.json"
    return files


def storable(path: str) -> str:
    """A path that records can hold: they are UTF-8, which a path need not be. Raises BadName."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise BadName(f"{path!r} is not UTF-8, so that no record can hold it; use another directory") from error
    return path


def workflow_directory(workflow_id: int, name: str) -> str:
    return f"{workflow_id}-{slugify(name)}"


def parse_workflow(directory: str) -> tuple[int, str] | None:
    """The id and slug of a workflow's directory, or None for any other name."""
    match = _WORKFLOW.fullmatch(directory)
    return (int(match[1]), match[2]) if match else None


def revision_directory(number: int) -> str:
    return f"revision-{number}"


def parse_revision(directory: str) -> int | None:
    """The number of a revision, or None for any other name."""
    match = _REVISION.fullmatch(directory)
    return int(match[1]) if match else None


def new_runner_name(host: str, pid: int) -> str:
    """A name that is never used again: the host, the process and 32 random bits."""
    return f"{runner_host(host)}-{pid}-{os.urandom(4).hex()}"


def runner_host(host: str) -> str:
    """How a host is called in the names of its runners."""
    return slugify(host, 100).rstrip("-") or "host"


def new_arrival(now: float) -> str:
    """The mark of a runner that comes, in the spool's directory: hidden, and in a listing in order of time."""
    return f".arrived-{int(max(now, 0.0) * 1000):013d}-{os.urandom(4).hex()}"


def parse_arrival(name: str) -> float | None:
    """When a runner came, in seconds since the epoch by its own clock; None for what is no such mark."""
    match = _ARRIVAL.fullmatch(name)
    return int(match[1]) / 1000 if match else None


def is_runner(name: str) -> bool:
    return _RUNNER.fullmatch(name) is not None


def taken_directory(taker: str, owner: str) -> str:
    """The name of a dead runner's directory in the hands of the one who takes its work back."""
    return f"{taker}~{owner}"


def owners(directory: str) -> tuple[str, str] | None:
    """(who holds it, whose it was) for a directory below pending/ or running/; None for a foreign name."""
    match = _TAKEN.fullmatch(directory)
    if match:
        return match[1], match[2]
    return (directory, directory) if is_runner(directory) else None


def whole(text: str) -> int | None:
    """A number from 0 as a person writes it, or None: for what is none, and for one that nothing here can be."""
    return int(text) if _WHOLE.fullmatch(text) else None


class Request(NamedTuple):
    """A wish in ``requests/``: cancel one attempt of a job, or stop a runner."""

    job: Cause | None = None
    runner: str | None = None

    def __str__(self) -> str:
        return f"cancel-{self.job.id:09d}.{self.job.attempt}" if self.job else f"stop-{self.runner}"


def parse_request(name: str) -> Request | None:
    match = _REQUEST.fullmatch(name)
    if match is None:
        return None
    if match[3] is not None:
        return Request(runner=match[3])
    return Request(job=Cause(int(match[1]), int(match[2])))


def meeting_directory(word: str) -> str:
    """Where processes that try a filesystem out together find each other: no part of any state."""
    return f".doctor-{slugify(word)}"


def allocation_name(job_id: str) -> str:
    """The name of an allocation's record. Raises BadName for what is not a number of Slurm's."""
    name = f"{job_id}.json"
    if not _ALLOCATION.fullmatch(name):
        raise BadName(f"{job_id!r} is not the number of an allocation")
    return name


def is_allocation(job_id: str) -> bool:
    """Whether this is a number of Slurm's."""
    return _ALLOCATION.fullmatch(f"{job_id}.json") is not None


def parse_allocation(name: str) -> str | None:
    """The number of the allocation whose record this is the name of."""
    match = _ALLOCATION.fullmatch(name)
    return match[1] if match else None


def aside_name(name: str, origin: str) -> str:
    """A name in `aside/` that was never used: what it was called, where it lay, and 32 random bits."""
    name = _cut(name, _ASIDE_KEPT)
    where = _cut(origin.replace("/", "."), MAX_NAME_BYTES - len(os.fsencode(name)) - 10)
    return f"{name}~{where}~{os.urandom(4).hex()}"


def aside_job_id(name: str) -> tuple[int, int] | None:
    """The id and the attempt of a job's file that was set aside, or None for anything else in `aside/`."""
    match = _ASIDE.fullmatch(name)
    return job_id(match[1]) if match else None


def _cut(text: str, size: int) -> str:
    """The beginning of a name: so many bytes at most, and no character in part."""
    while len(os.fsencode(text)) > size:
        text = text[:-1]
    return text


def output_names(workflow_id: int, job: JobName) -> tuple[str, str]:
    """File names for an attempt's stdout and stderr: unique to the attempt, so no orphan writes into the next."""
    stem = f"{workflow_id}-{job.id:09d}.{job.attempt}-{job.slug}"
    return stem + ".out", stem + ".err"


class ActionName(NamedTuple):
    """What the name of an action's file says."""

    number: int
    trigger: Trigger
    performance: int | None = None  # from 1, raised by each repeat; None: each runner performs it
    runner: str | None = None  # who performs it, or has
    code: int | None = None  # of its commands, once they have ended

    def __str__(self) -> str:
        performance = "" if self.performance is None else f".{self.performance}"
        runner = "" if self.runner is None else f"~{self.runner}"
        code = "" if self.code is None else f"~{self.code}"
        return f"{self.number:03d}{performance}-{self.trigger}{runner}{code}.json"

    def again(self) -> ActionName:
        """The name under which it waits to be performed once more."""
        return ActionName(self.number, self.trigger, (self.performance or 0) + 1)


def parse_action(name: str) -> ActionName | None:
    """What the name of an action's file says, or None for any other name."""
    match = _ACTION.fullmatch(name)
    if match is None:
        return None
    number, performance, trigger, runner, code = match.groups()
    if (code is not None and runner is None) or (runner is not None and performance is None):
        return None
    return ActionName(
        int(number),
        Trigger(trigger),
        None if performance is None else int(performance),
        runner,
        None if code is None else int(code),
    )


def aside_action(name: str) -> ActionName | None:
    """What an action's file was called that was set aside, or None for anything else in `aside/`."""
    kept = name.rsplit("~", 2)[0]
    return parse_action(kept)


def action_output_names(workflow_id: int, action: ActionName, runner: str) -> tuple[str, str]:
    """File names for the stdout and stderr of one performance of an action."""
    by = f"~{runner}" if action.performance is None else ""
    stem = f"{workflow_id}-action-{str(action._replace(runner=None, code=None)).removesuffix('.json')}{by}"
    return stem + ".out", stem + ".err"
