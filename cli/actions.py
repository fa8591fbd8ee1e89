"""`torc-spool actions`: what a workflow does by itself, how that stands, and to have it done again."""

from __future__ import annotations

import click

from torc_spool import actions as library

from .common import WORKFLOW, CommonCommand, CommonGroup, State, show_json, show_table


@click.group(cls=CommonGroup)
def actions() -> None:
    """The actions of a workflow."""


@actions.command("list")
@WORKFLOW
@click.pass_obj
def actions_list(state: State, workflow_id: int) -> None:
    """List actions in the order of the specification, and how each stands."""
    rows = library.rows(state.spool().open(workflow_id))
    if state.json:
        show_json(rows)
        return
    shown = ("number", "trigger", "kind", "state", "runner", "return_code", "waits_for")
    show_table(shown, [[row[column] for column in shown] for row in rows])


@actions.command("repeat", cls=CommonCommand)
@WORKFLOW
@click.argument("number", metavar="N", type=click.IntRange(min=1))
@click.option("--force", is_flag=True, help="Even while a runner that may live performs it.")
@click.pass_obj
def actions_repeat(state: State, workflow_id: int, number: int, force: bool) -> None:
    """Have an action performed once more, whether it was done, has failed or was interrupted."""
    name = library.repeat(state.spool().open_to_change(workflow_id), number, force=force)
    if state.json:
        show_json({"number": name.number, "performance": name.performance})
    else:
        click.echo(f"action {name.number} ({name.trigger}) waits, as performance {name.performance}")
