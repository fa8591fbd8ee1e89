"""`torc-spool submit-slurm` and `torc-spool slurm generate`: allocations from what jobs need."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from torc_spool import (
    actions,
    allocations,
    doubts,
    generate,
    sbatch,
    scheduling,
    siteprofile,
    slurm,
    slurmplan,
    specfile,
)
from torc_spool.errors import SlurmError, UsageError
from torc_spool.generate import Generated
from torc_spool.model import Allocation, Trigger
from torc_spool.siteprofile import Site
from torc_spool.slurmplan import Terms
from torc_spool.spool import command
from torc_spool.submission import Verbatim

from .common import DIRECTORY, CommonCommand, State, ignore_missing_data, named, say, show_json, show_table, show_text
from .submit import publish

F = TypeVar("F", bound=Callable[..., Any])


def plan_options(function: F) -> F:
    """What is planned, and for which site."""
    options = [
        click.argument("spec", metavar="SPEC"),
        click.option(
            "--account",
            callback=named("name an account"),
            help="Whom Slurm charges. Default: the profile's default_account, else Slurm's own choice.",
        ),
        click.option(
            "--profile",
            "--hpc-profile",
            metavar="FILE",
            callback=named("name a file"),
            help="The partitions of the site, as YAML. Default: what sinfo shows.",
        ),
        click.option(
            "--partition",
            "partitions",
            multiple=True,
            metavar="NAME",
            help="Choose among these partitions only; may be given again.",
        ),
        click.option(
            "--group-by",
            type=click.Choice([slurmplan.BY_REQUIREMENT, slurmplan.BY_PARTITION]),
            default=slurmplan.BY_REQUIREMENT,
            show_default=True,
            help="Which jobs share a scheduler.",
        ),
        click.option(
            "--walltime-strategy",
            "strategy",
            type=click.Choice([slurmplan.BY_JOBS, slurmplan.BY_LIMIT]),
            default=slurmplan.BY_JOBS,
            show_default=True,
            help="From the longest job, or as long as the partition allows.",
        ),
        click.option(
            "--walltime-multiplier",
            "multiplier",
            type=click.FloatRange(1, 1000),
            default=1.5,
            show_default=True,
            help="So many times the longest job's runtime.",
        ),
        click.option(
            "--single-allocation", is_flag=True, help="One allocation of several nodes, in place of several of one."
        ),
        click.option(
            "--max-nodes", type=click.IntRange(min=1), help="No more nodes than this at a time for a scheduler's stage."
        ),
        click.option(
            "--overwrite", is_flag=True, help="Replace the spec's own slurm_schedulers and schedule_nodes actions."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _generated(
    spec: str,
    *,
    account: str | None,
    profile: str | None,
    partitions: tuple[str, ...],
    overwrite: bool,
    **terms: Any,
) -> Generated:
    if terms["multiplier"] != terms["multiplier"]:
        raise UsageError("--walltime-multiplier: nan is no number")
    content = specfile.read_bytes(spec)
    site = _site(profile)
    chosen = site.partitions
    if partitions:
        known = {each.name for each in chosen}
        for name in partitions:
            if name not in known:
                raise UsageError(f"--partition: there is no {name!r}; there are {', '.join(sorted(known))}")
        chosen = tuple(each for each in chosen if each.name in partitions)
    return generate.generate(
        content,
        specfile.source_name(spec),
        chosen,
        Terms(**terms),
        account=account or site.account,
        overwrite=overwrite,
    )


def _site(profile: str | None) -> Site:
    if profile is None:
        try:
            return siteprofile.parse_sinfo(slurm.call(siteprofile.SINFO, timeout_s=slurm.QUERY_TIMEOUT_S))
        except SlurmError as error:
            raise UsageError(f"{error}; or describe the site in a file: --profile FILE") from error
    return siteprofile.parse(specfile.read_bytes(profile), specfile.source_name(profile))


def _show_plan(made: Generated) -> None:
    headings = ("SCHEDULER", "PARTITION", "JOBS", "AT ONCE", "NODES", "ALLOCATIONS", "WALLTIME", "ASKED FOR")
    rows = [
        (
            row["scheduler"],
            row["partition"],
            row["jobs"],
            row["at_once_per_node"],
            row["nodes"],
            row["allocations"],
            row["walltime"],
            "at the start" if row["stage"] == 1 else f"when its jobs of stage {row['stage']} are ready",
        )
        for row in generate.rows(made.groups)
    ]
    with contextlib.redirect_stdout(sys.stderr):
        show_table(headings, rows)
    sys.stderr.flush()
    for note in generate.notes(made.groups):
        say(f"note: {note}")


@click.command("generate", cls=CommonCommand)
@plan_options
@click.option("-o", "--output", metavar="FILE", callback=named("name a file"), help="Write the spec there.")
@click.pass_obj
def generate_spec(state: State, /, spec: str, output: str | None, **asked: Any) -> None:
    """Write schedulers and staged allocations into a spec, from what its jobs need. Submits nothing."""
    made = _generated(spec, **asked)
    _show_plan(made)
    if output is not None:
        try:
            with open(output, "w", encoding="utf-8") as file:
                file.write(made.text)
        except OSError as error:
            raise UsageError(f"--output: {output} cannot be written: {error.strerror}") from error
    if state.json:
        show_json({"plan": generate.rows(made.groups), "notes": generate.notes(made.groups), "spec": made.document})
    elif output is None:
        show_text(made.text)


@click.command("submit-slurm", cls=CommonCommand)
@plan_options
@click.option(
    "--output-dir",
    metavar="DIR",
    callback=DIRECTORY,
    help="Where stdout and stderr of the jobs go. Default: in the spool.",
)
@ignore_missing_data
@click.option("-y", "--yes", is_flag=True, help="Do not ask before submitting.")
@click.option("--dry-run", is_flag=True, help="Show the plan and the batch scripts of the start; submit nothing.")
@click.pass_obj
def submit_slurm(
    state: State,
    /,
    spec: str,
    output_dir: str | None,
    ignore_missing_data: bool,
    yes: bool,
    dry_run: bool,
    **asked: Any,
) -> None:
    """Submit a workflow with allocations planned from what its jobs need. Prints its id, alone.

    Nodes for the jobs that wait for nothing are asked for at once, those of later stages when their jobs are ready.
    """
    made = _generated(spec, **asked)
    _show_plan(made)
    if asked["profile"] is not None:  # the cluster itself may know better
        schedulers = [sbatch.options(each, made.spec.slurm_defaults) for each in made.spec.schedulers]
        for doubt in doubts.ask(schedulers):
            say(f"note: {doubt}")
    if dry_run:
        _show_dry_run(state, made, output_dir)
        return
    if not yes and sys.stdin.isatty() and sys.stderr.isatty():
        click.confirm("submit this?", abort=True, err=True)
    spool = state.spool()
    verbatim = Verbatim(made.text.encode(), "spec.yaml", source=specfile.source_name(spec))
    workflow_id = publish(spool, made.spec, verbatim, output_dir, ignore_missing_data)
    if not state.json:
        click.echo(workflow_id)
        sys.stdout.flush()
    store = spool.open_to_change(workflow_id)
    submitted: list[Allocation] = []
    try:
        scheduling.perform_due(store, submitted.append, scheduling.START)
    except SlurmError:
        say(f"workflow {workflow_id} is submitted, and {len(submitted)} allocations for it; ask for the others with "
            f"{command(spool.path, f'slurm schedule-nodes {workflow_id} --actions')}")  # fmt: skip
        raise
    finally:
        if state.json:
            rows = generate.rows(made.groups)
            row = {"id": workflow_id, "name": made.spec.name, "jobs": len(made.spec.jobs)}
            show_json({**row, "plan": rows, "allocations": submitted})
    plural = "" if len(submitted) == 1 else "s"
    see = command(spool.path, f"slurm status {workflow_id}")
    say(f"submitted {len(submitted)} allocation{plural}; see {see}")


def _show_dry_run(state: State, made: Generated, output_dir: str | None) -> None:
    scripts = {}
    asking = {
        action.scheduler: action.start_one_worker_per_node
        for action in made.spec.actions
        if action.kind == actions.SCHEDULE_NODES and action.trigger is Trigger.WORKFLOW_START
    }
    for scheduler in made.spec.schedulers:
        if scheduler["name"] not in asking:
            continue
        launch = sbatch.Launch(
            program=allocations.program(),
            spool=state.spool().path,
            workflow_id=0,
            scheduler=scheduler["name"],
            key="0" * 8,
            cwd=os.getcwd(),
            output_dir=os.path.abspath(output_dir or os.path.join(state.spool().path, "0", "output")),
            one_runner_per_node=asking[scheduler["name"]],
        )
        scripts[scheduler["name"]] = sbatch.script(sbatch.options(scheduler, made.spec.slurm_defaults), launch)
    if state.json:
        show_json({"plan": generate.rows(made.groups), "notes": generate.notes(made.groups), "scripts": scripts})
        return
    say("would submit these; 0 stands for the id that the workflow is going to have")
    for script in scripts.values():
        show_text(script)
