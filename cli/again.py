"""Commands that run again what has to: reinitialize, reset-status."""

from __future__ import annotations

from collections.abc import Sequence

import click

from torc_spool import reinitialize as library
from torc_spool.reinitialize import Row

from .common import WORKFLOW, CommonCommand, State, clean, say, show_json

_DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")


def _tell(state: State, rows: Sequence[Row], *, dry_run: bool) -> None:
    if state.json:
        show_json({"jobs": [row._asdict() for row in rows], "dry_run": dry_run})
        return
    for row in rows:
        click.echo(f"{clean(row.name)} ({row.status}): {clean('; '.join(row.reasons))}")
    what = "would change" if dry_run else "changed"
    click.echo(f"{len(rows)} {'job' if len(rows) == 1 else 'jobs'} {what}" if rows else "nothing to do")


@click.command(cls=CommonCommand)
@WORKFLOW
@click.argument("spec", metavar="[SPEC]", required=False)
@_DRY_RUN
@click.option(
    "--hash",
    "by_content",
    is_flag=True,
    help="An input has changed when its SHA-256 has, where it was noted (`submit --hash-inputs`).",
)
@click.pass_obj
def reinitialize(state: State, workflow_id: int, spec: str | None, dry_run: bool, by_content: bool) -> None:
    """Let run again what no longer holds: a job of which an output is gone, an input, the command or (with SPEC, the
    changed specification) its definition has changed, and all that waits for it. All of it is done, or nothing."""
    wanted = None
    if spec is not None:
        from .submit import read_spec

        wanted = read_spec(spec)
    spool = state.spool()
    store = spool.open(workflow_id) if dry_run else spool.open_to_change(workflow_id)
    rows = library.reinitialize(store, wanted, by_content=by_content, dry_run=dry_run)
    _tell(state, rows, dry_run=dry_run)
    if spec is not None and not rows:
        say("the specification changes nothing that a job would be run again for")


@click.command("reset-status", cls=CommonCommand)
@WORKFLOW
@click.option(
    "--failed", "--failed-only", is_flag=True, help="Only what failed, was terminated or canceled, and what follows."
)
@_DRY_RUN
@click.pass_obj
def reset_status(state: State, workflow_id: int, failed: bool, dry_run: bool) -> None:
    """Let all jobs run again as if they had never run, but as new attempts. All of it is done, or nothing."""
    spool = state.spool()
    store = spool.open(workflow_id) if dry_run else spool.open_to_change(workflow_id)
    _tell(state, library.reset_status(store, failed=failed, dry_run=dry_run), dry_run=dry_run)
