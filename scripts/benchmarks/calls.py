"""(d) Calls with a path of the spool, per job, from submit to done; and among them those that create files."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection
from typing import NamedTuple

import harness
import tracing
from harness import Aim, BenchError, Context, Figure, Report

TITLE = "calls on the spool per job, submit to done"
CALLS = Aim(8)
CREATES = Aim(2)
CHAIN = 10
COUNTED = f"{os.path.dirname(os.path.abspath(__file__))}/counted.py"
_CREATING = ("create", "open(O_CREAT)")
_LISTING = ("list", "open(O_DIRECTORY)")
_ASIDE = ("output", "utime")  # output files and heartbeats


class Count(NamedTuple):
    """Calls by kind, of a submit and of the run that followed."""

    submit: Counter[str]
    run: Counter[str]
    aside: Counter[str]  # output files and heartbeats

    def total(self) -> int:
        return (self.submit + self.run).total()

    def of(self, kinds: Collection[str]) -> int:
        return sum(count for kind, count in (self.submit + self.run).items() if kind in kinds)


def measure(context: Context) -> Report:
    directory = context.directory_for("d")
    jobs = context.sizes((1_000,), (200,))[0]
    ways: dict[str, Callable[[str, str], Count]] = {"counted by the library": by_library}
    if tracing.why_not() is None:
        ways["seen by strace"] = by_strace
    figures: list[Figure] = []
    notes: list[str] = []
    for shape, length in (("independent", 1), (f"chains of {CHAIN}", CHAIN)):
        for way, count in ways.items():
            context.say(f"(d) {shape}, {way}")
            few, many = (_count(directory, size, length, count) for size in (jobs // 2, jobs))
            found, noted = _figures(f"{shape}, {way}", few, many, jobs, aimed=count is by_library)
            figures += found
            notes += noted
    if tracing.why_not() is None:
        notes.append("listings go by time: a run that strace slows down makes more of them, so its calls have no aim")
    else:
        notes.append(f"nothing was traced: {tracing.why_not()}")
    notes.append(
        f"a further job: the difference between {jobs // 2:,} and {jobs:,} jobs, listings included, to a tenth"
    )
    return Report("d", TITLE, figures, notes)


def _figures(case: str, few: Count, many: Count, jobs: int, *, aimed: bool) -> tuple[list[Figure], list[str]]:
    further = jobs - jobs // 2
    calls = (many.total() - few.total()) / further
    creates = (many.of(_CREATING) - few.of(_CREATING)) / further
    listings = (many.of(_LISTING) - few.of(_LISTING)) / further
    figures = [
        Figure(f"{case}: calls, a further job", round(calls, 1), "", CALLS if aimed else None),
        Figure(f"{case}: of them creates", round(creates, 1), "", CREATES if aimed else None),
        Figure(f"{case}: of them listings", listings),
        Figure(f"{case}: calls, all / {jobs:,} jobs", many.total() / jobs),
        Figure(f"{case}: calls, once for the workflow and its run", many.total() - calls * jobs),
        Figure(f"{case}: output files and heartbeats a job, aside", many.aside.total() / jobs),
    ]
    notes = [
        f"{case}, {name}, {jobs:,} jobs: {kinds.total():,} = {_shown(kinds)}"
        for name, kinds in (("submit", many.submit), ("run", many.run))
    ]
    return figures, notes


def _shown(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())


def _count(directory: str, jobs: int, length: int, count: Callable[[str, str], Count]) -> Count:
    where = f"{directory}/{count.__name__}-{length}-{jobs}"
    os.mkdir(where)
    return count(where, _spec(f"{where}/spec.json", jobs, length))


def _spec(path: str, jobs: int, length: int) -> str:
    """Chains of so many jobs, as a JSON spec."""
    listed = [
        {"name": f"job_{job:06d}", "command": "true", "depends_on": [f"job_{job - 1:06d}"] if job % length else []}
        for job in range(jobs)
    ]
    return harness.write_lines(path, [json.dumps({"name": "calls", "jobs": listed})])


# -- two ways to count ----------------------------------------------------------------------------------------


def by_library(where: str, spec: str) -> Count:
    """By the module through which all calls go: one for each call that it was asked for."""
    submit = _counted(where, "submit", f"{where}/spool", spec)
    run = _counted(where, "run", f"{where}/spool", "1")
    aside = Counter({kind: count for kind, count in (submit + run).items() if kind in _ASIDE})
    return Count(_without(submit), _without(run), aside)


def _counted(where: str, *words: str) -> Counter[str]:
    return Counter(json.loads(harness.run([sys.executable, COUNTED, *words], where)))


def _without(kinds: Counter[str]) -> Counter[str]:
    return Counter({kind: count for kind, count in kinds.items() if kind not in _ASIDE})


def by_strace(where: str, spec: str) -> Count:
    """By the system, of the real commands: every call that bears a path of the spool."""
    spool = f"{where}/spool"
    command = [harness.torc_spool(), "--spool", spool]
    submit, said = tracing.run([*command, "submit", spec], where, spool, "submit")
    if said.strip() != "1":
        raise BenchError(f"submit said {said!r}")
    run, _ = tracing.run([*command, "run", "1", "--max-parallel-jobs", "8"], where, spool, "run")
    aside = [call for call in submit + run if is_aside(call)]
    kept = [[call for call in calls if not is_aside(call)] for calls in (submit, run)]
    return Count(tracing.kinds(kept[0]), tracing.kinds(kept[1]), tracing.kinds(aside))


def is_aside(call: tracing.Call) -> bool:
    """Output files, and the heartbeat."""
    path = call.paths[0]
    return path.endswith("/heartbeat") or (call.creates and "/output/" in path)
