"""`torc-spool slurm`: allocations for a workflow."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from torc_spool import allocationreport, allocations, doubts, report, scheduling
from torc_spool import lease as leases
from torc_spool.allocations import Prepared, Wish
from torc_spool.errors import TorcSpoolError, UsageError
from torc_spool.model import Allocation
from torc_spool.spool import command
from torc_spool.store import Store

from .common import (
    DIRECTORY,
    WORKFLOW,
    CommonGroup,
    Seconds,
    State,
    clean,
    named,
    say,
    show_json,
    show_table,
    show_text,
)

F = TypeVar("F", bound=Callable[..., Any])

_MAX_ALLOCATIONS = 1000


def allocation_options(function: F) -> F:
    """What an allocation is to be, and how runners start in it."""
    options = [
        click.option(
            "--scheduler",
            "--scheduler-config-id",
            metavar="NAME|N",
            help="Whose allocations: a scheduler's name, or its number in the spec from 1. Default: the only one.",
        ),
        click.option("--account", callback=named("name an account"), help="In place of the scheduler's account."),
        click.option("--partition", callback=named("name a partition"), help="In place of the scheduler's partition."),
        click.option(
            "--walltime",
            metavar="TIME",
            callback=named("write it as Slurm does"),
            help="In place of the scheduler's walltime; as Slurm writes it, such as 04:00:00 or 1-00:00:00.",
        ),
        click.option(
            "-p",
            "--max-parallel-jobs",
            type=click.IntRange(min=1),
            help="Each runner runs so many jobs at a time and ignores resources.",
        ),
        click.option("--start-one-worker-per-node", is_flag=True, help="Start a runner on each node."),
        click.option(
            "-o",
            "--output-dir",
            "--output",
            metavar="DIR",
            callback=DIRECTORY,
            help="Where stdout and stderr of the jobs go, and of the allocation itself.",
        ),
        click.option(
            "--grace",
            type=Seconds(),
            default=10.0,
            show_default=True,
            metavar="SECONDS",
            help="From SIGTERM to SIGKILL, for a job that has to end with the allocation; Slurm announces that end "
            "so long, and 30 s, before.",
        ),
        click.option(
            "--wait-for-new-jobs",
            type=Seconds(),
            metavar="SECONDS",
            help="A runner with nothing to do stays so long.  [default: as the spec says, else 0]",
        ),
        click.option(
            "--lease",
            type=Seconds(),
            envvar=leases.VARIABLE,
            metavar="SECONDS",
            help=f"Silent for so long a runner is dead for others; at least {leases.SHORTEST_S:g}. Also by "
            f"{leases.VARIABLE}.  [default: {leases.DEFAULT_S:g}]",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _wish(
    scheduler: str | None,
    account: str | None,
    partition: str | None,
    walltime: str | None,
    max_parallel_jobs: int | None,
    start_one_worker_per_node: bool,
    output_dir: str | None,
    grace: float,
    wait_for_new_jobs: float | None,
    lease: float | None,
) -> Wish:
    if grace == float("inf"):
        raise UsageError("--grace: an allocation ends")
    said = {"account": account, "partition": partition, "walltime": walltime}
    return Wish(
        scheduler=scheduler,
        one_runner_per_node=start_one_worker_per_node,
        max_parallel_jobs=max_parallel_jobs,
        output_dir=output_dir,
        grace_s=grace,
        wait_for_new_jobs_s=wait_for_new_jobs,
        lease_s=None if lease is None else leases.check(lease, "--lease"),
        said={name: value for name, value in said.items() if value is not None},
    )


def _prepare(store: Store, wish: Wish) -> Prepared:
    prepared = allocations.prepare(store, wish, allocations.program())
    if prepared.nodes > 1 and not prepared.launch.one_runner_per_node:
        say(
            f"note: one runner for all {prepared.nodes} nodes: jobs of one node run on the first of them; "
            "--start-one-worker-per-node starts a runner on each"
        )
    return prepared


@click.group(cls=CommonGroup)
def slurm() -> None:
    """Allocations of Slurm for a workflow."""


@slurm.command("script")
@WORKFLOW
@allocation_options
@click.pass_obj
def script(state: State, /, workflow_id: int, **asked: Any) -> None:
    """Show the batch script of an allocation, to be edited and given to sbatch by hand. Needs no Slurm."""
    prepared = _prepare(state.spool().open(workflow_id), _wish(**asked))
    if state.json:
        show_json({"workflow_id": workflow_id, "scheduler": prepared.launch.scheduler, "script": prepared.script})
    else:
        show_text(prepared.script)


@slurm.command("schedule-nodes")
@WORKFLOW
@allocation_options
@click.option(
    "-n",
    "--num-hpc-jobs",
    type=click.IntRange(1, _MAX_ALLOCATIONS),
    default=1,
    show_default=True,
    help="So many allocations.",
)
@click.option(
    "--actions",
    "by_actions",
    is_flag=True,
    help="What the workflow's own schedule_nodes actions ask for, as far as their time has come; nothing else.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be given to sbatch, and submit nothing.")
@click.option("--performing", hidden=True, type=click.IntRange(min=1), help="The action that a runner has claimed.")
@click.option("--key", hidden=True, default="", help="That of its allocations.")
@click.option("--again", hidden=True, is_flag=True, help="Another has begun it.")
@click.pass_context
def schedule_nodes(
    context: click.Context,
    /,
    workflow_id: int,
    num_hpc_jobs: int,
    by_actions: bool,
    dry_run: bool,
    performing: int | None,
    key: str,
    again: bool,
    **asked: Any,
) -> None:
    """Submit allocations in which runners work on a workflow.

    What is asked of Slurm is what the scheduler says in the spec (`slurm_schedulers`), over `slurm_defaults`.
    """
    state: State = context.obj
    spool = state.spool()
    store = spool.open_to_change(workflow_id)
    if performing is not None:
        scheduling.perform(store, performing, key, again=again, tell=lambda given: click.echo(given.job_id))
        return
    if by_actions:
        _refuse_beside_actions(context)
        _perform_due(state, store)
        return
    prepared = _prepare(store, _wish(**asked))
    notes = doubts.ask([prepared.asked])
    for note in notes:
        say(f"note: {note}")
    if dry_run:
        _show_dry_run(state, prepared, num_hpc_jobs, notes)
        return
    if report.status(store)["finished"]:
        raise UsageError(f"workflow {workflow_id} is finished: there is nothing to run")
    submitted = []
    try:
        for allocation in allocations.submit(store, prepared, num_hpc_jobs):
            submitted.append(allocation)
            if not state.json:
                click.echo(allocation.job_id)
                sys.stdout.flush()
    except TorcSpoolError:
        if submitted:
            say(f"{len(submitted)} of {num_hpc_jobs} allocations were submitted")
        raise
    finally:
        if state.json:
            show_json(
                {
                    "workflow_id": workflow_id,
                    "scheduler": prepared.launch.scheduler,
                    "dry_run": False,
                    "allocations": submitted,
                    "notes": notes,
                }
            )
    say(f"submitted {_counted(num_hpc_jobs, prepared)}; see {command(spool.path, f'slurm status {workflow_id}')}")


def _refuse_beside_actions(context: click.Context) -> None:
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name in context.params and name not in ("workflow_id", "by_actions", "spool", "format"):
            raise UsageError(f"--actions goes without {parameter.opts[0]}: an action says itself what it asks for")


def _perform_due(state: State, store: Store) -> None:
    given: list[Allocation] = []

    def tell(allocation: Allocation) -> None:
        given.append(allocation)
        if not state.json:
            click.echo(allocation.job_id)
            sys.stdout.flush()

    performed: list[int] = []
    try:
        performed = scheduling.perform_due(store, tell)
    finally:
        if state.json:
            show_json({"workflow_id": store.workflow.id, "actions": performed, "allocations": given})
    if performed:
        numbers = ", ".join(map(str, performed))
        say(f"performed action{'s' if len(performed) > 1 else ''} {numbers}: {len(given)} allocations")
    else:
        say("no schedule_nodes action is due; see torc-spool actions list")


def _show_dry_run(state: State, prepared: Prepared, count: int, notes: list[str]) -> None:
    if state.json:
        show_json(
            {
                "workflow_id": prepared.launch.workflow_id,
                "scheduler": prepared.launch.scheduler,
                "dry_run": True,
                "allocations": [],
                "script": prepared.script,
                "notes": notes,
            }
        )
        return
    show_text(prepared.script)
    say(f"would submit this, for {_counted(count, prepared)}")


def _counted(count: int, prepared: Prepared) -> str:
    nodes = f"{prepared.nodes} node{'s' if prepared.nodes > 1 else ''}"
    return f"{count} allocation{'s' if count > 1 else ''} of {nodes} for scheduler {prepared.launch.scheduler}"


@slurm.command("status")
@WORKFLOW
@click.pass_obj
def status(state: State, workflow_id: int) -> None:
    """Show the allocations of a workflow, and the runners and jobs in each.

    `unknown` is the state of one of which Slurm tells nothing.
    """
    rows, trouble = allocationreport.status(state.spool().open(workflow_id))
    if trouble is not None:
        say(f"note: the state of the allocations is not known: {clean(str(trouble))}")
    if state.json:
        show_json(rows)
        return
    if not rows:
        say(f"workflow {workflow_id} has no allocations")
        return
    show_table(
        ("allocation", "scheduler", "state", "reason", "nodes", "left", "runners", "pending", "running"),
        [
            (
                row["job_id"],
                row["scheduler"],
                row["state"],
                row["reason"],
                row["nodes"] or row["num_nodes"],
                _duration(row["time_left_s"]),
                _runners(row["runners"]),
                row["jobs"]["pending"],
                row["jobs"]["running"],
            )
            for row in rows
        ],
    )


def _duration(seconds: int | None) -> str | None:
    return None if seconds is None else f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _runners(found: list[dict[str, str]]) -> str:
    states = Counter(runner["state"] for runner in found)
    return ", ".join(f"{count} {name}" for name, count in states.items()) or "none"


def _register() -> None:
    """What plans allocations stands in a module of its own, which needs this one."""
    from .submit_slurm import generate_spec

    slurm.add_command(generate_spec)


_register()
