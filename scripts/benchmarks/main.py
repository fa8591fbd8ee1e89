"""Measures torc-spool, part by part, beside what it is compared with. See `--help`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from types import FrameType

import calls
import claims
import harness
import idle
import latency
import packing
import patterns
import submits
import throughput
from harness import BenchError, Context, Report

PARTS: dict[str, tuple[str, Callable[[Context], Report]]] = {
    "a": (throughput.TITLE, throughput.measure),
    "b": (claims.TITLE, claims.measure),
    "c": (submits.TITLE, submits.measure),
    "d": (calls.TITLE, calls.measure),
    "e": (idle.TITLE, idle.measure),
    "f": (latency.TITLE, latency.measure),
    "g": (packing.TITLE, packing.measure),
    "h": (patterns.TITLE, patterns.measure),
}
_TIMES = (
    "A full run takes about forty minutes on two cores, a third of it part a with 10,000 jobs, and has some\n"
    "two million small files in its directory when it ends, which are then removed; --quick takes about three minutes."
)


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, _stop)
    directory = os.path.realpath(tempfile.mkdtemp(prefix="torc-spool-bench-", dir=options.dir))
    context = Context(directory, options.runs, options.quick, options.jobs, options.idle_seconds)
    reports: list[Report] = []
    started = time.monotonic()
    failed = False
    try:
        if options.install:
            throughput.install()
        if options.format == "text":
            print(_heading(context), flush=True)
        for part in options.parts or PARTS:
            try:
                report = PARTS[part][1](context)
            except BenchError as error:
                failed = True
                print(f"bench: part {part}: {error}", file=sys.stderr, flush=True)
                continue
            reports.append(report)
            if options.format == "text":
                print(f"\n{harness.show(report)}", flush=True)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if options.format == "json":
        data = [harness.as_data(report) for report in reports]
        json.dump({"runs": context.runs, "quick": context.quick, "parts": data}, sys.stdout, indent=2)
        print()
    else:
        print(f"\n{_summary(reports, time.monotonic() - started)}")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    listed = "\n".join(f"  {part}  {title}" for part, (title, _) in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=f"Measure torc-spool beside its peers, interleaved.\n\nparts:\n{listed}\n\n{_TIMES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="which parts, a to h; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes and short times: for a look")
    parser.add_argument("--runs", type=int, metavar="N", help="interleaved runs; default: 5, with --quick 3")
    parser.add_argument("--dir", metavar="DIR", help="where to work, in a directory of its own; default: TMPDIR")
    parser.add_argument("--format", choices=["text", "json"], default="text", help="how to print; default: text")
    parser.add_argument(
        "--jobs",
        type=_sizes,
        metavar="N[,N...]",
        help="so many jobs in parts a to d, g and h, in place of their own sizes",
    )
    parser.add_argument("--idle-seconds", type=float, metavar="S", help="how long part e watches an idle runner")
    parser.add_argument("--install", action="store_true", help="as root: apt-get install the peers that are missing")
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"there is no part {part!r}; parts are {', '.join(PARTS)}")
    if options.runs is None:
        options.runs = 3 if options.quick else 5
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    return options


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(part) for part in text.split(","))
    if min(sizes) < 2:
        raise argparse.ArgumentTypeError("at least 2 jobs")
    return sizes


def _heading(context: Context) -> str:
    cpus = len(os.sched_getaffinity(0))
    return (
        f"torc-spool: medians of {context.runs} interleaved runs (in brackets the least and the most), on {cpus} cpus, "
        f"{filesystem(context.directory)}, Python {sys.version.split()[0]}; load before: {os.getloadavg()[0]:.1f}"
    )


def filesystem(path: str) -> str:
    """The kind of filesystem that holds a path."""
    best, kind = "", "unknown filesystem"
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                point, found = line.split()[1:3]
                inside = path == point or path.startswith(point.rstrip("/") + "/")
                if inside and len(point) >= len(best):
                    best, kind = point, found
    except OSError:
        return kind
    return kind


def _summary(reports: list[Report], took_s: float) -> str:
    aimed = [(report.part, figure) for report in reports for figure in report.figures if figure.aim is not None]
    missed = [f"({part}) {figure.name}" for part, figure in aimed if not figure.met]
    return "\n  missed: ".join([f"{len(aimed) - len(missed)} of {len(aimed)} aims met in {took_s:.0f} s", *missed])


def _stop(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
