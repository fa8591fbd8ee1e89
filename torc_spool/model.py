"""What the spool stores and what the program decides on: frozen records, one place for their JSON.

The state of a job is not in its record: the directory in which its file lies is the state.
"""

from __future__ import annotations

import enum
import math
from typing import Any, NamedTuple

import msgspec

FORMAT_VERSION = 1
MIB = 1024 * 1024
MAX_PRIORITY = 999_999


class Status(enum.StrEnum):
    """Where a job is; the words are Torc's."""

    BLOCKED = "blocked"  # waits for other jobs
    READY = "ready"  # a runner may claim it
    PENDING = "pending"  # claimed by a runner, not started
    RUNNING = "running"  # started
    COMPLETED = "completed"  # ended with return code 0
    FAILED = "failed"  # ended otherwise, or over its memory
    CANCELED = "canceled"  # by a person, or because a job that it waits for did not complete
    TERMINATED = "terminated"  # over its runtime, or its runner had to end
    HELD = "held"  # parked by a person until `release`


OUTCOMES = (Status.COMPLETED, Status.FAILED, Status.CANCELED, Status.TERMINATED)
UNSUCCESSFUL = (Status.FAILED, Status.CANCELED, Status.TERMINATED)


class Needs(NamedTuple):
    """What a claim must know of a job's resources; this is what a file name carries."""

    num_cpus: int = 1
    num_gpus: int = 0
    num_nodes: int = 1
    memory_mib: int = 1
    runtime_s: int = 0  # 0: none stated


class Resources(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job asks for on each of its nodes."""

    num_cpus: int = 1
    num_gpus: int = 0
    num_nodes: int = 1
    memory_bytes: int | None = None  # None: not stated; counts as 1 MiB and is not limited
    runtime_s: int | None = None  # seconds; None: not stated and not limited

    @property
    def needs(self) -> Needs:
        memory_mib = max(1, math.ceil((self.memory_bytes or 0) / MIB))
        return Needs(self.num_cpus, self.num_gpus, self.num_nodes, memory_mib, self.runtime_s or 0)


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One execution of a job, as it is recorded in the job's file."""

    attempt: int
    outcome: Status | None = None  # None: lost with its runner, `reason` says how that is known
    return_code: int | None = None  # as a shell gives it: 128 + n for a command that signal n killed
    reason: str | None = None  # why it did not complete
    runner: str | None = None
    host: str | None = None
    start_time: float | None = None  # seconds since the epoch, by the runner's clock
    end_time: float | None = None
    exec_s: float | None = None
    cpu_s: float | None = None  # user and system time of the command and its waited-for children
    peak_memory_bytes: int | None = None
    gpus: str | None = None  # the device indices that it was given
    stdout: str | None = None
    stderr: str | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One command: the content of a job's file, and (without attempts) a line of the workflow's record."""

    id: int
    name: str
    command: str
    version: int = FORMAT_VERSION
    priority: int = 0
    scheduler: str | None = None
    resources: Resources = Resources()
    depends_on: tuple[int, ...] = ()  # ids
    cancel_on_blocking_job_failure: bool = True
    supports_termination: bool = False
    attempts: tuple[Attempt, ...] = ()


class Workflow(msgspec.Struct, frozen=True, kw_only=True):
    """`workflow.json`: what was submitted, normalised. Never changed; the jobs are in `jobs.jsonl`."""

    id: int
    name: str
    num_jobs: int
    num_edges: int
    cwd: str  # the directory of the submit; commands run there
    version: int = FORMAT_VERSION
    description: str | None = None
    user: str | None = None
    output_dir: str | None = None  # absolute; None: the workflow's own output/
    shared: bool = False  # submitted with --allow-shared
    submitted: float | None = None  # seconds since the epoch, by the submitter's clock
    submitted_by: str | None = None
    submitted_on: str | None = None
    schedulers: tuple[dict[str, Any], ...] = ()  # slurm_schedulers as given, in the order of the spec


class WorkflowSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A validated specification: jobs carry their ids, 1 to n in the order of the spec, and know theirs by id."""

    name: str
    jobs: tuple[Job, ...]
    description: str | None = None
    user: str | None = None
    schedulers: tuple[dict[str, Any], ...] = ()


class RunnerRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`runners/<runner>/runner.json`: who it is, so that others can tell whether it lives."""

    name: str
    host: str
    pid: int
    pid_start: str  # start of the process, in clock ticks since boot (field 22 of /proc/<pid>/stat)
    boot_id: str
    pid_namespace: str
    lease_s: float  # it is alive for others while its heartbeat is younger than this
    version: int = FORMAT_VERSION
    kind: str = "runner"  # or the command that took work into its own hands ("recover", "retry" ...)
    started: float | None = None
    user: str | None = None
    scheduler: str | None = None
    any_scheduler: bool = False
    slurm_job_id: str | None = None
    max_parallel_jobs: int | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    num_nodes: int | None = None
    memory_mib: int | None = None


class RunnerEnd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`runners/<runner>/end.json`: how it ended; for a dead one, by whom it was found and on what evidence."""

    state: str  # "ended" or "dead"
    time: float | None = None
    exit_code: int | None = None
    evidence: str | None = None
    recovered_by: str | None = None
    version: int = FORMAT_VERSION
