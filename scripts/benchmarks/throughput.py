"""(a) Many `true`: against xargs, GNU parallel and make, with the same shell and as many output files."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import harness
from harness import BASH, Aim, BenchError, Context, Figure, Report

TITLE = "jobs that do nothing (`true`), from the start of `torc-spool run` to its end"
AIM = Aim(1.25)
AHEAD = Aim(1.0, below=True)
PARALLEL = (2, 8)
_OURS = "torc-spool run"
# what the peers' shells run: the command itself, with its stdout and stderr in files of its own
_COMMAND = 'true >"{directory}/{job}.out" 2>"{directory}/{job}.err"'


class Peer(NamedTuple):
    """A tool to be measured against, or why it is not."""

    name: str
    missing: str | None
    measure: Callable[[str, int, int], float]  # (an empty directory, jobs, at a time) -> seconds


def measure(context: Context) -> Report:
    directory = context.directory_for("a")
    ratios: list[Figure] = []
    seconds: list[Figure] = []
    creates: list[float] = []
    peers = _peers()
    for jobs in context.sizes((1_000, 10_000), (1_000,)):
        for parallel in PARALLEL:
            context.say(f"(a) {jobs:,} jobs, {parallel} at a time")
            where = f"{directory}/{jobs}-{parallel}"
            os.mkdir(where)
            found, shown = _case(context, where, jobs, parallel, [peer for peer in peers if not peer.missing], creates)
            ratios += found
            seconds += shown
    notes = [f"{peer.name} was left out: {peer.missing}" for peer in peers if peer.missing]
    notes.append(harness.create_note(creates))
    notes.append("a round is torc-spool and each peer once; every job is `bash -c` with two output files of its own")
    return Report("a", TITLE, ratios + seconds, notes)


def _case(
    context: Context, where: str, jobs: int, parallel: int, peers: list[Peer], creates: list[float]
) -> tuple[list[Figure], list[Figure]]:
    commands = harness.write_lines(f"{where}/commands", ["true"] * jobs)
    submits: list[float] = []
    busy: dict[str, list[float]] = {name: [] for name in (_OURS, *(peer.name for peer in peers))}
    rounds = iter(range(10**9))

    def ours() -> float:
        creates.append(harness.create_cost(where))
        spool = f"{where}/spool-{next(rounds)}"
        submits.append(harness.seconds(lambda: harness.submit(spool, where, "--commands", commands)))
        before = _children_cpu()
        took = torc_run(spool, where, jobs, parallel)
        busy[_OURS].append(_children_cpu() - before)
        return took

    def theirs(peer: Peer) -> float:
        out = f"{where}/{peer.name.replace(' ', '-')}-{next(rounds)}"
        os.mkdir(out)
        before = _children_cpu()
        took = peer.measure(out, jobs, parallel)
        busy[peer.name].append(_children_cpu() - before)
        _check(out, 2 * jobs, peer.name)
        return took

    measures: dict[str, Callable[[], float]] = {_OURS: ours}
    measures |= {peer.name: partial(theirs, peer) for peer in peers}
    samples = harness.interleaved(context.runs, measures)
    own, xargs = samples[_OURS], samples.get("xargs")
    case = f"{jobs:,} jobs, {parallel} at a time: "
    ratios = [
        harness.ratio(f"{case}torc-spool run / {name}", own, took, {"xargs": AIM, "GNU parallel": AHEAD}.get(name))
        for name, took in samples.items()
        if name != _OURS
    ]
    if xargs is not None:
        whole = [one + other for one, other in zip(submits, own, strict=True)]
        ratios.append(harness.ratio(f"{case}with submit / xargs", whole, xargs))
        ratios.append(harness.ratio(f"{case}processor time / xargs", busy[_OURS], busy["xargs"]))
    seconds = [harness.median(f"{case}{name}", took, "s") for name, took in samples.items()]
    seconds.append(harness.median(f"{case}torc-spool submit", submits, "s"))
    seconds += [
        harness.median(f"{case}{name}, processor time a job", took, "ms", scale=1e3 / jobs)
        for name, took in busy.items()
        if name in (_OURS, "xargs")
    ]
    return ratios, seconds


def torc_run(spool: str, where: str, jobs: int, parallel: int) -> float:
    """Seconds of `run`, with the start of its interpreter."""
    words = [harness.torc_spool(), "--spool", spool, "run", "1", "--max-parallel-jobs", str(parallel)]
    ran = harness.seconds(lambda: harness.run(words, where))
    workflow = harness.workflow_directory(spool, 1)
    _check(f"{workflow}/done/completed", jobs, "torc-spool")
    _check(f"{workflow}/output", 2 * jobs, "torc-spool")
    return ran


def _children_cpu() -> float:
    """Processor time, user and system, of all commands so far, and of what they have waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _check(directory: str, expected: int, who: str) -> None:
    found = len(os.listdir(directory))
    if found != expected:
        raise BenchError(f"{who} left {found} files where {expected} were expected")


