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

TITLE = "an idle runner, `torc-spool run --wait-for-new-jobs`, in a spool with a finished workflow"
CPU = Aim(0.1, below=True)
CALLS = Aim(20, below=True)
COUNTED = f"{os.path.dirname(os.path.abspath(__file__))}/counted.py"
SETTLE_S = 5.0
WINDOW_S = 65.0
QUICK_S = 20.0
_JOBS = 100


def measure(context: Context) -> Report:
    directory = context.directory_for("e")
    window = context.idle_s or (QUICK_S if context.quick else WINDOW_S)
    settle = min(SETTLE_S, window)
    context.say(f"(e) an idle runner, for {settle + window:g} s")
    spools = [_finished(directory, name) for name in ("plain", "counted", "traced")]
    log = f"{directory}/idle.strace"
    words = [harness.torc_spool(), "--spool"]
    wait = ["run", "--wait-for-new-jobs", "1000000"]
    counting = [sys.executable, COUNTED, "idle", spools[1], str(settle), str(window)]
    with (
        subprocess.Popen(counting, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as counted,
        harness.background([*words, spools[0], *wait], directory) as plain,
        harness.background(
            tracing.traced(log, [*words, spools[2], *wait]) if tracing.why_not() is None else ["true"], directory
        ),
    ):
        time.sleep(settle)
        process, begun = psutil.Process(plain.pid), time.time()
        before = cpu_seconds(process)
        time.sleep(window)
        busy = cpu_seconds(process) - before
        took = time.time() - begun
        said, _ = counted.communicate()
    if counted.returncode != 0:
        raise BenchError(f"the counted runner ended with {counted.returncode}")
    kinds = Counter[str](json.loads(said))
    return _report(window, busy / took, kinds, _traced(log, spools[2], begun, begun + took))


def _report(window: float, share: float, kinds: Counter[str], traced: Counter[str] | None) -> Report:
    minutes = window / 60
    figures = [
        Figure("processor time, of one core", share * 100, "%", CPU),
        Figure("calls on the spool a minute, counted by the library", sum(kinds.values()) / minutes, "", CALLS),
    ]
    notes = [f"measured once, for {window:g} s; calls by the library's count: {_shown(kinds)}"]
    if traced is None:
        notes.append(f"nothing was traced: {tracing.why_not()}")
    else:
        total = sum(traced.values())
        figures.append(Figure("calls on the spool a minute, seen by strace", total / minutes, "", CALLS))
        notes.append(f"calls seen by strace: {_shown(traced)}")
    return Report("e", TITLE, figures, notes)


def _shown(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()) or "none"


def _finished(directory: str, name: str) -> str:
    """A spool with a workflow that has been run."""
    spool = f"{directory}/spool-{name}"
    commands = harness.write_lines(f"{directory}/commands", ["true"] * _JOBS)
    harness.submit(spool, directory, "--commands", commands)
    harness.run([harness.torc_spool(), "--spool", spool, "run", "1", "--max-parallel-jobs", "4"], directory)
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
