"""(f) From `submit` to the job's start, while an idle runner waits."""

from __future__ import annotations

import os
import statistics
import sys
import time
from typing import NamedTuple

import harness
from harness import Aim, Context, Report

from torc_spool import fsops
from torc_spool import spec as specs
from torc_spool.model import WorkflowSpec
from torc_spool.spool import Spool
from torc_spool.submission import Verbatim

TITLE = "from submit to the start of the job, with an idle runner waiting"
AIM = Aim(50, below=True)
PAUSE_S = 1.2  # between two submits, so that the runner is idle again
# all that the command does before it looks at its words; it ends at once, since a submit has its effect before its end
_OWN_START = "import torc_spool_cli.main, torc_spool_cli.submit, os; os._exit(0)"
# by the job itself, as its first act
_COMMAND = "echo ${EPOCHREALTIME:-$(date +%s.%N)}"


class Times(NamedTuple):
    """Seconds: of the command's own start, and from three moments to the start of the job."""

    own_start: list[float]
    command: list[float]
    library: list[float]
    published: list[float]


def measure(context: Context) -> Report:
    directory = context.directory_for("f")
    rounds = context.runs if context.jobs else max(context.runs, 5 if context.quick else 10)
    spool = f"{directory}/spool"
    commands = harness.write_lines(f"{directory}/commands", [_COMMAND])
    times = Times([], [], [], [])
    log = f"{directory}/runner.log"
    words = [harness.torc_spool(), "--spool", spool, "run", "--wait-for-new-jobs", "1000000", "--num-cpus", "2"]
    with harness.background(words, directory, errors=log):
        harness.wait_until(lambda: os.path.isdir(spool), "the runner has made the spool")
        time.sleep(PAUSE_S)
        for _ in range(rounds):
            context.say("(f) latency")
            _round(directory, spool, commands, times)
    own_start = statistics.median(times.own_start)
    aside = [command - own_start for command in times.command]
    figures = [
        harness.median("from the start of the command, less its own start", aside, "ms", AIM, scale=1e3),
        harness.median("from the publishing rename, in process", times.published, "ms", AIM, scale=1e3),
        harness.median("from the call of the library's submit, in process", times.library, "ms", scale=1e3),
        harness.median("from the start of the command", times.command, "ms", scale=1e3),
        harness.median("the command's own start: the interpreter and its imports", times.own_start, "ms", scale=1e3),
    ]
    note = f"{rounds} rounds; the job says itself when it starts, so the start of its shell is in"
    return Report("f", TITLE, figures, [note])


def _round(directory: str, spool: str, commands: str, times: Times) -> None:
    starting = [sys.executable, "-c", _OWN_START]
    times.own_start.append(harness.seconds(lambda: harness.run(starting, directory)))
    begun = time.time()
    workflow = harness.submit(spool, directory, "--commands", commands)
    times.command.append(_started(spool, workflow) - begun)
    time.sleep(PAUSE_S)
    parsed = specs.from_commands([_COMMAND], name="latency", source="commands")
    begun = time.time()
    workflow, published = _publish(spool, directory, parsed)
    started = _started(spool, workflow)
    times.library.append(started - begun)
    times.published.append(started - published)
    time.sleep(PAUSE_S)


def _publish(spool: str, directory: str, parsed: WorkflowSpec) -> tuple[int, float]:
    """Submit in this process; the id and the moment of the rename that publishes."""
    moments: list[float] = []
    original = fsops.rename_directory

    def timed(source: str, target: str) -> bool:
        moments.append(time.time())
        return original(source, target)

    fsops.rename_directory = timed
    try:
        workflow = Spool(spool).submit(parsed, Verbatim(b"", "commands.txt"), cwd=directory)
    finally:
        fsops.rename_directory = original
    return workflow, moments[0]


def _started(spool: str, workflow: int) -> float:
    """What the job wrote, once it is done."""
    root = harness.workflow_directory(spool, workflow)
    harness.wait_until(lambda: bool(os.listdir(f"{root}/done/completed")), "the job is done")
    (output,) = (name for name in os.listdir(f"{root}/output") if name.endswith(".out"))
    with open(f"{root}/output/{output}", encoding="ascii") as file:
        return float(file.read())