def install() -> None:
    """Install the peers that are missing. Raises BenchError when that is not possible."""
    packages = {"xargs": "findutils", "GNU parallel": "parallel", "make -j": "make"}
    missing = [packages[peer.name] for peer in _peers() if peer.missing]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise BenchError(f"{', '.join(missing)} can only be installed by root, with apt-get")
    for words in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        done = subprocess.run(["apt-get", "-qq", *words], stdout=sys.stderr, check=False)
        if done.returncode != 0:
            raise BenchError(f"apt-get {' '.join(words)} ended with {done.returncode}")


def _peers() -> list[Peer]:
    return [
        Peer("xargs", _missing("xargs", "findutils"), _xargs),
        Peer("GNU parallel", _no_parallel(), _parallel),
        Peer("make -j", _missing("make", "make"), _make),
    ]


def _missing(program: str, package: str) -> str | None:
    if shutil.which(program):
        return None
    return f"there is no {program} here; as root pass --install, or: apt-get install {package}"


def _no_parallel() -> str | None:
    missing = _missing("parallel", "parallel")
    if missing:
        return missing
    said = subprocess.run(["parallel", "--version"], capture_output=True, text=True, check=False).stdout
    return None if said.startswith("GNU parallel") else "the parallel here is another program"


def _xargs(out: str, jobs: int, parallel: int) -> float:
    numbers = harness.write_lines(f"{out}.numbers", [str(job) for job in range(jobs)])
    # the directory is $0 and the number $1, so that what is run is as short as the peers' commands
    words = ["xargs", "-n", "1", "-P", str(parallel), BASH, "-c", _COMMAND.format(directory="$0", job="$1"), out]
    return harness.seconds(lambda: harness.run(words, os.path.dirname(out), stdin=numbers))


def _parallel(out: str, jobs: int, parallel: int) -> float:
    numbers = harness.write_lines(f"{out}.numbers", [str(job) for job in range(jobs)])
    home = os.path.dirname(out)
    environ = {**harness.environment(home), "PARALLEL_SHELL": shutil.which(BASH) or BASH}
    # -u: what a job writes does not pass through parallel, which is its fastest way
    words = ["parallel", "--will-cite", "-u", "-j", str(parallel), _COMMAND.format(directory=out, job="{}")]
    return harness.seconds(lambda: harness.run(words, home, stdin=numbers, environ=environ))


def _make(out: str, jobs: int, parallel: int) -> float:
    lines = [f"SHELL := {shutil.which(BASH) or BASH}", ".PHONY: all " + " ".join(f"j{job}" for job in range(jobs))]
    lines.append("all: " + " ".join(f"j{job}" for job in range(jobs)))
    lines += [f"j{job}:\n\t@{_COMMAND.format(directory=out, job=job)}" for job in range(jobs)]
    makefile = harness.write_lines(f"{out}.mk", lines)
    words = ["make", "-s", "-j", str(parallel), "-f", makefile, "all"]
    return harness.seconds(lambda: harness.run(words, os.path.dirname(out)))
