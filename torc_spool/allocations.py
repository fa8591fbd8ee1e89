"""Allocations for a workflow: prepare what is asked of Slurm, ask for it, and remember what was given.

Each is remembered in a file of its own below `slurm/`, made after sbatch has answered. Who dies in between leaves an
allocation that works all the same, and is found by the key in its comment.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torc_spool import fsops, naming, processes, sbatch, sickhosts, slurm, squeue, trust
from torc_spool.actor import user_name
from torc_spool.contents import encode, read_record
from torc_spool.errors import SlurmError, StorageError, UsageError
from torc_spool.model import Allocation
from torc_spool.sbatch import Launch, Options
from torc_spool.store import Store


class Wish(NamedTuple):
    """What somebody wants of Slurm for a workflow."""

    scheduler: str | None = None  # a name, or a number from 1 in the order of the spec; None: the only one
    one_runner_per_node: bool = False
    max_parallel_jobs: int | None = None
    output_dir: str | None = None  # for the jobs, and for the allocation's own output
    grace_s: float = sbatch.DEFAULT_GRACE_S
    wait_for_new_jobs_s: float | None = None
    lease_s: float | None = None
    said: Mapping[str, str | None] = {}  # options of sbatch that win over the scheduler's


class Prepared(NamedTuple):
    """An allocation that can be asked for."""

    asked: Options
    launch: Launch
    script: str
    max_parallel_jobs: int | None = None

    @property
    def nodes(self) -> int:
        return int(self.asked["nodes"] or 1)

    @property
    def walltime_s(self) -> int | None:
        return sbatch.walltime(self.asked["time"] or "")


def program() -> list[str]:
    """What calls torc-spool in an allocation: this very installation, whatever the PATH is there."""
    script = os.path.join(os.path.dirname(sys.executable), "torc-spool")
    return [script] if os.access(script, os.X_OK) else [sys.executable, "-m", "torc_spool_cli"]


def prepare(store: Store, wish: Wish, program: Sequence[str], key: str | None = None) -> Prepared:
    """The batch script for a wish. Makes the directory of the output, which Slurm does not.

    `program` are the words by which torc-spool is called in the allocation, `key` is by what it can be found in Slurm
    (random where none is given). Raises NotFound, SpecError, UsageError, StorageError.
    """
    workflow = store.workflow
    scheduler = store.scheduler(wish.scheduler)
    if not os.path.isdir(workflow.cwd):
        raise UsageError(f"{workflow.cwd}, where the workflow was submitted and its jobs run, is not there")
    asked = sbatch.options(scheduler, workflow.slurm_defaults, wish.said)
    if sick := sickhosts.nodes(store, lambda: _cluster_of(asked)):
        said = (asked.get("exclude") or "").split(",")
        asked["exclude"] = ",".join(dict.fromkeys(node for node in [*said, *sick] if node))
    output = wish.output_dir or workflow.output_dir or store.layout.output
    launch = Launch(
        program=program,
        spool=os.path.dirname(store.layout.root),
        workflow_id=workflow.id,
        scheduler=scheduler["name"],
        key=key or secrets.token_hex(4),
        cwd=workflow.cwd,
        output_dir=naming.storable(os.path.abspath(output)),
        runner_options=_runner_options(store, wish),
        one_runner_per_node=wish.one_runner_per_node,
        grace_s=wish.grace_s,
    )
    script = sbatch.script(asked, launch)
    fsops.make_output_directory(launch.output_dir)
    return Prepared(asked, launch, script, wish.max_parallel_jobs)


def _cluster_of(asked: Options) -> str | None:
    """Where a request goes; None: that is not known, or it may be several. Slurm refuses to exclude what is no node."""
    named = asked.get("clusters") or os.environ.get("SLURM_CLUSTERS")
    if named:
        return None if "," in named or named == "all" else named
    try:
        return squeue.cluster_here()
    except SlurmError:
        return None


def _runner_options(store: Store, wish: Wish) -> list[str]:
    words = []
    if wish.max_parallel_jobs is not None:
        words += ["--max-parallel-jobs", str(wish.max_parallel_jobs)]
    if wish.output_dir is not None:
        words += ["--output-dir", naming.storable(os.path.abspath(wish.output_dir))]
    if wish.wait_for_new_jobs_s is not None:
        words += ["--wait-for-new-jobs", f"{wish.wait_for_new_jobs_s:g}"]
    if wish.lease_s is not None:
        words += ["--lease", f"{wish.lease_s:g}"]
    return words + (["--allow-shared"] if store.shared else [])


def submit(store: Store, prepared: Prepared, count: int) -> Iterator[Allocation]:
    """Ask for so many allocations, one after the other; each is told once it is recorded.

    Raises SlurmError, StorageError: those that were told before have been submitted nevertheless.
    """
    make_directory(store)
    for _ in range(count):
        answer = slurm.submit(prepared.script, prepared.asked)
        yield record(store, prepared, answer.job_id, answer.cluster)


def make_directory(store: Store) -> None:
    """Where allocations are recorded; it is there from the first one on. Raises StorageError."""
    directory = store.layout.slurm
    fsops.make_directory(directory, store.directory_mode)
    trust.check_directory(directory, shared=store.shared)


def record(store: Store, prepared: Prepared, job_id: str, cluster: str | None = None) -> Allocation:
    """Remember an allocation that Slurm has. Raises UsageError, StorageError."""
    allocation = Allocation(
        job_id=job_id,
        cluster=cluster,
        scheduler=prepared.launch.scheduler,
        key=prepared.launch.key,
        nodes=prepared.nodes,
        walltime_s=prepared.walltime_s,
        one_runner_per_node=prepared.launch.one_runner_per_node,
        max_parallel_jobs=prepared.max_parallel_jobs,
        submitted=time.time(),
        submitted_by=user_name(),
        submitted_on=processes.host_name(),
        output=sbatch.log(prepared.launch, job_id),
        asked=prepared.asked,
    )
    _write(store, allocation)
    return allocation


def _write(store: Store, allocation: Allocation) -> None:
    path = store.layout.allocation(allocation.job_id)
    what = f"record allocation {allocation.job_id}, which was submitted nevertheless, in"
    try:
        made = fsops.create(path, encode(allocation), store.file_mode)
    except StorageError as error:
        raise StorageError(what, path, error.errno) from error
    if not made:  # Slurm has begun to count anew
        raise UsageError(f"cannot {what} {path}: there is an older one of that number; move it away")


def recorded(store: Store) -> list[Allocation]:
    """The allocations that were asked for, oldest first; what is no record of one is left out."""
    found = []
    for name in fsops.names(store.layout.slurm):
        job_id = naming.parse_allocation(name)
        if job_id is None:
            continue
        record: Allocation | None = read_record(f"{store.layout.slurm}/{name}", Allocation)
        if record is not None and record.job_id == job_id:
            found.append(record)
    return sorted(found, key=lambda each: (each.submitted or 0.0, int(each.job_id)))
