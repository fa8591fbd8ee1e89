"""`torc-spool logs`: a job's output, also while it runs."""

from __future__ import annotations

import codecs
import re
import sys
import time
from contextlib import ExitStack
from typing import BinaryIO, TextIO

import click

from torc_spool import changes, report
from torc_spool.errors import NotFound, StorageError
from torc_spool.model import OUTCOMES
from torc_spool.store import Store

from .common import WORKFLOW, CommonCommand, State, clean, show_json

_POLL_S = 0.2
_COLOUR = re.compile(r"(\x1b\[[0-9;:]{0,40}m)")
_PERHAPS_COLOUR = re.compile(r"\x1b(\[[0-9;:]{0,40})?\Z")


@click.command(cls=CommonCommand)
@WORKFLOW
@click.argument("job", metavar="JOB")
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt. Default: the last that was started.")
@click.option("--follow", "-F", is_flag=True, help="Go on until the job ends.")
@click.pass_obj
def logs(state: State, workflow_id: int, job: str, attempt: int | None, follow: bool) -> None:
    """Show a job's stdout on stdout and its stderr on stderr.

    On a terminal colours are shown, and everything else that the terminal would obey is spelled out. Into a file or a
    pipe every byte goes as it is.
    """
    store = state.spool().open(workflow_id)
    row = _started(store, job, attempt, wait=follow)
    if state.json:
        show_json({"id": row["id"], "name": row["name"], "stdout": row["stdout"], "stderr": row["stderr"]})
        return
    with ExitStack() as stack:
        streams = [(source, target) for path, target in _streams(row) if (source := _open(stack, path)) is not None]
        while True:
            ended = not follow or _has_ended(store, row["id"], row["attempt"])
            for source, target in streams:
                _copy(source, target, is_all=ended)
            if ended:
                return
            time.sleep(_POLL_S)


class _Target:
    """Where a stream is shown."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._is_terminal = stream, stream.isatty()
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._kept = ""  # the beginning of what is perhaps a colour

    def show(self, data: bytes, *, is_all: bool) -> None:
        if not self._is_terminal:
            self._stream.buffer.write(data)
            self._stream.buffer.flush()
            return
        text = self._kept + self._decoder.decode(data, is_all)
        kept = None if is_all else _PERHAPS_COLOUR.search(text)
        self._kept = kept[0] if kept else ""
        text = text.removesuffix(self._kept)
        parts = _COLOUR.split(text)  # every other one is a colour
        self._stream.write("".join(part if at % 2 else clean(part, keep="\n\t\r\b") for at, part in enumerate(parts)))
        self._stream.flush()


def _streams(row: report.Row) -> list[tuple[str, _Target]]:
    """The files, and where they are shown; one that holds both streams is shown once."""
    both = [(row["stdout"], sys.stdout), (row["stderr"], sys.stderr)]
    return [
        (path, _Target(stream))
        for path, stream in both[: 1 if row["stdout"] == row["stderr"] else 2]
        if path is not None
    ]


def _open(stack: ExitStack, path: str) -> BinaryIO | None:
    try:
        return stack.enter_context(open(path, "rb"))
    except FileNotFoundError:
        return None  # deleted since, or not made
    except OSError as error:
        raise StorageError("open", path, error.errno) from error


def _started(store: Store, job: str, attempt: int | None, *, wait: bool) -> report.Row:
    """The attempt whose output is asked for: a row with its paths. Who waits wants that which is to come."""
    record = changes.find_jobs(store, [job])[0]
    while True:
        row = report.job(store, record)
        ran = {entry["attempt"]: entry for entry in row["attempts"]}
        if row["pid"] is not None:
            ran[row["attempt"]] = row  # under way
        outputs = {number: entry for number, entry in ran.items() if entry["stdout"] or entry["stderr"]}
        to_come = wait and row["status"] not in (*OUTCOMES, "set_aside")
        wanted = attempt or (row["attempt"] if to_come else max(outputs, default=row["attempt"]))
        if wanted in outputs:
            return {**row, **outputs[wanted]}
        why = report.why_not_kept(row, ran[wanted], "stdout") if wanted in ran else None
        if why is not None:
            raise NotFound(f"job {record.name} has no output of its attempt {wanted}: it was {why}")
        if attempt is not None and not (to_come and attempt == row["attempt"]):
            raise NotFound(f"job {record.name} has no output of an attempt {attempt}")
        if not to_come:
            raise NotFound(f"job {record.name} has no output: it is {row['status']} and was never started")
        time.sleep(_POLL_S)


def _has_ended(store: Store, job: int, attempt: int) -> bool:
    place = store.locate(job)
    return place is None or place.status in OUTCOMES or place.name.attempt > attempt


def _copy(source: BinaryIO, target: _Target, *, is_all: bool) -> None:
    while chunk := source.read(1 << 16):
        target.show(chunk, is_all=False)
    target.show(b"", is_all=is_all)
