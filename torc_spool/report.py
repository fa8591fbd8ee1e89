"""Rows and figures for people and machines, as plain data. Nothing here changes a spool."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from torc_spool import actions, actor, fsops, naming, recovery, select, sickhosts
from torc_spool import plan as plans
from torc_spool.errors import DamagedFile, TorcSpoolError
from torc_spool.model import OUTCOMES, Attempt, Job, Status, StdioMode
from torc_spool.select import Offer, ReadyQueue
from torc_spool.spool import Spool
from torc_spool.store import Place, Store

Row = dict[str, Any]

SET_ASIDE = "set_aside"
_READS = 3  # of a file that moves, or is replaced, while it is read


def iso(seconds: float | None) -> str | None:
    """ISO 8601 in UTC, to the millisecond; None for a time that no calendar has."""
    if seconds is None:
        return None
    try:
        text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return None
    return text.replace("+00:00", "Z")


def status(store: Store) -> Row:
    """How a workflow stands: counts by state, whether it is finished, and its runners."""
    counts = dict.fromkeys((str(each) for each in Status), 0)
    for place in store.snapshot().values():
        counts[place.status] += 1
    done = sum(counts[outcome] for outcome in OUTCOMES)
    about_actions = {"actions": actions.counts(store)} if store.workflow.num_actions else {}
    order = ("blocked", "ready", "pending", "running", "completed", "failed", "canceled", "terminated", "held")
    return {
        "id": store.workflow.id,
        "name": store.workflow.name,
        "jobs": {name: counts[name] for name in order},
        "total": store.workflow.num_jobs,
        "set_aside": len(store.aside()),
        "finished": done >= store.workflow.num_jobs,
        **about_actions,
        "sick_hosts": sick_hosts(store),
        "runners": runners(store),
    }


def runners(store: Store) -> list[Row]:
    """Every runner that the workflow has had, the dead whose work was taken back included."""
    owners = [*recovery.scan(store), *recovery.taken_owners(store)]
    return [
        {
            "name": owner.name,
            "host": owner.record.host if owner.record else None,
            "pid": owner.record.pid if owner.record else None,
            "scheduler": owner.record.scheduler if owner.record else None,
            "state": owner.state,
            "heartbeat_age_s": None if owner.heartbeat_age_s is None else round(owner.heartbeat_age_s, 1),
            "evidence": owner.evidence or (owner.end.evidence if owner.end else None),
            "recovered_by": owner.end.recovered_by if owner.end else None,
            "lease_s": owner.record.lease_s if owner.record else None,
        }
        for owner in owners
        if owner.record is None or owner.record.kind == "runner"
    ]


def sick_hosts(store: Store) -> list[Row]:
    """The hosts that are noted as sick, oldest note first."""
    return [
        {
            "host": note.host,
            "slurm_node": note.slurm_node,
            "runner": note.runner,
            "since": iso(note.time),
            "reason": note.reason,
            "jobs": list(note.jobs),
        }
        for note in sickhosts.notes(store)
    ]


def workflows(spool: Spool) -> list[Row]:
    """A row for each workflow of the spool; one that cannot be read says why."""
    rows: list[Row] = []
    for found in spool.workflows():
        try:
            state = status(spool.open(found.id))
        except TorcSpoolError as error:
            rows.append({"id": found.id, "name": found.slug, "error": str(error)})
            continue
        state.pop("runners")
        rows.append(state)
    return rows


def jobs(store: Store, *, statuses: Collection[str] = (), names: Collection[str] = ()) -> list[Row]:
    """A row for each job in order of id; `statuses` and `names` (patterns with ``*`` and ``?``) narrow it."""
    snapshot = store.snapshot()
    records = {record.id: record for record in store.records()}
    starts = _started(store, snapshot)
    rows = []
    for job, record in records.items():
        place = snapshot.get(job)
        state = str(place.status) if place else SET_ASIDE
        if statuses and state not in statuses:
            continue
        if names and not any(fnmatch.fnmatchcase(record.name, pattern) for pattern in names):
            continue
        rows.append(_job_row(store, record, place, records, starts))
    return rows


class _Start(msgspec.Struct, frozen=True):
    """What a journal says of the start of an attempt."""

    id: int
    attempt: int
    event: Literal["start"]
    time: float | None = None
    pid: int | None = None
    stdout: str | None = None
    stderr: str | None = None


def _started(store: Store, snapshot: Mapping[int, Place]) -> dict[tuple[int, int], _Start]:
    """What the journals say of attempts that are under way: times and output, for the eye only."""
    owners = {place.detail for place in snapshot.values() if place.status is Status.RUNNING}
    found: dict[tuple[int, int], _Start] = {}
    for owner in owners:
        parts = naming.owners(owner or "")
        try:
            content = fsops.look(f"{store.layout.runner(parts[1])}/journal") if parts else None
        except DamagedFile:
            continue
        for event in actor.decode_journal(content.data) if content else ():
            with suppress(msgspec.ValidationError):  # an end, or a line of another program
                start = msgspec.convert(event, _Start)
                found[start.id, start.attempt] = start
    return found


_UNKNOWN = _Start(id=0, attempt=0, event="start")


def _current(store: Store, record: Job, place: Place | None) -> Job:
    """The job as its file has it now, where that can be read and says more than the record."""
    if place is None or (place.status in (Status.BLOCKED, Status.READY) and place.name.attempt == 1):
        return record
    seen: Place | None = place
    for _ in range(_READS):
        if seen is None:
            break
        try:
            content = store.look_at_job(store.path(seen), record.id)
        except DamagedFile:
            content = None  # damaged indeed, or replaced while we read
        if content is not None:
            return content.job
        seen = store.locate(record.id)  # it has moved on since
    return record


def _job_row(
    store: Store,
    record: Job,
    place: Place | None,
    records: Mapping[int, Job],
    starts: Mapping[tuple[int, int], _Start],
) -> Row:
    job = _current(store, record, place)
    attempt = place.name.attempt if place else 1
    last = next((entry for entry in reversed(job.attempts) if entry.attempt == attempt), None)
    started = starts.get((record.id, attempt), _UNKNOWN)
    parts = naming.owners(place.detail or "") if place and place.status in (Status.PENDING, Status.RUNNING) else None
    return {
        "id": record.id,
        "name": record.name,
        "status": str(place.status) if place else SET_ASIDE,
        "priority": place.name.priority if place else record.priority,
        "scheduler": _scheduler(store, job, place),
        "resources": {
            "num_cpus": job.resources.num_cpus,
            "num_gpus": job.resources.num_gpus,
            "num_nodes": job.resources.num_nodes,
            "memory_bytes": job.resources.memory_bytes,
            "runtime_s": job.resources.runtime_s,
        },
        "depends_on": [records[other].name for other in record.depends_on if other in records],
        "attempt": attempt,
        "runner": last.runner if last else (parts[0] if parts else None),
        "return_code": last.return_code if last else None,
        "start_time": iso(last.start_time if last else started.time),
        "end_time": iso(last.end_time) if last else None,
        "exec_s": last.exec_s if last else None,
        "peak_memory_bytes": last.peak_memory_bytes if last else None,
        "reason": _reason(last, place, records),
        "cause": last.cause if last else None,
    }


def _scheduler(store: Store, job: Job, place: Place | None) -> str | None:
    """Where a job is ready, its path holds."""
    if place is None or place.status is not Status.READY:
        return job.scheduler
    return None if place.detail in (None, naming.ANY_SCHEDULER) else _scheduler_name(store, place.detail or "")


def _scheduler_name(store: Store, directory: str) -> str:
    """What the specification calls the scheduler of a directory below `ready/`."""
    names = (str(known["name"]) for known in store.workflow.schedulers)
    return next((name for name in names if naming.scheduler_directory(name) == directory), directory)


def _reason(last: Attempt | None, place: Place | None, records: Mapping[int, Job]) -> str | None:
    if place is None:
        return "set aside: its file could not be understood"
    cause = place.name.cause
    if cause is not None:
        name = records[cause.id].name if cause.id in records else str(cause.id)
        return f"canceled because job {name!r} did not complete (its attempt {cause.attempt})"
    if last is not None:
        return last.reason
    return "canceled by request" if place.status is Status.CANCELED else None


def job(store: Store, record: Job) -> Row:
    """Everything about one job: its row, its command, where its file is, and all attempts."""
    place = store.locate(record.id)
    records = {each.id: each for each in store.records()}
    starts = _started(store, {record.id: place} if place else {})
    current = _current(store, record, place)
    row = _job_row(store, record, place, records, starts)
    now = starts.get((record.id, row["attempt"]), _UNKNOWN)
    last = current.attempts[-1] if current.attempts else None
    outputs = now if now is not _UNKNOWN or last is None else last
    stdio = current.stdio or store.workflow.stdio
    row |= {
        "command": current.command,
        "invocation_script": current.invocation_script,
        "env": {**store.workflow.env, **current.env},
        "stdio": str(stdio.mode),
        "delete_on_success": stdio.delete_on_success,
        "failure_handler": current.failure_handler,
        "cancel_on_blocking_job_failure": current.cancel_on_blocking_job_failure,
        "supports_termination": current.supports_termination,
        "file": store.path(place) if place else None,
        "stdout": outputs.stdout,
        "stderr": outputs.stderr,
        "pid": now.pid,
        "attempts": [attempt_row(entry) for entry in current.attempts],
        "recoveries": _recoveries(store, record.id),
    }
    return row


def _recoveries(store: Store, job: int) -> list[Row]:
    """What was decided of a job each time when its runner was found dead, by whom, on what evidence; oldest first."""
    found = [
        {
            "attempt": decision.attempt,
            "decision": decision.action,
            "runner": owner.name,
            "evidence": owner.end.evidence,
            "recovered_by": owner.end.recovered_by,
            "time": iso(owner.end.time),
        }
        for owner in recovery.taken_owners(store)
        if owner.end is not None
        for decision in owner.end.decisions
        if decision.id == job
    ]
    return sorted(found, key=lambda row: row["attempt"])


def attempt_row(entry: Attempt) -> Row:
    return {
        "attempt": entry.attempt,
        "outcome": str(entry.outcome) if entry.outcome else None,
        "return_code": entry.return_code,
        "reason": entry.reason,
        "cause": entry.cause,
        "evidence": entry.evidence,
        "runner": entry.runner,
        "host": entry.host,
        "start_time": iso(entry.start_time),
        "end_time": iso(entry.end_time),
        "exec_s": entry.exec_s,
        "cpu_s": entry.cpu_s,
        "peak_memory_bytes": entry.peak_memory_bytes,
        "stated_memory_bytes": entry.stated_memory_bytes,
        "stated_runtime_s": entry.stated_runtime_s,
        "gpus": entry.gpus,
        "stdout": entry.stdout,
        "stderr": entry.stderr,
        "retry_rule": entry.retry_rule,
        "recovered_by": entry.recovered_by,
    }


def why_not_kept(row: Row, attempt: Row, stream: Literal["stdout", "stderr"]) -> str | None:
    """Why an attempt's stream is in no file, where that was asked for. `row` is that of the job."""
    if attempt[stream] is not None:
        return None
    if row["stdio"] in (StdioMode.NONE, f"no_{stream}"):
        return f"not kept (stdio: {row['stdio']})"
    if row["delete_on_success"] and Status.COMPLETED in (attempt.get("outcome"), attempt.get("status")):
        return "removed when the job had completed (delete_on_success)"
    return None


