"""What all parts share: figures and their aims, interleaved runs, medians, and the directory that they work in."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import psutil

BASH = "bash"
_CREATES = 200


class BenchError(Exception):
    """A measurement that is worth nothing: a command failed, or did not do its work."""


class Aim(NamedTuple):
    """What a figure should be at most (or, with `below`, less than)."""

    limit: float
    below: bool = False

    def met(self, value: float) -> bool:
        return value < self.limit if self.below else value <= self.limit

    def __str__(self) -> str:
        return f"{'below' if self.below else 'at most'} {self.limit:g}"


class Figure(NamedTuple):
    """One number of a report."""

    name: str
    value: float
    unit: str = ""
    aim: Aim | None = None
    low: float | None = None  # the least and the most of the single runs
    high: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.aim is None else self.aim.met(self.value)


class Report(NamedTuple):
    """One part: its figures, ratios first, and what a reader has to know of them."""

    part: str
    title: str
    figures: list[Figure]
    notes: list[str]


class Context(NamedTuple):
    """How to measure. `jobs` and `idle_s` replace the sizes that `quick` or its absence stand for."""

    directory: str
    runs: int
    quick: bool = False
    jobs: tuple[int, ...] | None = None
    idle_s: float | None = None

    def sizes(self, full: tuple[int, ...], quick: tuple[int, ...]) -> tuple[int, ...]:
        return self.jobs or (quick if self.quick else full)

    def directory_for(self, part: str) -> str:
        path = f"{self.directory}/{part}"
        os.mkdir(path)
        return path

    def say(self, line: str) -> None:
        """What is being measured now, for who waits at a terminal."""
        if sys.stderr.isatty():
            print(f"... {line}", file=sys.stderr, flush=True)


# -- time -----------------------------------------------------------------------------------------------------


def interleaved(runs: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Every measure once, in order, and again: what the machine does meanwhile befalls all of them alike."""
    samples: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(runs):
        for name, measure in measures.items():
            samples[name].append(measure())
    return samples


def seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def ratio(name: str, samples: Sequence[float], base: Sequence[float], aim: Aim | None = None) -> Figure:
    """The ratio of the medians; from the least to the most of the ratios of the single rounds."""
    each = [ours / theirs for ours, theirs in zip(samples, base, strict=True)]
    return Figure(name, statistics.median(samples) / statistics.median(base), "x", aim, min(each), max(each))


def median(name: str, samples: Sequence[float], unit: str, aim: Aim | None = None, *, scale: float = 1.0) -> Figure:
    scaled = [sample * scale for sample in samples]
    return Figure(name, statistics.median(scaled), unit, aim, min(scaled), max(scaled))


def create_cost(directory: str) -> float:
    """Seconds for one bare create of an empty file, here and now. The files stay."""
    path = f"{directory}/creates-{time.monotonic_ns()}"
    os.mkdir(path)
    started = time.perf_counter()
    for number in range(_CREATES):
        os.close(os.open(f"{path}/{number:09d}", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    return (time.perf_counter() - started) / _CREATES


def create_note(samples: Sequence[float]) -> str:
    low, middle, high = min(samples), statistics.median(samples), max(samples)
    return (
        f"one bare create of an empty file in the same filesystem, measured in between: median {middle * 1e6:.0f} us "
        f"(from {low * 1e6:.0f} to {high * 1e6:.0f})"
    )


# -- commands -------------------------------------------------------------------------------------------------


def torc_spool() -> str:
    """The installed command of the environment in which this runs."""
    return f"{os.path.dirname(sys.executable)}/torc-spool"


def environment(directory: str) -> dict[str, str]:
    """This process's environment, without what would steer the tools that are measured."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("TORC_", "MAKE", "PARALLEL"))}
    return {**environ, "LC_ALL": "C", "HOME": directory, "TMPDIR": directory}


def run(
    words: Sequence[str], directory: str, *, stdin: str | None = None, environ: Mapping[str, str] | None = None
) -> str:
    """Run a command to its end; its stdout. Raises BenchError when it fails."""
    with open(stdin or os.devnull, "rb") as source:
        done = subprocess.run(
            words,
            cwd=directory,
            stdin=source,
            capture_output=True,
            env=environment(directory) if environ is None else environ,
            check=False,
        )
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        said = f": {lines[-1]}" if lines else ""
        raise BenchError(f"{' '.join(words)[:200]} ended with {done.returncode}{said}")
    return done.stdout.decode(errors="replace")


def submit(spool: str, directory: str, *words: str) -> int:
    """`torc-spool submit`; the workflow's id."""
    return int(run([torc_spool(), "--spool", spool, "submit", *words], directory))


@contextmanager
def background(words: Sequence[str], directory: str, *, errors: str = os.devnull) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs meanwhile, and is told to end at the end.

    What it runs itself is told first: strace ends with the command that it traces, and is deaf to SIGTERM till then.
    """
    with open(errors, "ab") as stderr:
        process = subprocess.Popen(
            words,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=environment(directory),
        )
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for inner in psutil.Process(process.pid).children():
                inner.terminate()
            process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = 30.0, poll_s: float = 0.01) -> None:
    """Raises BenchError when it does not become true in time."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not so after {timeout_s:g} s")
        time.sleep(poll_s)


def write_lines(path: str, lines: Sequence[str]) -> str:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    return path


def workflow_directory(spool: str, workflow_id: int) -> str:
    for name in os.listdir(spool):
        if name.startswith(f"{workflow_id}-"):
            return f"{spool}/{name}"
    raise BenchError(f"workflow {workflow_id} is not there")


# -- showing --------------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Three digits that count; near to one, where per cents matter, a fourth."""
    size = abs(value)
    if size == 0 or size >= 1000:
        return f"{value:,.0f}"
    if size < 0.1:
        return f"{value:.2g}"
    digits = 3 if 0.9 <= size < 1.1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:.{digits}f}"


def show(report: Report) -> str:
    """A report as aligned lines."""
    rows = []
    for figure in report.figures:
        unit = "" if figure.unit in ("", "x") else f" {figure.unit}"
        value = f"{number(figure.value)}{' x' if figure.unit == 'x' else unit}"
        spread = ""
        if figure.low is not None and figure.high is not None and figure.low != figure.high:
            spread = f"({number(figure.low)} to {number(figure.high)})"
        aim, verdict = (f"aim {figure.aim}", "met" if figure.met else "missed") if figure.aim else ("", "")
        rows.append((figure.name, value, spread, aim, verdict))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(5)]
    lines = [f"({report.part}) {report.title}"]
    for name, value, spread, aim, verdict in rows:
        cells = (name.ljust(widths[0]), value.rjust(widths[1]), spread.ljust(widths[2]), aim.ljust(widths[3]), verdict)
        lines.append(("    " + "  ".join(cells)).rstrip())
    lines += [f"    {note}" for note in report.notes]
    return "\n".join(lines)


def as_data(report: Report) -> dict[str, Any]:
    """A report for `--format json`."""
    return {
        "part": report.part,
        "title": report.title,
        "figures": [
            {
                "name": figure.name,
                "value": figure.value,
                "unit": figure.unit,
                "low": figure.low,
                "high": figure.high,
                "aim": None if figure.aim is None else str(figure.aim),
                "met": figure.met,
            }
            for figure in report.figures
        ],
        "notes": report.notes,
    }
