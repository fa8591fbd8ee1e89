"""Runners are killed at random while they work: each job has one outcome, and each extra execution has its death."""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cliutil
import psutil
import pytest
from cliutil import Background, Lab

from torc_spool import changes, naming, report
from torc_spool.spool import Spool

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

    def replace_ended(self) -> None:
        """Another one for each that ended by itself, not more than one at a time."""
        for runner in self.runners:
            if not runner.alive:
                runner.wait(None)
                self.runners.remove(runner)
                self.add()
                return

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
            assert re.match("its runner died: (.* had taken it for dead, .*: )?process", row["reason"])
            # whose it was, and who ran it: another one, if it died while it took the work of that one back
            assert {pid_of[row["runner"]], pid_of[ran.get(attempt, row["runner"])]} <= crowd.killed
            lost += 1
    assert lost > 0, "no job was lost with its runner: the kills came at the wrong time"


class Person:
    """Somebody who changes things all the time, by what the commands call and by `mv`."""

    def __init__(self, lab: Lab, count: int, seed: int) -> None:
        self._random, self._count = random.Random(seed), count
        self._root, self._store = lab.root(), Spool(str(lab.spool)).open_to_change(1)
        self.did: Counter[str] = Counter()

    def act(self) -> None:
        """One command about some jobs."""
        names = [f"job {self._random.randint(1, self._count)}" for _ in range(self._random.randint(1, 9))]
        word = self._random.choice(("cancel", "hold", "release", "release all", "retry", "retry failed", "priority"))
        changed = {
            "cancel": lambda: changes.cancel(self._store, names[:2]),
            "hold": lambda: changes.hold(self._store, names),
            "release": lambda: changes.release(self._store, names),
            "release all": lambda: changes.release(self._store),
            "retry": lambda: changes.retry(self._store, names),
            "retry failed": lambda: changes.retry(self._store),
            "priority": lambda: changes.set_priority(self._store, names, self._random.randint(0, 9)),
        }[word]()
        self.did[word] += sum(change.done for change in changed)
        if self._random.random() < 0.1:
            self.did["recover"] += len(changes.recover(self._store)[0])

    def move(self) -> None:
        """A legal move by hand, if the file is still there."""
        source, target = self._random.choice(
            (
                ("ready/any", "held"),
                ("held", "blocked"),
                ("blocked", "held"),
                ("ready/any", "done/canceled"),
                ("done/completed", "ready/any"),
                ("done/failed", "ready/any"),
            )
        )
        names = [name for name in os.listdir(self._root / source) if not name.startswith(".")]
        if not names:
            return
        name = self._random.choice(names)
        parsed = naming.parse_job(name)
        if target == "ready/any" and self._random.random() < 0.5:
            parsed = parsed._replace(attempt=parsed.attempt + 1)
        with contextlib.suppress(FileNotFoundError):
            (self._root / source / name).rename(self._root / target / str(parsed))
            self.did[f"{source} -> {target}"] += 1


@pytest.mark.slow
def test_whatever_people_do_while_runners_work_and_die_each_attempt_runs_once(lab: Lab) -> None:
    count, execs = 420, lab.base / "execs"
    execs.mkdir()
    lab.submit(*jobs(count, execs))
    crowd, person = Crowd(lab, 3, seed=7), Person(lab, count, seed=7)
    chance = random.Random(7)
    end = time.monotonic() + 15
    while time.monotonic() < end:
        person.act()
        person.move()
        if chance.random() < 0.08:
            crowd.kill_one()
        crowd.replace_ended()
    crowd.wait()
    # let everything that is left come to an end that is no accident
    lab.torc("release", 1)
    lab.run(1, code=None)
    lab.torc("retry", 1, *(name for name, state in lab.states().items() if state == "canceled"), code=None)
    lab.run(1, code=1)
    lab.check()
    assert lab.ls("pending") == lab.ls("running") == lab.ls("held") == lab.ls("blocked") == lab.ls("ready/any") == []
    assert lab.ls("aside") == []
    assert person.did.total() > 100
    for row in (lab.job(name) for name in lab.jobs()):
        lines = [line.split() for line in (execs / str(row["id"])).read_text().splitlines()]
        ran = [int(attempt) for attempt, _ in lines]
        assert len(set(ran)) == len(ran), f"an attempt was run twice: {lines}"
        recorded = {attempt["attempt"]: attempt for attempt in row["attempts"]}
        assert set(ran) <= set(recorded), f"{row['name']} ran {ran}, recorded are {sorted(recorded)}"
        assert row["status"] == ("failed" if row["id"] % 97 == 0 else "completed")