def results(store: Store) -> list[Row]:
    """A row for each recorded attempt, in order of job and attempt."""
    snapshot = store.snapshot()
    rows = []
    for record in store.records():
        place = snapshot.get(record.id)
        for entry in _current(store, record, place).attempts:
            rows.append({"id": record.id, "name": record.name, **attempt_row(entry)})
    return rows


def plan(store: Store) -> tuple[plans.Plan, dict[int, str]]:
    """In which stages the jobs of a workflow become ready, and the state of each. Raises DamagedFile."""
    jobs, snapshot = list(store.records()), store.snapshot()
    states = {job.id: str(snapshot[job.id].status) if job.id in snapshot else SET_ASIDE for job in jobs}
    try:
        return plans.plan(jobs, store.action_records()), states
    except plans.Circle as error:
        raise DamagedFile(store.layout.jobs_file, f"{error}; it was changed after the submit") from error


def preview(store: Store, directories: list[str] | None, offer: Offer) -> Row:
    """What a runner with this offer would claim now, in order, and why it would skip each other ready job."""
    names = {record.id: record.name for record in store.records()}
    all_directories = store.ready_directories()
    mine = all_directories if directories is None else [name for name in directories if name in all_directories]
    queue = ReadyQueue(store.ready_entries(mine))
    picks = select.select(queue, offer)
    left = select.after(offer, picks)
    picked = {pick.entry for pick in picks}
    skipped = [
        {"name": _name_of(entry.name, names), "reason": select.why_not(queue.needs_of(entry), left)}
        for entry in queue
        if entry not in picked
    ]
    for directory in all_directories:
        if directory not in mine:
            skipped += [
                {
                    "name": _name_of(entry.name, names),
                    "reason": f"is bound to scheduler {_scheduler_name(store, directory)}",
                }
                for entry in ReadyQueue(store.ready_entries([directory]))
            ]
    return {"claimed": [_name_of(pick.entry.name, names) for pick in picks], "skipped": skipped}


def _name_of(filename: str, names: Mapping[int, str]) -> str:
    key = naming.job_id(filename)
    return names.get(key[0], filename) if key else filename


def memory_text(size: int | None) -> str:
    """Bytes for people, in 1024-based units."""
    if size is None:
        return "-"
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
