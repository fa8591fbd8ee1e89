"""Where everything lies in one workflow's directory. Nobody else joins these paths."""

from __future__ import annotations

import os

from torc_spool import naming
from torc_spool.model import OUTCOMES, Status

IDS = ".ids"  # in the spool's directory; never removed
FIXED_DIRECTORIES = (
    "blocked",
    "ready",
    f"ready/{naming.ANY_SCHEDULER}",
    "pending",
    "running",
    "done",
    *(f"done/{outcome}" for outcome in OUTCOMES),
    "held",
    "aside",
    "requests",
    "runners",
    "output",
)
ACTION_DIRECTORIES = (  # only where there are actions
    "actions",
    "actions/waiting",
    "actions/running",
    "actions/done",
    "actions/persistent",
)


class Layout:
    """The paths of one workflow."""

    __slots__ = (
        "actions_done",
        "actions_file",
        "actions_persistent",
        "actions_running",
        "actions_waiting",
        "aside",
        "blocked",
        "done",
        "held",
        "jobs_file",
        "lock",
        "output",
        "pending",
        "ready",
        "requests",
        "root",
        "runners",
        "running",
        "sick",
        "slurm",
        "user_data",
        "user_data_file",
        "workflow_file",
    )

    def __init__(self, root: str) -> None:
        self.root = root
        self.workflow_file = f"{root}/workflow.json"
        self.jobs_file = f"{root}/jobs.jsonl"
        self.lock = f"{root}/lock"
        self.blocked = f"{root}/blocked"
        self.ready = f"{root}/ready"
        self.pending = f"{root}/pending"
        self.running = f"{root}/running"
        self.done = f"{root}/done"
        self.held = f"{root}/held"
        self.aside = f"{root}/aside"
        self.requests = f"{root}/requests"
        self.runners = f"{root}/runners"
        self.output = f"{root}/output"
        self.user_data = f"{root}/user_data"  # only where there is some
        self.user_data_file = f"{root}/user_data.jsonl"
        self.actions_file = f"{root}/actions.jsonl"
        self.actions_waiting = f"{root}/actions/waiting"
        self.actions_running = f"{root}/actions/running"
        self.actions_done = f"{root}/actions/done"
        self.actions_persistent = f"{root}/actions/persistent"
        self.sick = f"{root}/sick"
        self.slurm = f"{root}/slurm"

    def revision(self, number: int) -> str:
        """The directory of a later definition of the jobs."""
        return f"{self.root}/{naming.revision_directory(number)}"

    def jobs_file_of(self, number: int) -> str:
        """The record of the jobs in a revision; 0: as they were submitted."""
        return f"{self.revision(number)}/jobs.jsonl" if number else f"{self.root}/jobs.jsonl"

    def revise(self, number: int) -> None:
        """Let the records be those of a revision."""
        self.workflow_file, self.jobs_file = f"{self.revision(number)}/workflow.json", self.jobs_file_of(number)

    @property
    def workflow_id(self) -> int | None:
        """By the directory's name; None where that is none of a workflow."""
        named = naming.parse_workflow(os.path.basename(self.root))
        return None if named is None else named[0]

    def ready_for(self, scheduler: str | None) -> str:
        """The directory of the ready jobs of a scheduler, by its name; None is `any`."""
        return f"{self.ready}/{naming.scheduler_directory(scheduler)}"

    def user_datum(self, file: str) -> str:
        return f"{self.user_data}/{file}"

    def outcome(self, outcome: Status) -> str:
        return f"{self.done}/{outcome}"

    def owned(self, status: Status, owner: str) -> str:
        """The directory of an owner's pending or running jobs."""
        return f"{self.root}/{status}/{owner}"

    def runner(self, name: str) -> str:
        return f"{self.runners}/{name}"

    def allocation(self, job_id: str) -> str:
        """The record of an allocation, by Slurm's number of it."""
        return f"{self.slurm}/{naming.allocation_name(job_id)}"

    def taken(self, taker: str) -> str:
        """Where a taker keeps the records of the dead whose work it took."""
        return f"{self.runners}/{taker}/taken"

    def directory_of(self, status: Status, detail: str | None = None) -> str:
        """The directory of a state; `detail` is the scheduler's directory or the owner where there is one."""
        if status is Status.READY:
            return f"{self.ready}/{detail or naming.ANY_SCHEDULER}"
        if status in OUTCOMES:
            return f"{self.done}/{status}"
        if detail is not None:
            return f"{self.root}/{status}/{detail}"
        return f"{self.root}/{status}"
