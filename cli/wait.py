"""`torc-spool wait`."""

from __future__ import annotations

import time

import click

from torc_spool import report
from torc_spool.errors import EXIT_JOBS_FAILED, EXIT_OK, EXIT_STOPPED, NotFound
from torc_spool.pace import Pace
from torc_spool.spool import command

from .common import WORKFLOW, CommonCommand, Seconds, State, say, show_json, unsuccessful

_LONGEST_POLL_S = 5.0


@click.command(cls=CommonCommand)
@WORKFLOW
@click.option("--timeout", type=Seconds(), metavar="SECONDS", help="Give up after so long, with code 4.")
@click.pass_obj
def wait(state: State, workflow_id: int, timeout: float | None) -> int:
    """Wait until every job of a workflow has an outcome. Exit codes as of `run`."""
    spool = state.spool()
    store = spool.open(workflow_id)
    pace, started, warned = Pace(0.1), time.monotonic(), False
    while True:
        row = report.status(store)
        if row["finished"]:
            break
        if not store.exists():
            raise NotFound(f"workflow {workflow_id} was deleted")
        if not warned and not any(runner["state"] == "alive" for runner in row["runners"]):
            say(f"no runner is at work; start one with: {command(spool.path, f'run {workflow_id}')}")
            warned = True
        left = None if timeout is None else started + timeout - time.monotonic()
        if left is not None and left <= 0:
            break
        pace.slower(_LONGEST_POLL_S)
        pause = max(0.0, pace.at - time.monotonic())
        time.sleep(pause if left is None else min(pause, left))
    if state.json:
        show_json(row)
    if not row["finished"]:
        say(f"workflow {workflow_id} is not finished after {timeout:g} s")
        return EXIT_STOPPED
    if row["jobs"]["completed"] == row["total"]:
        return EXIT_OK
    say(unsuccessful(spool, workflow_id, row["jobs"]))
    return EXIT_JOBS_FAILED
