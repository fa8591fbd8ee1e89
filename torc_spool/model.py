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
RAN = (Status.COMPLETED, Status.FAILED, Status.TERMINATED)
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


class StdioMode(enum.StrEnum):
    """Which files an attempt's output goes to."""

    SEPARATE = "separate"  # stdout and stderr in a file each
    COMBINED = "combined"  # both in one file, in the order in which they were written
    NO_STDOUT = "no_stdout"  # stderr alone is kept
    NO_STDERR = "no_stderr"  # stdout alone is kept
    NONE = "none"  # nothing is kept


class Stdio(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What becomes of a job's output."""

    mode: StdioMode = StdioMode.SEPARATE
    delete_on_success: bool = False  # the files are removed once the attempt has completed


class Rule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When, how often and after what a failed job is run again."""

    exit_codes: tuple[int, ...] = ()
    match_all_exit_codes: bool = False  # of a handler's rules, one that names the code wins over this
    recovery_script: str | None = None  # a shell command that runs before the next attempt
    max_retries: int = 3  # by this rule, beyond the first attempt


class FailureHandler(msgspec.Struct, frozen=True, kw_only=True):
    """Rules that jobs refer to by the handler's name."""

    name: str
    rules: tuple[Rule, ...]


class Trigger(enum.StrEnum):
    """When an action is performed; the words are Torc's."""

    WORKFLOW_START = "on_workflow_start"
    WORKFLOW_COMPLETE = "on_workflow_complete"
    JOBS_READY = "on_jobs_ready"
    JOBS_COMPLETE = "on_jobs_complete"
    WORKER_START = "on_worker_start"
    WORKER_COMPLETE = "on_worker_complete"


class Action(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something to do when the workflow has come to a point: the content of an action's file."""

    number: int  # in the order of the specification, from 1
    trigger: Trigger
    kind: str  # "run_commands" or "schedule_nodes"
    jobs: tuple[int, ...] = ()  # ids; for the triggers that name jobs
    commands: tuple[str, ...] = ()
    scheduler: str | None = None
    num_allocations: int = 1
    start_one_worker_per_node: bool = False
    max_parallel_jobs: int | None = None
    persistent: bool = False  # each runner performs it once; always so for the triggers of workers
    version: int = FORMAT_VERSION

    @property
    def is_of_each_runner(self) -> bool:
        return self.persistent or self.trigger in (Trigger.WORKER_START, Trigger.WORKER_COMPLETE)


class UserData(msgspec.Struct, frozen=True, kw_only=True):
    """A named JSON value of the workflow, that jobs read and write."""

    name: str
    data: Any = None
    is_ephemeral: bool = False


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One execution of a job, as it is recorded in the job's file."""

    attempt: int
    outcome: Status | None = None  # None: lost with its runner, `reason` says how that is known
    return_code: int | None = None  # as a shell gives it: 128 + n for a command that signal n killed
    reason: str | None = None  # why it did not complete
    cause: str | None = None  # a word of `causes`, where it was more than a return code
    evidence: str | None = None  # that its runner was dead
    runner: str | None = None
    host: str | None = None
    start_time: float | None = None  # seconds since the epoch, by the runner's clock
    end_time: float | None = None
    exec_s: float | None = None
    cpu_s: float | None = None  # user and system time of the command and its waited-for children
    peak_memory_bytes: int | None = None
    stated_memory_bytes: int | None = None  # what it had, where it was out of memory or time: the job may have more now
    stated_runtime_s: int | None = None
    gpus: str | None = None  # the device indices that it was given
    stdout: str | None = None  # None: not kept
    stderr: str | None = None
    retry_rule: int | None = None  # the rule of its failure handler, from 1, by which the job is run again
    digest: str | None = None  # of what was run: command, invocation script and environment
    recovered_by: str | None = None  # who noted it, where the runner was dead
    inputs: dict[str, tuple[int, int, str | None]] = {}  # by path: size, mtime in ns, SHA-256 where it was asked for


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
    invocation_script: str | None = None  # placed before the command
    env: dict[str, str] = {}
    stdio: Stdio | None = None  # None: the workflow's
    failure_handler: str | None = None
    input_files: tuple[str, ...] = ()  # paths as given
    output_files: tuple[str, ...] = ()
    input_user_data: tuple[str, ...] = ()  # names
    output_user_data: tuple[str, ...] = ()
    revision: int = 0  # in which this definition was made; 0: the submitted one
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
    num_actions: int = 0  # so that who has none need not look
    hash_inputs: bool = False  # runners record the SHA-256 of input files too
    digests: dict[str, str] = {}  # of the other files that never change, by name: the beginnings of their SHA-256
    project: str | None = None
    metadata: Any = None
    env: dict[str, str] = {}  # for all jobs; a job's own wins
    stdio: Stdio = Stdio()
    failure_handlers: tuple[FailureHandler, ...] = ()
    schedulers: tuple[dict[str, Any], ...] = ()  # slurm_schedulers as given, in the order of the spec
    slurm_defaults: dict[str, Any] = {}
    jobs_sort_method: str | None = None  # the order among jobs of equal priority; None: of submission
    settings: dict[str, Any] = {}  # fields that are kept as given: resource_monitor, compute_node_* ...


class WorkflowSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A validated specification: jobs carry their ids, 1 to n in the order of the spec, and know theirs by id."""

    name: str
    jobs: tuple[Job, ...]
    description: str | None = None
    user: str | None = None
    actions: tuple[Action, ...] = ()
    user_data: tuple[UserData, ...] = ()
    project: str | None = None
    metadata: Any = None
    env: dict[str, str] = {}  # for all jobs; a job's own wins
    stdio: Stdio = Stdio()
    failure_handlers: tuple[FailureHandler, ...] = ()
    schedulers: tuple[dict[str, Any], ...] = ()  # slurm_schedulers as given, in the order of the spec
    slurm_defaults: dict[str, Any] = {}
    jobs_sort_method: str | None = None  # the order among jobs of equal priority; None: of submission
    settings: dict[str, Any] = {}  # fields that are kept as given: resource_monitor, compute_node_* ...
    notes: tuple[str, ...] = ()  # what it says that is not acted on, a sentence each


class RunnerRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`runners/<runner>/runner.json`: who it is, so that others can tell whether it lives."""

    name: str
    host: str
    pid: int
    pid_start: str  # start of the process, in clock ticks since boot (field 22 of /proc/<pid>/stat)
    boot_id: str
    pid_namespace: str
    lease_s: float  # it is alive for others while its heartbeat is younger than this
    heartbeat_s: float | None = None  # how often it gives a sign of life
    version: int = FORMAT_VERSION
    kind: str = "runner"  # or the command that took work into its own hands ("recover", "retry" ...)
    started: float | None = None
    user: str | None = None
    scheduler: str | None = None
    any_scheduler: bool = False
    slurm_job_id: str | None = None
    slurm_cluster: str | None = None
    slurm_node: str | None = None  # absent: Slurm did not start it there, and its end does not end with the allocation
    slurm_restarts: int = 0  # how often Slurm had started the allocation anew
    max_parallel_jobs: int | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    num_nodes: int | None = None
    memory_mib: int | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What a recovery did with one job of a dead runner."""

    id: int
    attempt: int
    action: str  # "requeue", "keep result", "cancel", "terminate", "fail", "set aside", "gone"


class RunnerEnd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`runners/<runner>/end.json`: how it ended; for a dead one, by whom it was found and on what evidence."""

    state: str  # "ended" or "dead"
    time: float | None = None
    exit_code: int | None = None
    evidence: str | None = None
    recovered_by: str | None = None
    decisions: tuple[Decision, ...] = ()  # of the recovery, a job each
    version: int = FORMAT_VERSION


class SickHost(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`sick/<runner>.json`: a host on which that runner's jobs failed one after the other."""

    host: str
    runner: str
    time: float  # seconds since the epoch, by the runner's clock
    reason: str
    version: int = FORMAT_VERSION
    slurm_node: str | None = None
    slurm_cluster: str | None = None
    jobs: tuple[int, ...] = ()  # that failed
    any_completed: bool = False  # whether any job of the workflow had completed by then


class Allocation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`slurm/<job id>.json`: an allocation that was asked of Slurm for this workflow."""

    job_id: str
    scheduler: str
    key: str  # stands in the allocation's comment
    version: int = FORMAT_VERSION
    cluster: str | None = None  # where Slurm names one
    nodes: int = 1
    walltime_s: int | None = None  # None: no limit
    one_runner_per_node: bool = False
    max_parallel_jobs: int | None = None
    submitted: float | None = None  # seconds since the epoch, by the submitter's clock
    submitted_by: str | None = None
    submitted_on: str | None = None
    output: str | None = None  # the file of its stdout
    asked: dict[str, str | None] = {}  # what was asked of Slurm: long options
