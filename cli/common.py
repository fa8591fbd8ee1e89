"""What all commands share: options that may stand before or after the command's own words, and output."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import click
import msgspec

from torc_spool.spool import Spool

F = TypeVar("F", bound=Callable[..., Any])


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


def common_options(function: F) -> F:
    """The options of `State`."""
    options = [
        click.option(
            "--spool",
            "spool_dir",
            metavar="DIR",
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


WORKFLOW = click.argument("workflow_id", metavar="ID", type=click.IntRange(min=1))
JOBS = click.argument("jobs", metavar="[JOB]...", nargs=-1)


def clean(value: object) -> str:
    """Text that may be shown on a terminal: control characters are spelled out."""
    text = "-" if value is None else str(value)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def say(line: str) -> None:
    """Talk: to stderr. Nothing fails because nobody listens, or because the disk that it goes to is full."""
    with contextlib.suppress(OSError):
        os.write(2, (clean(line) + "\n").encode(errors="backslashreplace"))


def show_json(data: object) -> None:
    try:
        text = msgspec.json.format(msgspec.json.encode(data), indent=2).decode()
    except UnicodeEncodeError:  # the name of a file that is not UTF-8
        import json

        text = json.dumps(msgspec.to_builtins(data), indent=2)
    sys.stdout.write(text + "\n")


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
