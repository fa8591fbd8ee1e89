"""`torc-spool recover`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from torc_spool import mend
from torc_spool.mend import Case
from torc_spool.remedies import MAX_RETRIES, MEMORY_MULTIPLIER, RUNTIME_MULTIPLIER, Terms
from torc_spool.report import memory_text

from .common import WORKFLOW, CommonCommand, State, clean, say, show_json, show_table


def terms_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How jobs that did not complete are to be helped: the fields of `Terms`."""
    options = [
        click.option(
            "--memory-multiplier",
            type=float,
            default=MEMORY_MULTIPLIER,
            show_default=True,
            metavar="FACTOR",
            help="A job that ran out of memory gets so many times what it had.",
        ),
        click.option(
            "--runtime-multiplier",
            type=float,
            default=RUNTIME_MULTIPLIER,
            show_default=True,
            metavar="FACTOR",
            help="A job that ran longer than its runtime gets so many times of that.",
        ),
        click.option(
            "--max-retries",
            type=click.IntRange(min=0),
            default=MAX_RETRIES,
            show_default=True,
            metavar="N",
            help="A job that has not completed more often is left.",
        ),
        click.option(
            "--retry-unknown",
            is_flag=True,
            help="Also jobs that failed for other reasons, as they are.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def show_cases(cases: Sequence[Case]) -> None:
    """A line for each job that did not complete."""
    if not cases:
        return
    rows = [case.row() for case in cases]
    show_table(
        ("job", "name", "status", "cause", "action", "memory", "runtime_s", "why"),
        [
            (
                row["job"],
                row["name"],
                row["status"],
                row["cause"],
                row["action"],
                _change(*(memory_text(each.memory_bytes) for each in (case.job.resources, case.remedy.resources))),
                _change(*(clean(each.runtime_s) for each in (case.job.resources, case.remedy.resources))),
                row["why"],
            )
            for case, row in zip(cases, rows, strict=True)
        ],
    )


def _change(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"


@click.command(cls=CommonCommand)
@WORKFLOW
@click.option("--dead", "said_dead", multiple=True, metavar="RUNNER", help="This runner is dead: you know it.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@terms_options
@click.option("--no-retry", is_flag=True, help="Only take back the work of the dead.")
@click.pass_obj
def recover(
    state: State, /, workflow_id: int, said_dead: tuple[str, ...], dry_run: bool, no_retry: bool, **terms: Any
) -> None:
    """Take back the work of runners that are known to be dead; then have jobs run again that ran out of memory or time,
    with more of it, and those that the end of their runner cut short, as they are.

    Never more than a scheduler of the workflow gives. Fit for cron: a second time in a row it changes nothing.
    """
    spool = state.spool()
    store = spool.open(workflow_id) if dry_run else spool.open_to_change(workflow_id)
    steps, owners, cases = mend.recover(
        store, None if no_retry else Terms(**terms), said_dead=said_dead, dry_run=dry_run
    )
    if state.json:
        show_json(
            {
                "dry_run": dry_run,
                "runners": [{"name": owner.name, "evidence": owner.evidence} for owner in owners],
                "jobs": [step._asdict() for step in steps],
                "failures": [case.row() for case in cases],
            }
        )
        return
    for owner in owners:
        click.echo(f"runner {owner.name} is dead: {clean(owner.evidence)}")
    if steps:
        show_table(("job", "action", "file"), [(step.job, step.action, step.filename) for step in steps])
    show_cases(cases)
    if not owners:
        say("no runner is known to be dead")
