"""`torc-spool watch`."""

from __future__ import annotations

from typing import Any

import click

from torc_spool import watching
from torc_spool.errors import EXIT_JOBS_FAILED, EXIT_STOPPED, UsageError
from torc_spool.remedies import Terms
from torc_spool.watching import Help

from .common import WORKFLOW, CommonCommand, Seconds, State, say, show_json, unsuccessful
from .recover import show_cases, terms_options


@click.command(cls=CommonCommand)
@WORKFLOW
@click.option("-r", "--recover", "helps", is_flag=True, help="Do what `recover` does on the way, and ask for nodes.")
@terms_options
@click.option(
    "-n",
    "--num-hpc-jobs",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="So many allocations of each scheduler with ready jobs, when no runner and no allocation is left.",
)
@click.option(
    "-p",
    "--poll-interval",
    type=click.FloatRange(min=0.1, max=3600),
    default=watching.LONGEST_POLL_S,
    show_default=True,
    metavar="SECONDS",
    help="The longest time between two looks.",
)
@click.option("--timeout", type=Seconds(), metavar="SECONDS", help="Give up after so long, with code 4.")
@click.pass_context
def watch(
    context: click.Context,
    /,
    workflow_id: int,
    helps: bool,
    num_hpc_jobs: int,
    poll_interval: float,
    timeout: float | None,
    **terms: Any,
) -> int:
    """Watch a workflow until every job has an outcome, then report. Exit codes as of `run`.

    With --recover: until nothing more can be helped. Work of the dead is taken back, jobs that ran out of memory or
    time get more and run again, and where Slurm is, nodes are asked for when none are left, or when an action is due
    that asks for some. It may be killed and started anew.
    """
    state: State = context.obj
    if not helps:
        given = [name for name in ("memory_multiplier", "runtime_multiplier", "max_retries", "retry_unknown",
                                   "num_hpc_jobs")
                 if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]  # fmt: skip
        if given:
            raise UsageError(f"--{given[0].replace('_', '-')} is of use only with --recover")
    spool = state.spool()
    store = spool.open_to_change(workflow_id) if helps else spool.open(workflow_id)
    seen = watching.watch(
        store,
        spool.path,
        help_with=Help(Terms(**terms), num_hpc_jobs) if helps else None,
        poll_s=poll_interval,
        timeout_s=timeout,
        tell=say,
    )
    if state.json:
        show_json(watching.rows(seen))
    else:
        for line in watching.lines(seen):
            click.echo(line)
        show_cases(seen.cases)
    if seen.exit_code == EXIT_STOPPED:
        say(f"workflow {workflow_id} is not finished after {timeout:g} s")
    elif seen.exit_code == EXIT_JOBS_FAILED:
        say(unsuccessful(spool, workflow_id, seen.row["jobs"]))
    return seen.exit_code
