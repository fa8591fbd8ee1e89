"""A changed specification of a workflow that was submitted: what of it may change, and publishing that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import msgspec

from torc_spool import fsops, userdata
from torc_spool.actor import Actor
from torc_spool.contents import encode
from torc_spool.digest import Sum
from torc_spool.errors import StorageError, UsageError
from torc_spool.model import Job, Workflow, WorkflowSpec
from torc_spool.revision import DEFINES
from torc_spool.store import Store
from torc_spool.submission import COPY, Verbatim

_SUBMIT = "submit it as a new workflow"
_FIXED = {
    "name": "the workflow's name",
    "schedulers": "slurm_schedulers",
    "jobs_sort_method": "jobs_sort_method",
}
_TAKEN_OVER = (
    "description",
    "project",
    "metadata",
    "env",
    "stdio",
    "failure_handlers",
    "slurm_defaults",
    "settings",
)


class Candidate(NamedTuple):
    """A revision that has not been published."""

    number: int
    workflow: Workflow
    jobs: tuple[Job, ...]  # all of them
    changed: dict[int, Job]  # those that it changes
    verbatim: Verbatim


def candidate(store: Store, wanted: WorkflowSpec, verbatim: Verbatim) -> Candidate | None:
    """What a specification changes; None when that is nothing. Raises UsageError for what may not change."""
    workflow = store.workflow
    for field, words in _FIXED.items():
        if getattr(wanted, field) != getattr(workflow, field):
            raise UsageError(f"{words} differs from what was submitted, which cannot change; {_SUBMIT}")
    _check_actions(store, wanted)
    records = list(store.records())
    user_data = userdata.paths(store)
    strange = [datum.name for datum in wanted.user_data if datum.name not in user_data]
    if strange:
        raise UsageError(f"user data {strange[0]!r} was not submitted, and none can be added; {_SUBMIT}")
    given = {job.name: userdata.with_user_data(job, user_data) for job in wanted.jobs}
    _check_names({record.name for record in records}, given)
    names = {job.id: job.name for job in wanted.jobs}
    own_names = {record.id: record.name for record in records}
    number = store.revisions.number + 1
    jobs = []
    for record in records:
        job = given[record.name]
        _check_job(record, job, own_names, names)
        if any(getattr(job, field) != getattr(record, field) for field in DEFINES):
            fields = {field: getattr(job, field) for field in DEFINES}
            record = msgspec.structs.replace(record, **fields, revision=number)
        jobs.append(record)
    changed = {job.id: job for job in jobs if job.revision == number}
    revised = msgspec.structs.replace(workflow, **{field: getattr(wanted, field) for field in _TAKEN_OVER})
    if not changed and revised == workflow:
        return None
    return Candidate(number, revised, tuple(jobs), changed, verbatim)


def _check_names(had: Collection[str], given: Collection[str]) -> None:
    for names, words in (
        (set(given) - set(had), "is not among the jobs that were submitted"),
        (set(had) - set(given), "is missing from the specification"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UsageError(f"job {min(names)!r}{more} {words}; which jobs there are cannot change; {_SUBMIT}")


def _check_job(record: Job, job: Job, own_names: dict[int, str], names: dict[int, str]) -> None:
    def differ(field: str) -> None:
        what = f"job {record.name!r}: {field}"
        raise UsageError(f"{what} differs from what was submitted, which cannot change; {_SUBMIT}")

    if _named(record.depends_on, own_names) != _named(job.depends_on, names):
        differ("what it waits for")
    for field in ("scheduler", "cancel_on_blocking_job_failure"):
        if getattr(record, field) != getattr(job, field):
            differ(field)


def _named(ids: Iterable[int], names: dict[int, str]) -> set[str]:
    return {names[each] for each in ids}


def _check_actions(store: Store, wanted: WorkflowSpec) -> None:
    if list(wanted.actions) != store.action_records():
        raise UsageError(f"actions differ from what was submitted, which cannot change; {_SUBMIT}")


def publish(actor: Actor, revision: Candidate, check: Callable[[], None]) -> None:
    """z5, z6: write it aside, `check` once more, then one rename. Raises StorageError, UsageError when another was
    faster."""
    store = actor.store
    staging, target = f"{actor.directory}/revision", store.layout.revision(revision.number)
    fsops.make_directory(staging, store.directory_mode)
    jobs = b"".join(encode(job) for job in revision.jobs)
    records = {"jobs.jsonl": jobs, revision.verbatim.name: revision.verbatim.data}
    digests = {name: str(Sum(data)) for name, data in records.items()}
    workflow = encode(msgspec.structs.replace(revision.workflow, digests=digests))
    records |= {COPY: workflow, "workflow.json": workflow}
    for name, data in records.items():
        fsops.create(f"{staging}/{name}", data, store.file_mode)
    fsops.sync_filesystem(staging)
    check()
    refused: StorageError | None = None
    try:
        published = fsops.rename_directory(staging, target)
    except StorageError as error:
        published, refused = False, error
    if not published and not _has_come(actor):
        if refused is not None and store.is_outdated():
            raise UsageError(
                "somebody else has changed the jobs meanwhile; nothing was done, say it again"
            ) from refused
        raise refused or StorageError("publish", target, None)
    actor.note({"event": "revision", "number": revision.number})
    fsops.sync_directory(store.layout.root)


def _has_come(actor: Actor) -> bool:
    """Whether the revision was published though its rename was refused (a lost reply): then it is not where it was."""
    left = fsops.entries(actor.directory)
    return left is not None and "revision" not in left and actor.store.is_outdated()
