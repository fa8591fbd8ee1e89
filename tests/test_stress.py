"""Runners are killed at random while they work: each job has one outcome, and each extra execution has its death."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cliutil
import psutil
import pytest
from cliutil import Background, Lab

from torc_spool import report

lab = cliutil.lab

GIVE_UP_S = 60.0  # no more kills after that: the rest must come to its end


class Crowd:
    """Some runners, of both kinds, that are killed and replaced."""

    def __init__(self, lab: Lab, size: int, seed: int) -> None:
        self._lab, self._random = lab, random.Random(seed)
        self.killed: set[int] = set()  # pids
        self.runners: list[Background] = []
        for _ in range(size):
            self.add()

    def add(self) -> None:
        kind = self._random.choice((["--max-parallel-jobs", 3], ["--num-cpus", 3, "--memory-gb", 1]))
        self.runners.append(self._lab.start("run", 1, *kind))

    def kill_one(self) -> None:
        """SIGKILL for one, sometimes with all its children, and another one in its place."""
        runner = self.runners.pop(self._random.randrange(len(self.runners)))
        children: list[psutil.Process] = []
        if self._random.random() < 0.5:
            with contextlib.suppress(psutil.Error):
                children = psutil.Process(runner.pid).children(recursive=True)
        if runner.alive:
            self.killed.add(runner.pid)
        runner.kill()
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()
        self.add()

    def wait(self) -> None:
        for runner in self.runners:
            runner.wait(None)


def jobs(count: int, execs: Path) -> list[dict[str, Any]]:
    """Short jobs that say when they run; one in 97 fails, and each of the last seventh waits for three others."""
    choose = random.Random(count)
    listed: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        end = "exit 3" if number % 97 == 0 else "true"
        command = f"echo $TORC_ATTEMPT_ID $TORC_RUNNER >> {execs}/$TORC_JOB_ID; sleep 0.0{number % 4}; {end}"
        listed.append({"name": f"job {number}", "command": command, "priority": number % 3})
        if number > count * 6 // 7:
            others = [other for other in choose.sample(range(1, number), 3) if other % 97]
            listed[-1]["depends_on"] = [f"job {other}" for other in others]
    return listed


@pytest.mark.parametrize(
    ("size", "count", "kills"),
    [pytest.param(3, 150, 6, id="short"), pytest.param(8, 2000, 40, id="long", marks=pytest.mark.slow)],
)
def test_each_job_has_one_outcome_and_each_extra_execution_a_death(lab: Lab, size: int, count: int, kills: int) -> None:
    execs = lab.base / "execs"
    execs.mkdir()
    lab.submit(*jobs(count, execs))
    done = lab.root() / "done"
    started = time.monotonic()
    crowd = Crowd(lab, size, seed=count)
    while len(crowd.killed) < kills and time.monotonic() < started + GIVE_UP_S:
        ended = sum(len(os.listdir(done / outcome)) for outcome in os.listdir(done))
        if ended >= count or not any(runner.alive for runner in crowd.runners):
            break
        if ended >= len(crowd.killed) * count // (kills + 1):  # spread over the whole of the work
            crowd.kill_one()
        time.sleep(0.01)
    crowd.wait()
    lab.run(1, code=1)  # of those that were killed last
    lab.check()

    states = Counter(lab.states().values())
    assert states == {"completed": count - count // 97, "failed": count // 97}
    assert lab.ls("pending") == lab.ls("running") == lab.ls("requests") == lab.ls("aside") == []
    assert len(crowd.killed) >= kills // 2
    explain(lab, execs, crowd)


def explain(lab: Lab, execs: Path, crowd: Crowd) -> None:
    """Every execution is of an attempt that is recorded, and all but the last one are of runners that were killed."""
    store = lab.store()
    pid_of = {row["name"]: row["pid"] for row in report.runners(store)}
    recorded: dict[int, dict[int, dict[str, Any]]] = {}
    for row in report.results(store):
        recorded.setdefault(row["id"], {})[row["attempt"]] = row
    lost = 0
    for job, attempts in recorded.items():
        lines = [line.split() for line in (execs / str(job)).read_text().splitlines()]
        ran = {int(attempt): runner for attempt, runner in lines}
        assert len(ran) == len(lines), f"job {job}: an attempt was run twice: {lines}"
        assert set(ran) <= set(attempts), f"job {job} ran {ran} and has recorded {sorted(attempts)}"
        *earlier, last = sorted(attempts)
        assert attempts[last]["outcome"] is not None
        assert ran[last] == attempts[last]["runner"]
        for attempt in earlier:
            row = attempts[attempt]
            assert row["outcome"] is None, f"job {job} has two outcomes: {attempts}"
            assert "its runner died: process" in row["reason"]
            # whose it was, and who ran it: another one, if it died while it took the work of that one back
            assert {pid_of[row["runner"]], pid_of[ran.get(attempt, row["runner"])]} <= crowd.killed
            lost += 1
    assert lost > 0, "no job was lost with its runner: the kills came at the wrong time"
