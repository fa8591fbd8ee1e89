"""How the allocations of a workflow stand, and their cancellation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from torc_spool import allocations, fsops, naming, recovery, report, sbatch, squeue
from torc_spool.errors import SlurmError, SpecError, StorageError
from torc_spool.model import Allocation, RunnerRecord, Status
from torc_spool.report import Row
from torc_spool.squeue import UNKNOWN, Inquiry, Number, Seen
from torc_spool.store import Store

_NOT_KNOWN = "unknown"


def status(store: Store, inquiry: Inquiry | None = None) -> tuple[list[Row], SlurmError | None]:
    """A row for each allocation that was asked for, or that a runner was in; and why Slurm told nothing."""
    inquiry = inquiry or Inquiry()
    recorded = {allocation.job_id: allocation for allocation in allocations.recorded(store)}
    taken = list(recovery.taken_owners(store))
    records = [*_records(store), *(owner.record for owner in taken if owner.record is not None)]
    wanted = {_number(each, []) for each in recorded.values()}
    wanted |= {Number(each.slurm_job_id, each.slurm_cluster) for each in records if each.slurm_job_id is not None}
    inquiry.about({each for each in wanted if naming.is_allocation(each.job_id)})  # one call for all, also for the scan
    owners = [*recovery.scan(store, inquiry=inquiry), *taken]
    runners: dict[str, list[recovery.Owner]] = {job_id: [] for job_id in recorded}
    for owner in owners:
        if owner.record is not None and owner.record.kind == "runner" and owner.record.slurm_job_id is not None:
            runners.setdefault(owner.record.slurm_job_id, []).append(owner)
    numbers = {job_id: _number(recorded.get(job_id), found) for job_id, found in runners.items()}
    seen = inquiry.about({number for number in numbers.values() if naming.is_allocation(number.job_id)})
    jobs = _jobs(store)
    rows = [
        _row(store, number, recorded.get(job_id), runners[job_id], seen.get(number), jobs)
        for job_id, number in numbers.items()
    ]
    return rows, inquiry.trouble


def _records(store: Store) -> Iterator[RunnerRecord]:
    for name in filter(naming.is_runner, fsops.names(store.layout.runners)):
        try:
            record = store.runner_record(store.layout.runner(name))
        except StorageError:
            continue
        if record is not None:
            yield record


def _number(allocation: Allocation | None, runners: list[recovery.Owner]) -> Number:
    if allocation is not None:
        return Number(allocation.job_id, allocation.cluster)
    record = runners[0].record
    assert record is not None and record.slurm_job_id is not None
    return Number(record.slurm_job_id, record.slurm_cluster)


def _jobs(store: Store) -> Counter[tuple[str, Status]]:
    """How many jobs each runner holds."""
    return Counter(
        (owners[0], place.status) for place in store.held_by_owners() if (owners := naming.owners(place.detail or ""))
    )


def _row(
    store: Store,
    number: Number,
    allocation: Allocation | None,
    runners: list[recovery.Owner],
    seen: Seen | None,
    jobs: Counter[tuple[str, Status]],
) -> Row:
    state, reason = _NOT_KNOWN, "Slurm did not answer"
    if seen is not None and seen.state == UNKNOWN:
        seen, reason = None, "Slurm does not know it any more"
    elif seen is not None and allocation is not None and not _is_it(store, allocation, seen):
        seen, reason = None, "Slurm has given its number to another job"
    elif seen is not None:
        state, reason = seen.state, seen.reason or ""
    scheduler = next((owner.record.scheduler for owner in runners if owner.record), None)
    return {
        "job_id": number.job_id,
        "cluster": number.cluster,
        "scheduler": allocation.scheduler if allocation else scheduler,
        "state": state,
        "reason": reason or None,
        "said_by": seen and seen.said_by,
        "nodes": seen and seen.nodes,
        "num_nodes": allocation.nodes if allocation else None,
        "time_left_s": _left(seen),
        "start_time": report.iso(seen.start) if seen else None,
        "submitted": report.iso(allocation.submitted) if allocation else None,
        "output": allocation.output if allocation else None,
        "jobs": {
            str(status): sum(jobs[owner.name, status] for owner in runners)
            for status in (Status.PENDING, Status.RUNNING)
        },
        "runners": [{"name": owner.name, "state": owner.state} for owner in runners],
    }


def _left(seen: Seen | None) -> int | None:
    if seen is None or seen.left is None or seen.state != "RUNNING":
        return None
    try:
        return sbatch.walltime(seen.left)
    except SpecError:
        return None


def _is_it(store: Store, allocation: Allocation, seen: Seen) -> bool:
    """Whether Slurm tells of this very allocation. A site may write comments of its own; sacct shows neither."""
    if seen.said_by == "sacct":
        return True
    ours = f"torc-spool:{store.workflow.id}:{allocation.key}" in (seen.comment or "")
    return ours or (seen.comment is None and (seen.name or "").startswith(f"torc-spool-{store.workflow.id}-"))


class Canceled(NamedTuple):
    """What became of an allocation."""

    job_id: str
    was: str  # its state
    why_not: str | None  # None: it is canceled


def cancel(store: Store, inquiry: Inquiry | None = None) -> tuple[list[Canceled], SlurmError | None]:
    """Cancel the allocations that were asked for and have not ended; and why Slurm told nothing.

    The pending ones first, so that none begins because another makes room.
    """
    recorded = {Number(each.job_id, each.cluster): each for each in allocations.recorded(store)}
    if not recorded:
        return [], None
    inquiry = inquiry or Inquiry()
    living = {
        number: seen
        for number, seen in inquiry.about(recorded).items()
        if seen.state not in (UNKNOWN, "COMPLETING", "REVOKED") and not seen.is_over
        if _is_it(store, recorded[number], seen)
    }
    canceled = []
    for cluster in sorted({number.cluster for number in living}, key=str):
        pending = [number for number in living if number.cluster == cluster and living[number].state == "PENDING"]
        others = [number for number in living if number.cluster == cluster and number not in pending]
        for numbers, is_pending in ((pending, True), (others, False)):
            # one that has begun meanwhile is canceled with the others
            also = [] if is_pending else pending
            refusal = _scancel([*numbers, *also], cluster, only_pending=is_pending) if numbers or also else None
            canceled += [Canceled(number.job_id, living[number].state, refusal) for number in numbers]
    return canceled, inquiry.trouble


def _scancel(numbers: list[Number], cluster: str | None, *, only_pending: bool) -> str | None:
    try:
        squeue.cancel([number.job_id for number in numbers], cluster, only_pending=only_pending)
    except SlurmError as error:
        return str(error)
    return None
