"""Commands that change: cancel, hold, release, retry, set-priority, stop, delete."""

from __future__ import annotations

from collections.abc import Sequence

import click

from torc_spool import allocationreport, changes
from torc_spool.changes import Changed
from torc_spool.errors import EXIT_OK, EXIT_USAGE, UsageError
from torc_spool.store import Store

from .common import JOBS, WORKFLOW, CommonCommand, State, clean, say, show_json

_SHOWN = 20


def _tell(state: State, changed: Sequence[Changed], *, named: bool) -> int:
    """Show what was changed. A job that was named and could not be changed makes it a failure."""
    if state.json:
        show_json([change._asdict() for change in changed])
    else:
        told = [change for change in changed if change.done or named]
        for change in told[:_SHOWN]:
            click.echo(f"{clean(change.name)}: {change.what}")
        if len(told) > _SHOWN:
            click.echo(f"... and {len(told) - _SHOWN} more")
        if not any(change.done for change in changed):
            say("nothing was changed")
    return EXIT_USAGE if named and not all(change.done for change in changed) else EXIT_OK


@click.command(cls=CommonCommand)
@WORKFLOW
@JOBS
@click.option("--keep-allocations", is_flag=True, help="Leave the allocations of Slurm alone.")
@click.pass_obj
def cancel(state: State, workflow_id: int, jobs: tuple[str, ...], keep_allocations: bool) -> int:
    """Cancel jobs, by name or id; all that have not ended when none is named.

    When none is named, the allocations that `slurm schedule-nodes` submitted for the workflow are canceled too.
    """
    store = state.spool().open_to_change(workflow_id)
    changes.recover(store)
    code = _tell(state, changes.cancel(store, jobs), named=bool(jobs))
    if not jobs and not keep_allocations:
        _cancel_allocations(store)
    return code


def _cancel_allocations(store: Store) -> None:
    """What Slurm refuses is said; the jobs are canceled all the same."""
    canceled, trouble = allocationreport.cancel(store)
    for each in canceled:
        done = f"was {each.was}, canceled" if each.why_not is None else f"is not canceled: {clean(each.why_not)}"
        say(f"allocation {each.job_id} {done}")
    if trouble is not None:
        say(f"allocations of the workflow are not canceled: {clean(str(trouble))}")


@click.command(cls=CommonCommand)
@WORKFLOW
@JOBS
@click.pass_obj
def hold(state: State, workflow_id: int, jobs: tuple[str, ...]) -> int:
    """Park waiting jobs until `release`; all of them when none is named."""
    return _tell(state, changes.hold(state.spool().open_to_change(workflow_id), jobs), named=bool(jobs))


@click.command(cls=CommonCommand)
@WORKFLOW
@JOBS
@click.pass_obj
def release(state: State, workflow_id: int, jobs: tuple[str, ...]) -> int:
    """Let held jobs go; all of them when none is named."""
    return _tell(state, changes.release(state.spool().open_to_change(workflow_id), jobs), named=bool(jobs))


@click.command(cls=CommonCommand)
@WORKFLOW
@JOBS
@click.option("--failed", is_flag=True, help="All that failed or were terminated; the same as naming none.")
@click.pass_obj
def retry(state: State, workflow_id: int, jobs: tuple[str, ...], failed: bool) -> int:
    """Run jobs again, as a new attempt. Jobs that were canceled because of them come back too."""
    if failed and jobs:
        raise UsageError("name jobs, or pass --failed, not both")
    store = state.spool().open_to_change(workflow_id)
    return _tell(state, changes.retry(store, jobs), named=bool(jobs))


@click.command("set-priority", cls=CommonCommand)
@WORKFLOW
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True)
@click.argument("priority", metavar="N", type=int)
@click.pass_obj
def set_priority(state: State, workflow_id: int, jobs: tuple[str, ...], priority: int) -> int:
    """Give waiting jobs another priority, 0 to 999999; higher is claimed first."""
    return _tell(state, changes.set_priority(state.spool().open_to_change(workflow_id), jobs, priority), named=True)


@click.command(cls=CommonCommand)
@WORKFLOW
@click.argument("runner", metavar="RUNNER")
@click.pass_obj
def stop(state: State, workflow_id: int, runner: str) -> None:
    """Ask a runner, on any host, to finish what it runs and end. The beginning of its name will do."""
    name = changes.stop_runner(state.spool().open_to_change(workflow_id), runner)
    if state.json:
        show_json({"runner": name, "asked": True})
    else:
        click.echo(f"runner {name} is asked to stop")


@click.command(cls=CommonCommand)
@WORKFLOW
@click.option("--force", is_flag=True, help="Even while runners may live; they are fenced, and kill what they run.")
@click.pass_obj
def delete(state: State, workflow_id: int, force: bool) -> None:
    """Remove a workflow with its results and its output. Its id is not used again."""
    state.spool().delete(workflow_id, force=force)
    if state.json:
        show_json({"id": workflow_id, "deleted": True})
    else:
        click.echo(f"workflow {workflow_id} is deleted")
