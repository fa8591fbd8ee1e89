"""(h) Submit of large graphs, each against as many jobs that wait for nothing.

Each submit has a process of its own, so that its peak of memory is its own too.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import harness
import submits
from harness import Context, Figure, Report

from torc_spool import spec as specs
from torc_spool.spool import Spool
from torc_spool.submission import Verbatim

TITLE = "submit of a YAML spec by the shape of its graph, beside as many jobs without dependencies"
_COLUMNS = 100  # of the product


class _Pattern(NamedTuple):
    """A shape: how it is written, and how many jobs that makes, given its size."""

    name: str
    lines: Callable[[int], Iterator[str]]
    jobs: Callable[[int], int]
    full: int
    quick: int


class _Cost(NamedTuple):
    """Of one submit."""

    jobs: int
    parse_s: float
    publish_s: float
    peak_bytes: int  # above what the process had with all modules loaded


def measure(context: Context) -> Report:
    directory = context.directory_for("h")
    ratios: list[Figure] = []
    shown: list[Figure] = []
    for pattern in _PATTERNS:
        (size, *_) = context.sizes((pattern.full,), (pattern.quick,))
        context.say(f"(h) submit of {pattern.name}, {size:,}")
        found, more = _case(context, f"{directory}/{pattern.name.replace(' ', '-')}", pattern, size)
        ratios += found
        shown += more
    notes = ["parse is from the text to the validated workflow, publish from there to its id, without sync"]
    return Report("h", TITLE, ratios + shown, notes)


def _case(context: Context, where: str, pattern: _Pattern, size: int) -> tuple[list[Figure], list[Figure]]:
    os.mkdir(where)
    jobs = pattern.jobs(size)
    ours = harness.write_lines(f"{where}/pattern.yaml", ["name: pattern", "jobs:", *pattern.lines(size)])
    plain = harness.write_lines(f"{where}/plain.yaml", ["name: plain", "jobs:", *_job("job_{i}", i=jobs)])
    costs: dict[str, list[_Cost]] = {ours: [], plain: []}
    for _ in range(context.runs):
        for spec, seen in costs.items():
            seen.append(_submit(spec, where))
    if {cost.jobs for seen in costs.values() for cost in seen} != {jobs}:
        raise harness.BenchError(f"{pattern.name}: not {jobs:,} jobs were submitted")
    case = f"{pattern.name}, {jobs:,} jobs: "
    ratios, shown = [], []
    for what, unit, scale in (("parse_s", "us", 1e6), ("publish_s", "us", 1e6), ("peak_bytes", "KiB", 1 / 1024)):
        name = {"parse_s": "parse", "publish_s": "publish", "peak_bytes": "peak memory"}[what]
        samples, base = ([float(getattr(cost, what)) for cost in costs[spec]] for spec in (ours, plain))
        ratios.append(harness.ratio(f"{case}{name} / without dependencies", samples, base))
        shown.append(harness.median(f"{case}{name}, a job", samples, unit, scale=scale / jobs))
        if what != "peak_bytes":
            shown.append(Figure(f"{case}{name}", statistics.median(samples), "s"))
    return ratios, shown


def _submit(spec: str, where: str) -> _Cost:
    printed = harness.run([sys.executable, "-B", os.path.abspath(__file__), spec, f"{where}/spool"], where)
    shutil.rmtree(f"{where}/spool")
    return _Cost(**json.loads(printed))


# -- shapes ---------------------------------------------------------------------------------------------------


def _job(name: str, *fields: str, **parameters: int) -> Iterator[str]:
    """As one for all combinations of the parameters, each from 1 to its number."""
    yield f"- name: {name}"
    yield "  command: 'true'"
    yield from (f"  {field}" for field in fields)
    if parameters:
        yield "  parameters:"
        yield from (f"    {each}: '1:{last}'" for each, last in parameters.items())


def _barriers(size: int) -> Iterator[str]:
    """Three stages of so many jobs; between each two a job waits for all of one, and all of the next wait for it."""
    yield from _job("stage_1_{i}", i=size)
    for stage in (2, 3):
        yield from _job(f"barrier_{stage}", f"depends_on_regexes: ['^stage_{stage - 1}_']")
        yield from _job(f"stage_{stage}_{{i}}", f"depends_on: [barrier_{stage}]", i=size)


def _product(size: int) -> Iterator[str]:
    """So many rows of a hundred jobs, all of which wait for one."""
    yield from _job("setup")
    yield from _job("run_{row:04d}_{column:03d}", "depends_on: [setup]", row=size, column=_COLUMNS)


def _fan_in(size: int) -> Iterator[str]:
    """So many jobs that write a file each, and one that reads all of these."""
    yield from _job("write_{i}", "output_files: ['part_{i}']", i=size)
    yield from _job("collect", "input_files: ['part_{i}']", i=size)
    yield from ("files:", "- name: part_{i}", "  path: parts/{i}", "  parameters:", f"    i: '1:{size}'")


_PATTERNS = (
    _Pattern("three stages with barriers", _barriers, lambda size: 3 * size + 2, 1_000, 1_000),
    _Pattern("product with one before", _product, lambda size: _COLUMNS * size + 1, 1_000, 20),
    _Pattern("fan-in", _fan_in, lambda size: size + 1, 100_000, 2_000),
)


# -- the process that submits ---------------------------------------------------------------------------------


def _child(path: str, spool: str) -> None:
    with open(path, "rb") as file:
        text = file.read()
    before = _peak_bytes()
    parsed = []
    parse_s = harness.seconds(lambda: parsed.append(specs.parse(text, path)))
    with submits.timed_syncs() as syncs:
        publish_s = harness.seconds(lambda: Spool(spool).submit(parsed[0], Verbatim(text)))
    peak = max(os.sysconf("SC_PAGESIZE"), _peak_bytes() - before)  # what is there already may do for a few jobs
    cost = _Cost(len(parsed[0].jobs), parse_s, publish_s - sum(syncs), peak)
    print(json.dumps(cost._asdict()))


def _peak_bytes() -> int:
    """Of this program alone: what getrusage says is never less than the peak of the process that started this one."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


if __name__ == "__main__":
    _child(*sys.argv[1:])
