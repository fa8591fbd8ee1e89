"""A soak: a bad world for some minutes, then a proof. See `scripts/soak`."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from evidence import gather
from verdict import Deaths, Tally, problems, tally
from workload import JOB, Workload, make
from world import TIMEOUT_S, World

UNFINISHED = 2  # workflows that are at work at one time
MOST_HARM = 20  # after so much it ends
OUTCOMES = ("completed", "failed", "canceled", "terminated")


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, _stopped)
    base = options.dir.absolute() if options.dir else Path(tempfile.mkdtemp(prefix="torc-spool-soak-"))
    if base.exists() and any(base.iterdir()):
        sys.exit(f"soak: {base}: is not empty; name a new directory")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    world = World(base, options.runners, seed)
    why_not = world.mount()
    print(
        f"soak: seed {seed}, {options.runners} runners, {options.jobs} jobs a workflow, {options.minutes:g} min, {base}"
    )
    if why_not:
        print(f"soak: the disk never gets full: no tmpfs to be had ({why_not})")
    sys.stdout.flush()
    began = time.monotonic()
    soak = Soak(world, options.jobs, seed, at_most=options.workflows, keep=options.keep)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: soak.stop())
    try:
        soak.work(options.minutes * 60)
        soak.drain()
    finally:
        world.stop()
        world.heal(all_of_it=True)
        world.unmount()
    wrong = world.wrong
    print(soak.summary(time.monotonic() - began))
    for line in wrong:
        print(f"WRONG: {line}")
    if wrong:
        print(f"soak: {len(wrong)} things are wrong; the evidence is in {base}; repeat with --seed {seed}")
        return 1
    if options.dir is None:
        shutil.rmtree(base)
    print("soak: nothing was lost, and nothing was done twice")
    return 0


def _stopped(_number: int, _frame: object) -> None:
    sys.exit("soak: stopped")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--runners", type=int, default=4, metavar="N", help="at work at one time (4)")
    parser.add_argument("--jobs", type=int, default=100, metavar="M", help="of each workflow (100)")
    parser.add_argument("--workflows", type=int, metavar="W", help="at most, in all (as many as there is time for)")
    parser.add_argument("--minutes", type=float, default=1, metavar="T", help="of new workflows and faults (1)")
    parser.add_argument("--seed", type=int, metavar="S", help="of all that is random; default: another one each time")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="to work in; is kept. Default: a temporary one")
    parser.add_argument("--keep", action="store_true", help="also the workflows with which nothing is wrong")
    options = parser.parse_args()
    least = min(options.runners, options.jobs, 1 if options.workflows is None else options.workflows)
    if least < 1 or options.minutes < 0:
        parser.error("give at least one runner, one job and one workflow, and no negative time")
    return options


class Soak:
    """Workflows that are submitted, worked on in a bad world, brought to their end, and judged."""

    def __init__(self, world: World, jobs: int, seed: int, *, at_most: int | None, keep: bool) -> None:
        self._world, self._jobs, self._at_most, self._keep = world, jobs, at_most, keep
        self._random = random.Random(seed + 1)
        self._script = world.base / "job.sh"
        self._script.write_text(JOB)
        self._workloads: dict[int, Workload] = {}  # of the workflows that are not finished
        self._finished: dict[int, Workload] = {}  # that are to be judged
        self._submitted = 0
        self._tallies: list[Tally] = []
        self._judge = ThreadPoolExecutor(1)
        self._judging: Future[None] | None = None
        self._is_stopping = False

    def stop(self) -> None:
        """The first time: no more faults, and the proof of what was done. The second: the end."""
        if self._is_stopping:
            sys.exit("soak: stopped")
        self._is_stopping = True

    def work(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        next_fault = time.monotonic() + 1.5
        while (now := time.monotonic()) < end and len(self._world.wrong) < MOST_HARM and not self._is_stopping:
            self._look()
            if self._submitted != self._at_most and len(self._workloads) < UNFINISHED:
                self._submit()
            self._world.fill_up()
            self._world.heal()
            if now >= next_fault:
                self._world.hurt(fill=self._judging is None)
                next_fault = time.monotonic() + self._random.expovariate(0.8)
            time.sleep(0.05)

    def drain(self) -> None:
        """No more faults: all that was begun comes to its end, and is judged."""
        world = self._world
        world.heal(all_of_it=True)
        deadline = time.monotonic() + TIMEOUT_S
        while self._workloads and time.monotonic() < deadline:
            self._look()
            world.fill_up()
            time.sleep(0.1)
        for runner in list(world.runners):
            try:
                runner.process.wait(TIMEOUT_S)
                world.ended(runner)
            except subprocess.TimeoutExpired:
                world.wrong.append(f"a runner does not end: {runner.talk}")
        self._judge.shutdown()
        for workflow, workload in {**self._finished, **self._workloads}.items():
            self._hold_to_account(workflow, workload)

    def _look(self) -> None:
        """Which workflows have come to their end; one of them is judged at a time, while the others go on."""
        for workflow, workload in list(self._workloads.items()):
            done = self._root(workflow) / "done"
            if sum(1 for outcome in OUTCOMES for _ in (done / outcome).iterdir()) == len(workload.expected):
                self._finished[workflow] = self._workloads.pop(workflow)
        if self._judging is not None and self._judging.done():
            self._judging.result()
            self._judging = None
        if self._judging is None:
            for workflow, workload in self._finished.items():
                if self._world.is_at_rest(self._root(workflow)):
                    self._judging = self._judge.submit(self._hold_to_account, workflow, workload)
                    return

    def _hold_to_account(self, workflow: int, workload: Workload) -> None:
        """Say what is wrong with a workflow that is finished. One with which nothing is makes room for others."""
        world = self._world
        # what the last runner of a workflow was killed before: actions of its end
        world.torc("run", str(workflow), "--max-parallel-jobs", "2")
        evidence = gather(self._root(workflow), world.logs)
        wrong = [*problems(workload.expected, evidence, Deaths(world.dead, world.disk_was_full))]
        checked = world.torc("fsck", str(workflow))
        if checked.returncode:
            wrong.append(f"fsck does not find it sound: {checked.stdout}{checked.stderr}")
        if not wrong and not self._keep:
            deleted = world.torc("delete", str(workflow))
            if deleted.returncode and world.runners:
                return  # one of them has just looked in: it is judged again
            if deleted.returncode:
                wrong.append(f"it cannot be deleted: {deleted.stderr}")
            for log in world.logs.glob(f"{workflow}-*"):
                log.unlink()
        self._finished.pop(workflow, None)
        self._tallies.append(tally(evidence))
        world.wrong += [f"workflow {workflow}: {line}" for line in wrong]

    def summary(self, seconds: float) -> str:
        did, all_of = self._world.did, Counter[str]()
        for each in self._tallies:
            all_of.update(each._asdict())
        kills = did["kill"] + did["kill all"]
        freezes = did["freeze"] + did["freeze to death"]
        return (
            f"soak: {seconds / 60:.1f} min; {len(self._tallies)} workflows, {all_of['jobs']} jobs, "
            f"{all_of['attempts']} attempts recorded, {all_of['lost']} of them lost with their runners, "
            f"{all_of['executions']} executions; {all_of['actions']} actions performed, "
            f"{all_of['interrupted']} interrupted\n"
            f"soak: done to runners: {kills} killed ({did['kill all']} with their jobs), {freezes} frozen, "
            f"{did['said dead']} declared dead while they lived ({did['freeze to death']} of them frozen); "
            f"{did['fill']} spells of a full disk, in which {did['gave up']} runners gave up; "
            f"{all_of['recovered']} recoveries\n"
            f"soak: harm found: {len(self._world.wrong)}"
        )

    def _submit(self) -> None:
        workload = make(self._jobs, self._random.randrange(10**6), str(self._script), str(self._world.logs))
        spec = self._world.base / "spec.json"
        spec.write_text(json.dumps(workload.spec))
        done = self._world.torc("submit", str(spec))
        if done.returncode == 0:
            self._workloads[int(done.stdout)] = workload
            self._submitted += 1
        elif not self._world.disk_was_full:
            self._world.wrong.append(f"a submit failed: {done.stderr}")

    def _root(self, workflow: int) -> Path:
        return next(self._world.spool.glob(f"{workflow}-*"))


if __name__ == "__main__":
    sys.exit(main())
