"""What all commands share: options that may stand before or after the command's own words, and output."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import click
import msgspec

from torc_spool import naming
from torc_spool.errors import NotFound, SpecError, UsageError
from torc_spool.spool import Spool, command

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_NAMED = "torc_spool.workflow"  # in a context's meta: the words that named a workflow by its directory


class State(NamedTuple):
    """The options that every command has."""

    spool_dir: str | None = None
    output_format: str | None = None
    allow_shared: bool = False

    @property
    def json(self) -> bool:
        return self.output_format == "json"

    def spool(self) -> Spool:
        return Spool.find(self.spool_dir, allow_shared=self.allow_shared)


def named(hint: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """A callback of options whose value may not be empty."""

    def check(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise UsageError(f"{parameter.opts[0]}: is empty; {hint}")
        return value

    return check


DIRECTORY = named("name a directory")


def read_option(option: str, read: Callable[[str], T], text: str | None) -> T | None:
    """`read(text)`, whose complaint names the option. Raises UsageError."""
    try:
        return None if text is None else read(text)
    except SpecError as error:
        raise UsageError(f"{option}: {error.message}") from error


def common_options(function: F) -> F:
    """The options of `State`."""
    options = [
        click.option(
            "--spool",
            "spool_dir",
            metavar="DIR",
            callback=DIRECTORY,
            help="The spool's directory. Default: TORC_SPOOL_DIR, else ./spool.",
        ),
        click.option(
            "-f",
            "--format",
            "output_format",
            type=click.Choice(["text", "json"]),
            help="How to show data on stdout. Default: text.",
        ),
        click.option(
            "--allow-shared",
            is_flag=True,
            help="Work in a spool that others may write to: their commands may then run as you.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


class _Common(click.Command):
    """Has the common options of its own; what stands after its name wins over what stands before."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

        @common_options
        def carrier() -> None:
            """Only carries the options."""

        self.params += reversed(getattr(carrier, "__click_params__", []))

    def invoke(self, context: click.Context) -> Any:
        before = context.find_object(State) or State()
        context.obj = State(
            spool_dir=context.params.pop("spool_dir", None) or before.spool_dir,
            output_format=context.params.pop("output_format", None) or before.output_format,
            allow_shared=context.params.pop("allow_shared", False) or before.allow_shared,
        )
        if _NAMED in context.meta:
            check_named(context.obj.spool(), context.params["workflow_id"], context.meta[_NAMED])
        return super().invoke(context)


class CommonCommand(_Common):
    """A command with the common options."""

    def invoke(self, context: click.Context) -> Any:
        try:
            result = super().invoke(context)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            # whoever read our output has seen enough; keep the interpreter from flushing into the closed pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return None


class CommonGroup(_Common, click.Group):
    """A group of commands that share the common options with their parents."""

    command_class = CommonCommand


class Seconds(click.FloatRange):
    """A time from 0 on; `inf` is for ever, `nan` is none."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if seconds != seconds:
            self.fail(f"{value!r} is no time", param, ctx)
        return seconds


class WorkflowId(click.IntRange):
    """A workflow's id, or its directory: "7", "7-sweep", "spool/7-sweep"."""

    def __init__(self) -> None:
        super().__init__(min=1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int) or value.lstrip("+-").isdecimal():
            return super().convert(value, param, ctx)
        named_by = workflow_directory(value)
        if named_by is None:
            self.fail(
                f"{value!r} is not a workflow's id: ids are whole numbers, see torc-spool workflows list", param, ctx
            )
        if ctx is not None:
            ctx.meta[_NAMED] = value
        return named_by


def workflow_directory(text: str) -> int | None:
    """The id that a workflow's directory is named by."""
    parsed = naming.parse_workflow(os.path.basename(text.rstrip("/")))
    return parsed[0] if parsed else None


def check_named(spool: Spool, workflow_id: int, text: str) -> None:
    """A directory that was named must be the workflow's, lest the same number of another spool is meant."""
    path = text.rstrip("/")
    for found in spool.workflows():
        same = os.path.realpath(path) == os.path.realpath(found.root)
        if found.id == workflow_id and (same or path == os.path.basename(found.root)):
            return
    raise NotFound(f"{text!r} is no workflow's directory in {spool.path}; see torc-spool workflows list")


