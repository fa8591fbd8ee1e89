"""`torc-spool wait`."""

from __future__ import annotations

import click

from torc_spool import waiting
from torc_spool.errors import EXIT_JOBS_FAILED, EXIT_OK, EXIT_STOPPED

from .common import WORKFLOW, CommonCommand, Seconds, State, say, show_json, unsuccessful


@click.command(cls=CommonCommand)
@WORKFLOW
@click.option("--timeout", type=Seconds(), metavar="SECONDS", help="Give up after so long, with code 4.")
@click.pass_obj
def wait(state: State, workflow_id: int, timeout: float | None) -> int:
    """Wait until every job of a workflow has an outcome. Exit codes as of `run`."""
    spool = state.spool()
    row = waiting.wait(spool.open(workflow_id), spool.path, timeout_s=timeout, tell=say)
    if state.json:
        show_json(row)
    if not row["finished"]:
        say(f"workflow {workflow_id} is not finished after {timeout:g} s")
        return EXIT_STOPPED
    if row["jobs"]["completed"] == row["total"]:
        return EXIT_OK
    say(unsuccessful(spool, workflow_id, row["jobs"]))
    return EXIT_JOBS_FAILED
