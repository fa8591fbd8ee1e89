"""(e) What an idle runner costs: processor time and calls, while it waits for new jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter

import harness
import psutil
import tracing
from harness import Aim, BenchError, Context, Figure, Report

from torc_spool import spec as specs
from torc_spool.spool import Spool
from torc_spool.submission import Verbatim

TITLE = "an idle runner, `torc-spool run --wait-for-new-jobs`, in a spool with a finished workflow"
CPU = Aim(0.1, below=True)
CALLS = Aim(20, below=True)
COUNTED = f"{os.path.dirname(os.path.abspath(__file__))}/counted.py"
SETTLE_S = 5.0
WINDOW_S = 65.0
QUICK_S = 20.0
WORKFLOWS = 10
_JOBS = 20


def measure(context: Context) -> Report:
    directory = context.directory_for("e")
    window = context.idle_s or (QUICK_S if context.quick else WINDOW_S)
    settle = min(SETTLE_S, window)
    context.say(f"(e) an idle runner, for {settle + window:g} s")
    plain_spool, traced_spool, one, many = (
        _finished(directory, name, workflows)
        for name, workflows in (("plain", 1), ("traced", 1), ("counted", 1), ("counted-many", WORKFLOWS))
    )
    log = f"{directory}/idle.strace"
    words = [harness.torc_spool(), "--spool"]
    wait = ["run", "--wait-for-new-jobs", "1000000"]
    traced = [*words, traced_spool, *wait]
    with (
        _counting(directory, one, settle, window) as counted,
        _counting(directory, many, settle, window) as counted_many,
        harness.background([*words, plain_spool, *wait], directory) as plain,
        harness.background(tracing.traced(log, traced) if tracing.why_not() is None else ["true"], directory),
    ):
        time.sleep(settle)
        process, begun = psutil.Process(plain.pid), time.time()
        before = cpu_seconds(process)
        time.sleep(window)
        busy = cpu_seconds(process) - before
        took = time.time() - begun
        kinds, kinds_many = _counts(counted), _counts(counted_many)
    return _report(window, busy / took, kinds, kinds_many, _traced(log, traced_spool, begun, begun + took))


def _counting(directory: str, spool: str, settle: float, window: float) -> subprocess.Popen[bytes]:
    """An idle runner that counts its calls, and says them at its end."""
    words = [sys.executable, COUNTED, "idle", spool, str(settle), str(window)]
    return subprocess.Popen(words, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _counts(counted: subprocess.Popen[bytes]) -> Counter[str]:
    said, _ = counted.communicate()
    if counted.returncode != 0:
        raise BenchError(f"the counted runner ended with {counted.returncode}")
    return Counter(json.loads(said))


def _report(
    window: float, share: float, kinds: Counter[str], many: Counter[str], traced: Counter[str] | None
) -> Report:
    minutes = window / 60
    counted = "calls on the spool a minute, counted by the library"
    figures = [
        Figure("processor time, of one core", share * 100, "%", CPU),
        Figure(counted, kinds.total() / minutes, "", CALLS),
        Figure(f"{counted}, with {WORKFLOWS} finished workflows", many.total() / minutes),
    ]
    notes = [f"measured once, for {window:g} s; calls by the library's count: {_shown(kinds)}"]
    if traced is None:
        notes.append(f"nothing was traced: {tracing.why_not()}")
    else:
        figures.insert(2, Figure("calls on the spool a minute, seen by strace", traced.total() / minutes, "", CALLS))
        notes.append(f"calls seen by strace: {_shown(traced)}")
    return Report("e", TITLE, figures, notes)


def _shown(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()) or "none"


def _finished(directory: str, name: str, workflows: int) -> str:
    """A spool with workflows that have been run."""
    spool = f"{directory}/spool-{name}"
    parsed = specs.from_commands(["true"] * _JOBS, name="idle", source="commands")
    for _ in range(workflows):
        Spool(spool).submit(parsed, Verbatim(b"", "commands.txt"), cwd=directory)
    harness.run([harness.torc_spool(), "--spool", spool, "run", "--max-parallel-jobs", "4"], directory)
    return spool


def cpu_seconds(process: psutil.Process) -> float:
    """What a process has used so far: to the nanosecond where the kernel says it, else in ticks."""
    try:
        total = 0
        for thread in os.listdir(f"/proc/{process.pid}/task"):
            with open(f"/proc/{process.pid}/task/{thread}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        times = process.cpu_times()
        return float(times.user + times.system)
    return total / 1e9


def _traced(log: str, spool: str, begin: float, end: float) -> Counter[str] | None:
    if tracing.why_not() is not None:
        return None
    return tracing.kinds([call for call in tracing.calls(log, spool) if begin <= call.time <= end])
