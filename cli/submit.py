"""`torc-spool submit`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from torc_spool import spec as specs
from torc_spool import specfile
from torc_spool.errors import SpecError, UsageError
from torc_spool.inputs import check_inputs
from torc_spool.model import Resources, WorkflowSpec
from torc_spool.specsummary import summary
from torc_spool.spool import Spool
from torc_spool.submission import Verbatim

from .common import (
    DIRECTORY,
    HASH_INPUTS,
    CommonCommand,
    State,
    ignore_missing_data,
    named,
    read_option,
    say,
    show_fields,
    show_json,
)

_SHOW_PROGRESS_FROM = 5000
_OPTIONS = ("name", "num_cpus", "num_gpus", "num_nodes", "priority", "scheduler")  # what complaints may be about


@click.command(cls=CommonCommand)
@click.argument("spec", metavar="[SPEC]", required=False)
@click.option("--commands", metavar="FILE", help="A file with a command a line, or - for stdin, in place of a spec.")
@click.option(
    "--name", callback=named("give a name"), help="With --commands: the workflow's name.  [default: commands]"
)
@click.option("--num-cpus", type=int, help="With --commands: cpus of each job.  [default: 1]")
@click.option("--num-gpus", type=int, help="With --commands: gpus of each job.  [default: 0]")
@click.option("--num-nodes", type=int, help="With --commands: nodes of each job.  [default: 1]")
@click.option("--memory", metavar="SIZE", help="With --commands: memory of each job, such as 512m or 4g.")
@click.option("--runtime", metavar="DURATION", help="With --commands: runtime of each job, such as PT30M.")
@click.option("--priority", type=int, help="With --commands: priority of each job, 0 to 999999.  [default: 0]")
@click.option(
    "--scheduler",
    metavar="NAME",
    callback=named("give a name"),
    help="With --commands: only runners with this --scheduler may claim the jobs.",
)
@click.option(
    "--output-dir",
    metavar="DIR",
    callback=DIRECTORY,
    help="Where stdout and stderr of the jobs go. Default: in the spool.",
)
@ignore_missing_data
@HASH_INPUTS
@click.option("--dry-run", is_flag=True, help="Check all of it, show what it comes to, and submit nothing.")
@click.pass_obj
def submit(
    state: State,
    /,
    spec: str | None,
    commands: str | None,
    output_dir: str | None,
    ignore_missing_data: bool,
    dry_run: bool,
    hash_inputs: bool,
    **each: Any,
) -> None:
    """Submit a workflow: a YAML, JSON or JSON5 file, or - for stdin. Prints its id, alone."""
    if (spec is None) == (commands is None):
        raise UsageError("give either a spec or --commands FILE")
    if commands is not None:
        parsed, verbatim = _from_commands(commands, **each)
    else:
        assert spec is not None
        given = sorted(f"--{name.replace('_', '-')}" for name, value in each.items() if value is not None)
        if given:
            raise UsageError(f"{', '.join(given)}: only with --commands; in a spec each job says it itself")
        parsed, verbatim = read_spec(spec)
    if dry_run:
        _show_dry_run(state, parsed, verbatim, ignore_missing_data)
        return
    workflow_id = publish(state.spool(), parsed, verbatim, output_dir, ignore_missing_data, hash_inputs=hash_inputs)
    if state.json:
        show_json({"id": workflow_id, "name": parsed.name, "jobs": len(parsed.jobs)})
    else:
        click.echo(workflow_id)


def read_spec(path: str) -> tuple[WorkflowSpec, Verbatim]:
    """A validated spec and its bytes. Raises SpecError."""
    parsed, data = specs.load(path)
    is_json = path.endswith(".json") or data.lstrip()[:1] == b"{"
    name = "spec.json5" if path.endswith(".json5") else "spec.json" if is_json else "spec.yaml"
    return parsed, Verbatim(data, name, source=specfile.source_name(path))


def publish(
    spool: Spool,
    parsed: WorkflowSpec,
    verbatim: Verbatim,
    output_dir: str | None,
    ignore_missing_data: bool,
    *,
    hash_inputs: bool = False,
) -> int:
    """Submit it, and say what of it is not acted on."""
    with _names_source(verbatim), _progress(len(parsed.jobs)) as progress:
        workflow_id = spool.submit(
            parsed,
            verbatim,
            output_dir=output_dir,
            ignore_missing_data=ignore_missing_data,
            hash_inputs=hash_inputs,
            progress=progress,
        )
    tell_notes(parsed)
    return workflow_id


def tell_notes(parsed: WorkflowSpec) -> None:
    for note in parsed.notes:
        say(f"note: {note}")


def _show_dry_run(state: State, parsed: WorkflowSpec, verbatim: Verbatim, ignore_missing_data: bool) -> None:
    if not ignore_missing_data:
        with _names_source(verbatim):
            check_inputs(parsed.jobs, os.getcwd())
    row = summary(parsed)
    if state.json:
        show_json(row)
        return
    show_fields(row, skip=["notes"])
    tell_notes(parsed)


@contextmanager
def _names_source(verbatim: Verbatim) -> Iterator[None]:
    """Complaints that come at the submit name the file too."""
    try:
        yield
    except SpecError as error:
        if error.source is not None:
            raise
        raise SpecError(error.message, source=verbatim.source, where=error.where) from error


def _from_commands(
    path: str,
    *,
    name: str | None,
    num_cpus: int | None,
    num_gpus: int | None,
    num_nodes: int | None,
    memory: str | None,
    runtime: str | None,
    priority: int | None,
    scheduler: str | None,
) -> tuple[WorkflowSpec, Verbatim]:
    source = "stdin" if path == "-" else path
    data = _read_commands(path)
    try:
        # only at newlines: str.splitlines knows many more ends of lines, which a command may hold
        lines = [line.removesuffix("\r") for line in data.decode().split("\n")]
    except UnicodeDecodeError as error:
        raise SpecError(f"is not UTF-8 at byte {error.start}", source=source) from error
    resources = Resources(
        num_cpus=1 if num_cpus is None else num_cpus,
        num_gpus=num_gpus or 0,
        num_nodes=1 if num_nodes is None else num_nodes,
        memory_bytes=read_option("--memory", specs.parse_memory, memory),
        runtime_s=read_option("--runtime", specs.parse_duration, runtime),
    )
    try:
        parsed = specs.from_commands(
            lines,
            name="commands" if name is None else name,
            resources=resources,
            priority=priority or 0,
            scheduler=scheduler,
            source=source,
        )
    except SpecError as error:
        option = next((option for option in _OPTIONS if (error.where or "").startswith(option)), None)
        if option is None:
            raise
        raise UsageError(f"--{option.replace('_', '-')}: {error.message}") from error
    return parsed, Verbatim(data, "commands.txt", source=source)


def _read_commands(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", source=path) from error


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None] | None]:
    """A bar on a terminal, for a submit that takes a while."""
    if total < _SHOW_PROGRESS_FROM or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("submitting", total=total)
        yield lambda count: bar.update(task, completed=count)
