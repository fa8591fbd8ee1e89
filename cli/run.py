"""`torc-spool run` and `torc-spool preview`: runners, and what one would claim."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import click

from torc_spool import allocation, arrival, capacity, crowd, doctor
from torc_spool import lease as leases
from torc_spool.errors import EXIT_JOBS_FAILED, TorcSpoolError, UsageError
from torc_spool.runner import Options, Result, Runner
from torc_spool.select import Free, Offer
from torc_spool.served import serve_directories
from torc_spool.spool import Spool
from torc_spool.streak import SICK_WITHIN_S

from .common import (
    DIRECTORY,
    HASH_INPUTS,
    WORKFLOW,
    CommonCommand,
    Seconds,
    State,
    clean,
    ignore_missing_data,
    read_option,
    say,
    show_json,
    unsuccessful,
    workflow_or_spec,
)

F = TypeVar("F", bound=Callable[..., Any])

_SHOWN = 20
_QUIET_S = 10.0
_MAX_GPUS, _MAX_NODES = 10_000, 100_000  # as in a spec


def runner_options(function: F) -> F:
    """What a runner has and may claim."""
    options = [
        click.option("--num-cpus", type=click.IntRange(min=1), help="Cpus to give. Default: what this node gives."),
        click.option("--memory-gb", type=click.FloatRange(min=0, min_open=True), help="Memory to give, in GiB."),
        click.option("--num-gpus", type=click.IntRange(0, _MAX_GPUS), help="GPUs to give, the first ones."),
        click.option("--num-nodes", type=click.IntRange(1, _MAX_NODES), help="Nodes of that size.  [default: 1]"),
        click.option(
            "-p",
            "--max-parallel-jobs",
            type=click.IntRange(min=1),
            help="Run so many jobs at a time and ignore resources.",
        ),
        click.option(
            "--scheduler",
            "--scheduler-config-id",
            metavar="NAME|N",
            help="Also claim jobs bound to this scheduler: its name, or its number in the spec from 1.",
        ),
        click.option("--any-scheduler", is_flag=True, help="Claim jobs of all schedulers."),
        click.option("--time-limit", metavar="DURATION", help="End after so long, such as PT2H."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _time_limit(text: str | None) -> int | None:
    if text is None:
        return None
    from torc_spool.quantities import parse_duration

    return read_option("--time-limit", parse_duration, text)


@click.command(cls=CommonCommand)
@click.argument("spec_or_id", metavar="[SPEC_OR_ID]", required=False)
@runner_options
@click.option("--output-dir", metavar="DIR", callback=DIRECTORY, help="Where stdout and stderr of the jobs go.")
@click.option(
    "--wait-for-new-jobs",
    type=Seconds(),
    metavar="SECONDS",
    help="Stay so long with nothing to do, for jobs that may come.  [default: 0; in Slurm what the spec says]",
)
@click.option(
    "--leave-to-others",
    is_flag=True,
    help="Return 0 in place of 3 where all jobs that are left are bound to other schedulers, run elsewhere, or wait.",
)
@click.option("--no-limit-resources", is_flag=True, help="Do not end jobs that exceed their stated needs.")
@click.option(
    "--grace",
    type=Seconds(),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="From SIGTERM to SIGKILL, for a job that has to end.",
)
@click.option(
    "--lease",
    type=Seconds(),
    envvar=leases.VARIABLE,
    metavar="SECONDS",
    help="Silent for so long this runner is dead for others, who take its work back; at least 75. It gives a sign of "
    f"life every third of what is left of it after a minute, at most every 60 s. Also by {leases.VARIABLE}.  "
    "[default: 240]",
)
@click.option(
    "--sick-after",
    type=click.IntRange(min=0),
    metavar="N",
    help="Claim nothing more after so many different jobs in a row failed at once, and note this host as sick; "
    "0: never.  [default: 5, unless nobody else could run them]",
)
@click.option(
    "--sick-within",
    type=Seconds(),
    default=SICK_WITHIN_S,
    show_default=True,
    metavar="SECONDS",
    help="What counts as at once.",
)
@click.option(
    "--calls-per-second",
    type=click.IntRange(1, 1_000_000),
    envvar="TORC_SPOOL_CALLS_PER_SECOND",
    metavar="N",
    help="What all runners of a workflow together may ask of the filesystem beside the steps of their jobs. Give it to "
    f"all of them; also by TORC_SPOOL_CALLS_PER_SECOND.  [default: what a doctor has chosen, else {crowd.CALLS_PER_S}]",
)
@ignore_missing_data
@HASH_INPUTS
@click.pass_obj
def run(
    state: State,
    spec_or_id: str | None,
    num_cpus: int | None,
    memory_gb: float | None,
    num_gpus: int | None,
    num_nodes: int | None,
    max_parallel_jobs: int | None,
    scheduler: str | None,
    any_scheduler: bool,
    time_limit: str | None,
    output_dir: str | None,
    wait_for_new_jobs: float | None,
    leave_to_others: bool,
    no_limit_resources: bool,
    grace: float,
    lease: float | None,
    sick_after: int | None,
    sick_within: float,
    calls_per_second: int | None,
    ignore_missing_data: bool,
    hash_inputs: bool,
) -> int:
    """Run a workflow: a spec is submitted first. Without one, run every workflow of the spool.

    The first SIGINT or SIGTERM gives jobs their notice, the second ends them at once.

    Exit codes: 0 every job completed; 1 finished with jobs failed, canceled or terminated; 2 bad usage or bad input;
    3 jobs are left that this runner may not or cannot run; 4 stopped by a signal or the end of its time.
    """
    capacity_here = capacity.given(
        allocation.detect(), num_cpus=num_cpus, memory_gb=memory_gb, num_gpus=num_gpus, num_nodes=num_nodes
    )
    asked_s = _time_limit(time_limit)
    lease_s = leases.DEFAULT_S if lease is None else leases.check(lease, "--lease")
    spool = state.spool()
    budget = doctor.budget(spool.path, calls_per_second)
    begun = arrival.await_turn(spool.path, budget, is_watched=sys.stderr.isatty(), tell=say)
    click.get_current_context().call_on_close(begun)  # the time limit begins here
    workflow_id = None if spec_or_id is None else workflow_or_spec(spool, spec_or_id)
    if spec_or_id is not None and workflow_id is None:
        from .submit import publish, read_spec  # reading specs is not what most runners are started for

        parsed, verbatim = read_spec(spec_or_id)
        workflow_id = publish(spool, parsed, verbatim, output_dir, ignore_missing_data, hash_inputs=hash_inputs)
        say(f"workflow {workflow_id}")
    settings = spool.open(workflow_id).workflow.settings if workflow_id and allocation.job_id() else {}
    limit = allocation.time_limit(asked_s, settings, say)
    options = Options(
        capacity=capacity_here,
        max_parallel_jobs=max_parallel_jobs,
        scheduler=scheduler,
        any_scheduler=any_scheduler,
        time_limit_s=limit.seconds,
        end_reason=limit.reason,
        walltime_s=limit.walltime_s,
        grace_s=grace,
        leave_to_others=leave_to_others,
        limit_resources=not no_limit_resources,
        output_dir=output_dir,
        wait_for_new_jobs_s=allocation.patience(settings) if wait_for_new_jobs is None else wait_for_new_jobs,
        lease_s=lease_s,
        sick_after=sick_after,
        sick_within_s=sick_within,
        calls_per_s=calls_per_second,
    )
    view = _bar(spool.open(workflow_id).workflow.num_jobs) if workflow_id and sys.stderr.isatty() else _Lines()
    runner = Runner(spool, options, workflow_id=workflow_id, tell=view.tell, progress=view.progress, begun=begun)
    with view:
        result = runner.run()
    _tell_end(state, workflow_id, result)
    if workflow_id is not None and result.exit_code == EXIT_JOBS_FAILED and not state.json:
        _tell_retry(spool, workflow_id)
    return result.exit_code


def _tell_retry(spool: Spool, workflow_id: int) -> None:
    from torc_spool import report

    with suppress(TorcSpoolError):  # it may have been deleted since
        row = report.status(spool.open(workflow_id))
        if row["finished"] and row["jobs"]["completed"] < row["total"]:
            say(unsuccessful(spool, workflow_id, row["jobs"]))


def _tell_end(state: State, workflow_id: int | None, result: Result) -> None:
    for line in result.set_aside[:_SHOWN]:
        say(f"set aside: {line}")
    for number, left in result.left[:_SHOWN]:
        where = "" if workflow_id else f"workflow {number}: "
        say(f"left: {where}job {left.name} {left.reason}")
    if len(result.left) > _SHOWN:
        say(f"... and {len(result.left) - _SHOWN} jobs more are left")
    done = ", ".join(f"{count} {outcome}" for outcome, count in result.recorded.items())
    say(f"this runner recorded: {done or 'nothing'}")
    if state.json:
        show_json(
            {
                "exit_code": result.exit_code,
                "workflow_id": workflow_id,
                "recorded": {str(outcome): count for outcome, count in result.recorded.items()},
                "left": [
                    {"workflow_id": number, "id": left.id, "name": left.name, "reason": left.reason}
                    for number, left in result.left
                ],
                "set_aside": result.set_aside,
            }
        )


class _Lines:
    """Plain lines: what happens, and now and then the counts."""

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._last: dict[str, int] = {}

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def tell(self, line: str) -> None:
        say(line)

    def progress(self, runner: Runner) -> None:
        now = time.monotonic()
        if now - self._said < _QUIET_S:
            return
        self._said = now
        counts = dict(runner.counts())
        if counts != self._last:
            self._last = counts
            say(", ".join(f"{count} {what}" for what, count in counts.items()))


class _Bar(_Lines):
    """A bar with counts, on a terminal. The terminal may go away at any time: the jobs do not go with it."""

    def __init__(self, total: int) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=total, counts="")

    def __enter__(self) -> _Bar:
        with suppress(OSError):
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._bar.stop()

    def tell(self, line: str) -> None:
        with suppress(OSError):
            self._bar.console.print(clean(line), markup=False, highlight=False, soft_wrap=True)

    def progress(self, runner: Runner) -> None:
        now = time.monotonic()
        if now - self._said < 0.1 and runner.executor.num_running:
            return
        self._said = now
        counts = dict(runner.counts())
        done = sum(count for what, count in counts.items() if what != "running")
        text = ", ".join(f"{count} {what}" for what, count in counts.items())
        with suppress(OSError):
            self._bar.update(self._task, completed=done, counts=text)


def _bar(total: int) -> _Lines:
    return _Bar(total)


@click.command(cls=CommonCommand)
@WORKFLOW
@runner_options
@click.option("--limit", type=click.IntRange(min=0), help="Claim at most so many jobs.")
@click.pass_obj
def preview(
    state: State,
    workflow_id: int,
    num_cpus: int | None,
    memory_gb: float | None,
    num_gpus: int | None,
    num_nodes: int | None,
    max_parallel_jobs: int | None,
    scheduler: str | None,
    any_scheduler: bool,
    time_limit: str | None,
    limit: int | None,
) -> None:
    """Show what an idle runner with these options would claim now, and why it would skip each other ready job."""
    from torc_spool import report

    if max_parallel_jobs is not None and limit is not None:
        raise UsageError("--limit goes with resources; with --max-parallel-jobs that is the limit")
    has = capacity.given(
        allocation.detect(), num_cpus=num_cpus, memory_gb=memory_gb, num_gpus=num_gpus, num_nodes=num_nodes
    )
    offer = Offer.idle(
        Free(has.num_cpus, has.memory_mib, len(has.gpus)),
        has.num_nodes,
        seconds_left=None if max_parallel_jobs is not None else _time_limit(time_limit),
        slots=limit if max_parallel_jobs is None else max_parallel_jobs,
        ignore_resources=max_parallel_jobs is not None,
        own_node_only=len(has.node_names) > 1,
    )
    store = state.spool().open(workflow_id)
    row = report.preview(store, serve_directories(store, scheduler, any_scheduler), offer)
    if state.json:
        show_json(row)
        return
    for name in row["claimed"]:
        click.echo(f"claim  {clean(name)}")
    for skipped in row["skipped"]:
        click.echo(f"skip   {clean(skipped['name'])}: {clean(skipped['reason'])}")
    if not row["claimed"] and not row["skipped"]:
        state_now = report.status(store)
        counts = {name: state_now["jobs"][name] for name in ("held", "blocked", "pending", "running")}
        counts["set aside"] = state_now["set_aside"]
        left = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        say("the workflow is finished" if state_now["finished"] else f"no job is ready: {left}")