def workflow_or_spec(spool: Spool, text: str) -> int | None:
    """The workflow that is named by its id or its directory; None: this names a spec. Raises SpecError, NotFound."""
    number = naming.whole(text)
    if number is not None:
        return number
    if text == "-" or (os.path.lexists(text) and not os.path.isdir(text)):
        return None
    workflow_id = workflow_directory(text)
    if workflow_id is not None:
        check_named(spool, workflow_id, text)
    elif not os.path.isdir(text):
        why = "there is no such file, and it is not a workflow's id; see torc-spool workflows list"
        raise SpecError(why, source=clean(text))
    return workflow_id


def unsuccessful(spool: Spool, workflow_id: int, jobs: dict[str, int]) -> str:
    """What to say of a finished workflow whose jobs did not all complete; `jobs` are counts by state."""
    counts = ", ".join(f"{jobs[each]} {each}" for each in ("failed", "canceled", "terminated") if jobs[each])
    all_of_them = jobs["failed"] or jobs["terminated"]  # `retry` alone leaves what a person has canceled
    again = command(spool.path, f"retry {workflow_id}" if all_of_them else f"retry {workflow_id} JOB...")
    return f"workflow {workflow_id} is finished: {counts}; run them again with: {again}"


HASH_INPUTS = click.option(
    "--hash-inputs",
    is_flag=True,
    help="Runners note the SHA-256 of input files too, for `reinitialize --hash`.",
)
WORKFLOW = click.argument("workflow_id", metavar="ID", type=WorkflowId())
ignore_missing_data = click.option(
    "--ignore-missing-data", is_flag=True, help="Submit although input files that no job produces are not there."
)
JOBS = click.argument("jobs", metavar="[JOB]...", nargs=-1)


def clean(value: object, *, keep: str = "") -> str:
    """Text that may be shown on a terminal: control characters are spelled out, but those in `keep`."""
    text = "-" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )


def say(line: str) -> None:
    """Talk: to stderr. Nothing fails because nobody listens, or because the disk that it goes to is full."""
    with contextlib.suppress(OSError):
        os.write(2, (clean(line) + "\n").encode(errors="backslashreplace"))


def show_text(text: str) -> None:
    """A file's text on stdout: as it is, but on a terminal nothing that the terminal would obey."""
    sys.stdout.write(clean(text, keep="\n\t") if sys.stdout.isatty() else text)


def show_json(data: object) -> None:
    try:
        text = msgspec.json.format(msgspec.json.encode(data), indent=2).decode()
    except UnicodeEncodeError:  # the name of a file that is not UTF-8
        import json

        text = json.dumps(msgspec.to_builtins(data), indent=2)
    sys.stdout.write(_printable(text) + "\n")


def _printable(text: str) -> str:
    """The same JSON with what a terminal would obey as escapes; JSON itself asks for that below U+0020 alone."""
    odd = (char for char in set(text) if not char.isprintable() and char != "\n")
    return text.translate({ord(char): _escaped(char) for char in odd})


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def show_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns, aligned: left for text, right for numbers."""
    table = [tuple(clean(cell) for cell in row) for row in rows]
    widths = [max((len(row[column]) for row in table), default=0) for column in range(len(headings))]
    widths = [max(width, len(heading)) for width, heading in zip(widths, headings, strict=True)]
    for row in [tuple(headings), *table]:
        cells = [
            cell.rjust(width) if _is_number(cell) else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).lstrip("-").isdigit()


def show_fields(row: dict[str, Any], *, skip: Iterable[str] = ()) -> None:
    """One field a line."""
    shown = {key: value for key, value in row.items() if key not in set(skip)}
    width = max(map(len, shown), default=0)
    for key, value in shown.items():
        if isinstance(value, list):
            value = ", ".join(map(str, value)) or None
        elif isinstance(value, dict):
            value = ", ".join(f"{name} {clean(part)}" for name, part in value.items())
        sys.stdout.write(f"{key.ljust(width)}  {clean(value)}\n")
