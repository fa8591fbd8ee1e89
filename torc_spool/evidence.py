"""When a runner is known to be dead: pure decisions. Unknown means alive."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torc_spool import naming, processes
from torc_spool.model import RunnerRecord
from torc_spool.squeue import UNKNOWN, WALLTIME, Number, Seen

_CLOCKS_S = 300.0  # by which clocks of nodes and of the controller may differ


class Here(NamedTuple):
    """What this process knows of its own host, and of the allocation that it is in."""

    host: str
    boot_id: str
    pid_namespace: str
    slurm: Mapping[str, str | int | None] = {}  # as in the record of a runner

    @classmethod
    def now(cls) -> Here:
        return cls(processes.host_name(), processes.boot_id(), processes.pid_namespace(), life(os.environ))


def life(environ: Mapping[str, str] = os.environ) -> dict[str, str | int | None]:
    """What a runner's record says of the allocation that it is in, so that others can ask Slurm of its end.

    One number may have several lives: Slurm requeues an allocation under the same number, and counts its restarts.
    """
    restarts = environ.get("SLURM_RESTART_COUNT", "")
    return {
        "slurm_job_id": environ.get("SLURM_JOB_ID") or None,
        "slurm_cluster": environ.get("SLURM_CLUSTER_NAME") or None,
        "slurm_node": environ.get("SLURMD_NODENAME") or None,
        "slurm_restarts": naming.whole(restarts) or 0,
    }


class Death(NamedTuple):
    """That a runner is dead."""

    evidence: str  # as a sentence
    walltime: str | None = None  # its allocation reached its walltime, and the runner with it: why its jobs ended


def of_host(
    record: RunnerRecord,
    here: Here,
    *,
    heartbeat_age_s: float | None,
    is_running: Callable[[int, str], bool],
) -> Death | None:
    """What this host says of a runner's death; None: it may live.

    The process is gone (same boot, same pid namespace), or the host was started anew since and the heartbeat is older
    than the lease that the runner had published.
    """
    if record.host != here.host:
        return None
    if not (record.boot_id and here.boot_id):
        return None  # of two unknown boots nothing is known
    if record.boot_id == here.boot_id:
        if not is_of_here(record, here) or is_running(record.pid, record.pid_start):
            return None
        return Death(f"process {record.pid} is gone from {record.host}")
    if heartbeat_age_s is None or heartbeat_age_s <= record.lease_s:
        return None
    return Death(
        f"{record.host} was started anew since, and the runner is silent for {heartbeat_age_s:.0f} s "
        f"(its lease is {record.lease_s:.0f} s)"
    )


def of_lease(
    record: RunnerRecord,
    here: Here,
    *,
    heartbeat_age_s: float | None,
    is_stopped: Callable[[int], bool],
) -> Death | None:
    """What a runner's silence says, where nothing better is known; None: it may live.

    Whoever was silent for longer than the lease that it published itself is dead. A process of this host that goes on
    is not: it will give a sign of life by itself, or see that others have its work. One that is stopped will not.
    """
    if heartbeat_age_s is None or not heartbeat_age_s > record.lease_s:
        return None
    silence = f"silent for {heartbeat_age_s:.0f} s (its lease is {record.lease_s:.0f} s)"
    if not is_of_here(record, here):
        return Death(f"it is {silence}")
    return Death(f"process {record.pid} is stopped, and {silence}") if is_stopped(record.pid) else None


def is_of_here(record: RunnerRecord, here: Here) -> bool:
    """Whether this process can tell for sure if that one runs."""
    same_boot = record.host == here.host and record.boot_id == here.boot_id != ""
    return same_boot and record.pid_namespace == here.pid_namespace != ""


def number(record: RunnerRecord) -> Number | None:
    """The allocation whose end is the runner's; None where Slurm did not start it on a node of one.

    The shell of `salloc` on a login node outlives its allocation, and so does what runs in it.
    """
    if record.slurm_job_id is None or record.slurm_node is None or not naming.is_allocation(record.slurm_job_id):
        return None
    return Number(record.slurm_job_id, record.slurm_cluster)


def in_question(record: RunnerRecord, here: Here, *, is_dead: bool) -> Number | None:
    """The allocation of which Slurm is to be asked; None where it could tell nothing new."""
    own = Number(str(here.slurm.get("slurm_job_id")), _text(here.slurm.get("slurm_cluster")))
    found = number(record)
    if found is None or (is_of_here(record, here) and not is_dead):
        return None
    return None if found == own and here.slurm.get("slurm_node") is not None else found  # ours goes on


def _text(value: str | int | None) -> str | None:
    return value if isinstance(value, str) else None


def of_own_allocation(record: RunnerRecord, here: Here) -> Death | None:
    """A runner of an earlier life of the very allocation that this process is in is dead: Slurm has requeued it."""
    own = here.slurm
    if number(record) is None or own.get("slurm_node") is None:
        return None
    if (own.get("slurm_job_id"), own.get("slurm_cluster")) != (record.slurm_job_id, record.slurm_cluster):
        return None
    restarts = own.get("slurm_restarts")
    if not isinstance(restarts, int) or restarts <= record.slurm_restarts:
        return None
    return Death(f"allocation {record.slurm_job_id} was requeued since: this is its restart {restarts}")


def of_allocation(
    record: RunnerRecord, seen: Seen, *, heartbeat_age_s: float | None, now: float | None = None
) -> Death | None:
    """What the state of its allocation says of a runner; None: it may live.

    Dead is a runner whose allocation has ended, was requeued since, or is known to Slurm no more while the runner is
    silent for longer than its lease. An allocation of another user, or one that ended before the runner began, is
    another one of that number.
    """
    if seen.user is not None and record.user is not None and seen.user != record.user:
        return None
    silent = heartbeat_age_s is not None and heartbeat_age_s > record.lease_s
    what = f"allocation {record.slurm_job_id}"
    if seen.state == UNKNOWN:
        if not silent:
            return None
        return Death(
            f"{what} is not known to {seen.said_by} any more, and the runner is silent for {heartbeat_age_s:.0f} s "
            f"(its lease is {record.lease_s:.0f} s)"
        )
    if seen.restarts is not None and seen.restarts > record.slurm_restarts:
        if seen.state == "COMPLETING":
            return None  # the processes of its earlier life may be at their last words
        return Death(f"{what} was requeued since, as {seen.said_by} says (restart {seen.restarts}, {seen.state})")
    if not seen.is_over:
        return None
    if seen.end is not None and record.started is not None and seen.end < record.started - _CLOCKS_S:
        return None
    now = time.time() if now is None else now
    cut_short = seen.state == WALLTIME and not _was_dead_before(record, seen, heartbeat_age_s, now)
    return Death(
        f"{what} has ended, as {seen.said_by} says: {seen.state}",
        f"{what} reached its walltime" if cut_short else None,
    )


def _was_dead_before(record: RunnerRecord, seen: Seen, heartbeat_age_s: float | None, now: float) -> bool:
    """Whether the runner had been silent for long when its allocation ended."""
    if heartbeat_age_s is None or seen.end is None:
        return False
    return heartbeat_age_s - (now - seen.end) > record.lease_s
