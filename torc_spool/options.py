"""How a runner is to run, how it ended, and what it is still willing to do."""

from __future__ import annotations

import enum
from typing import NamedTuple

from torc_spool import lease
from torc_spool.capacity import Capacity
from torc_spool.model import Status
from torc_spool.served import Left
from torc_spool.streak import SICK_WITHIN_S

OWN_END = "the runner's time ended"
WALLTIME_END = "the walltime of the allocation ended"


class Options(NamedTuple):
    """How a runner is to run. Times in seconds."""

    capacity: Capacity
    max_parallel_jobs: int | None = None
    scheduler: str | None = None  # a name, or a number from 1 in the order of the spec
    any_scheduler: bool = False
    time_limit_s: float | None = None
    end_reason: str = OWN_END  # why the end of the time terminates jobs
    walltime_s: float | None = None  # when Slurm ends everything, where that is why the time ends
    grace_s: float = 10.0
    limit_resources: bool = True
    output_dir: str | None = None
    wait_for_new_jobs_s: float = 0.0
    leave_to_others: bool = False  # whether it is well that jobs are left that are others' to run
    sick_after: int | None = None  # jobs that fail at once, one after the other; None: the usual number, among others
    sick_within_s: float = SICK_WITHIN_S
    calls_per_s: float | None = None  # that all runners together may ask beside their jobs' steps; None: as chosen
    lease_s: float = lease.DEFAULT_S  # silent for so long it is dead for others; `lease.check` says what can be kept


class Result(NamedTuple):
    """How a runner ended."""

    exit_code: int
    left: list[tuple[int, Left]]  # (workflow, job) without an outcome, where this runner gave up on them
    set_aside: list[str]
    recorded: dict[Status, int]  # outcomes that this runner recorded


class Stage(enum.Enum):
    """What the runner is still willing to do."""

    CLAIMING = enum.auto()
    FINISHING = enum.auto()  # asked to stop: runs what it has, claims nothing more
    ENDING = enum.auto()  # a signal, or its end of time: jobs have had their notice
    KILLING = enum.auto()  # a second signal
