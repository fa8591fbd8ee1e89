"""(g) Packing: 200 jobs of 1 to 8 cpus on an invented runner of 16, over the lower bound and over a simulation."""

from __future__ import annotations

import heapq
import json
import os
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import harness
from harness import Aim, BenchError, Context, Report

from torc_spool import naming
from torc_spool.capacity import Capacity
from torc_spool.model import Needs
from torc_spool.select import Entry, ReadyQueue, select
from torc_spool.slots import Slots

TITLE = "packing jobs of 1 to 8 cpus (sleeps) on a runner of 16 invented cpus: makespan"
AIM = Aim(1.02)
CPUS = 16
MEMORY_GIB = 64
SEED = 20
SHORTEST_S, LONGEST_S = 0.2, 2.0


class Task(NamedTuple):
    """One job of the mix."""

    cpus: int
    seconds: float


def measure(context: Context) -> Report:
    directory = context.directory_for("g")
    (jobs,) = context.sizes((200,), (60,))[:1]
    tasks = mix(jobs)
    nominal = [task.seconds for task in tasks]
    bound = lower_bound(tasks, nominal)
    simulated = simulate(tasks, nominal)
    makespans: list[float] = []
    replayed: list[float] = []
    overheads: list[float] = []
    runs = min(context.runs, 2) if context.quick else context.runs
    for count in range(runs):
        context.say(f"(g) {jobs} jobs, about {simulated:.0f} s, {count + 1} of {runs}")
        started, ended = _run(f"{directory}/{count}", tasks)
        took = [end - start for start, end in zip(started, ended, strict=True)]
        makespans.append(max(ended) - min(started))
        replayed.append(simulate(tasks, took))
        overheads += [actual - stated for actual, stated in zip(took, nominal, strict=True)]
    figures = [
        harness.ratio("over a simulation without overhead, same order", makespans, [simulated] * runs, AIM),
        harness.ratio("over the lower bound, sum of cpus x time / 16", makespans, [bound] * runs),
        harness.ratio("over a simulation with the times that jobs really took", makespans, replayed),
        harness.Figure("the simulation over the lower bound", simulated / bound, "x"),
        harness.median("makespan, first start to last end", makespans, "s"),
        harness.median("a job's time beyond its sleep", overheads, "ms", scale=1e3),
    ]
    note = (
        f"{jobs} jobs, {runs} runs; a fixed mix of sleeps of {SHORTEST_S:g} to {LONGEST_S:g} s, in order of submission"
    )
    return Report("g", TITLE, figures, [note])


def mix(jobs: int) -> list[Task]:
    """The same mix every time."""
    chance = random.Random(SEED)
    return [Task(chance.randint(1, 8), round(chance.uniform(SHORTEST_S, LONGEST_S), 3)) for _ in range(jobs)]


def lower_bound(tasks: Sequence[Task], seconds: Sequence[float]) -> float:
    """No schedule is shorter: the area of all jobs, or the longest of them."""
    area = sum(task.cpus * taken for task, taken in zip(tasks, seconds, strict=True))
    return max(area / CPUS, *seconds)


def simulate(tasks: Sequence[Task], seconds: Sequence[float]) -> float:
    """The makespan by the runner's own selection on a clock that only jobs advance."""
    slots = Slots(Capacity(num_cpus=CPUS, memory_mib=MEMORY_GIB * 1024))
    names = [
        str(naming.job_name(priority=0, job=job, needs=Needs(num_cpus=task.cpus), name=f"job_{job}"))
        for job, task in enumerate(tasks, 1)
    ]
    queue = ReadyQueue(Entry(name, naming.ANY_SCHEDULER) for name in names)
    numbers = {name: number for number, name in enumerate(names)}
    running: list[tuple[float, int, Any]] = []
    now = 0.0
    while True:
        picks = select(queue, slots.offer())
        queue.discard(picks)
        for pick in picks:
            number = numbers[pick.entry.name]
            heapq.heappush(running, (now + seconds[number], number, slots.take(pick)))
        if not running:
            return now
        now, _, grant = heapq.heappop(running)
        slots.free(grant)


def _run(where: str, tasks: Sequence[Task]) -> tuple[list[float], list[float]]:
    """When each job started and ended, as recorded."""
    os.mkdir(where)
    spool = f"{where}/spool"
    workflow = harness.submit(spool, where, _spec(f"{where}/spec.json", tasks))
    words = [harness.torc_spool(), "--spool", spool, "run", str(workflow)]
    harness.run([*words, "--num-cpus", str(CPUS), "--memory-gb", str(MEMORY_GIB)], where)
    done = f"{harness.workflow_directory(spool, workflow)}/done/completed"
    records: dict[int, Mapping[str, Any]] = {}
    for name in os.listdir(done):
        with open(f"{done}/{name}", encoding="utf-8") as file:
            record = json.load(file)
        records[record["id"]] = record["attempts"][-1]
    if len(records) != len(tasks):
        raise BenchError(f"{len(records)} of {len(tasks)} jobs completed")
    ordered = [records[job] for job in sorted(records)]
    return [float(record["start_time"]) for record in ordered], [float(record["end_time"]) for record in ordered]


def _spec(path: str, tasks: Sequence[Task]) -> str:
    jobs = [
        {
            "name": f"job_{number:06d}",
            "command": f"exec sleep {task.seconds}",
            "resource_requirements": f"cpus_{task.cpus}",
        }
        for number, task in enumerate(tasks, 1)
    ]
    needs = [{"name": f"cpus_{cpus}", "num_cpus": cpus} for cpus in range(1, 9)]
    return harness.write_lines(path, [json.dumps({"name": "mix", "jobs": jobs, "resource_requirements": needs})])
