"""A crowd of runners on one workflow, and what it has cost."""

from __future__ import annotations

import heapq
import os
import random
import resource
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from standins import installed
from world import Process, Server, World

from torc_spool import naming
from torc_spool.arrival import await_turn
from torc_spool.capacity import Capacity
from torc_spool.crowd import CALLS_PER_S
from torc_spool.model import Job, WorkflowSpec
from torc_spool.runner import Options, Runner
from torc_spool.spool import Spool
from torc_spool.submission import Verbatim


@dataclass(frozen=True)
class Scene:
    """What is simulated. Times in seconds."""

    runners: int = 1000
    jobs: int = 10_000
    seconds: float = 60.0  # a job's mean; each lasts between half and one and a half of it
    slots: int = 1  # jobs at a time, of a runner
    within: float = 1.0  # in which all runners start
    latency: float = 0.001
    capacity: float = 10_000.0  # calls a second that the server can answer
    barrier: bool = False  # whether the second half of the jobs waits for the last job of the first
    kill: int = 0  # so many runners are killed a while after the start
    seed: int = 1
    step: bool = True  # whether all are tasks of one step of Slurm
    calls_per_s: float = CALLS_PER_S  # --calls-per-second of each runner


@dataclass(frozen=True)
class Figures:
    """What came of it."""

    done: int
    makespan: float
    ideal: float
    idle_end: float  # from the last job's end to the last runner's
    calls: int
    peak: int  # in the busiest second
    by_second: list[int]
    phases: dict[str, int]
    kinds: Counter[str]
    kinds_in: dict[str, Counter[str]]
    births: float  # until the last runner had its first job, or began to wait for one


def simulate(scene: Scene, directory: str) -> Figures:
    """Runs it in a new directory. Raises what a runner raises."""
    _raise_limits()
    rng = random.Random(scene.seed)
    random.seed(scene.seed)
    durations = [round(rng.uniform(0.5, 1.5) * scene.seconds, 3) for _ in range(scene.jobs)]
    half = scene.jobs // 2
    jobs = tuple(
        Job(
            id=number,
            name=f"j{number}",
            command=f"sleep {seconds}",
            depends_on=(half,) if scene.barrier and number > half else (),
        )
        for number, seconds in enumerate(durations, 1)
    )
    spool = f"{directory}/spool"
    workflow = Spool(spool).submit(WorkflowSpec(name="crowd", jobs=jobs), Verbatim(b"{}", "spec.json"), cwd="/")
    root = f"{spool}/{naming.workflow_directory(workflow, 'crowd')}"
    world = World(Server(scene.capacity, scene.latency), root, 1_000_000.0)
    processes = [
        Process(f"n{number:04d}", world.start + rng.uniform(0, scene.within), _runner(spool, scene, workflow, number))
        for number in range(scene.runners)
    ]
    for doomed in rng.sample(processes, scene.kill):
        world.add(Process("fate", world.start + rng.uniform(1, 2) * scene.seconds, _fate(doomed)))
    with installed(world):
        for process in processes:
            world.add(process)
        world.run()
    return _figures(world, scene, processes, durations, root)


def _runner(spool: str, scene: Scene, workflow: int, number: int) -> Callable[[Process], None]:
    def live(process: Process) -> None:
        environ = {"SLURM_PROCID": str(number)} if scene.step else {}
        begun = await_turn(spool, lambda: scene.calls_per_s, environ=environ, is_watched=False)
        options = Options(Capacity(scene.slots, 1 << 20), calls_per_s=scene.calls_per_s)
        runner = Runner(Spool(spool), options, workflow_id=workflow, begun=begun)
        original = runner.executor.turn

        def turn() -> bool:
            ended = original()
            if process.phase == "work" and not runner.executor.is_busy:
                process.phase = "without a job"
            return ended

        runner.executor.turn = turn  # type: ignore[method-assign]
        runner.run()

    return live


def _fate(doomed: Process) -> Callable[[Process], None]:
    def strike(_process: Process) -> None:
        doomed.is_killed = True

    return strike


def _figures(world: World, scene: Scene, processes: list[Process], durations: list[float], root: str) -> Figures:
    done = len(os.listdir(f"{root}/done/completed"))
    last = max(world.last_result, world.start) - world.start
    phases: Counter[str] = Counter()
    for process in processes:
        phases.update(process.calls)
    seconds = [world.seen[second] for second in range(max(world.seen, default=0) + 1)]
    return Figures(
        done=done,
        makespan=last,
        ideal=_ideal(scene, durations),
        idle_end=max(process.ended or 0.0 for process in processes) - world.start - last,
        calls=sum(seconds),
        peak=max(seconds, default=0),
        by_second=seconds,
        phases=dict(phases),
        kinds=world.by_kind,
        kinds_in=world.by_kind_in,
        births=world.last_first_claim - world.start,
    )


def _ideal(scene: Scene, durations: list[float]) -> float:
    """How long it takes where every runner is there at once, and nothing else takes any time."""
    half = len(durations) // 2 if scene.barrier else len(durations)
    free = [0.0] * (scene.runners * scene.slots)
    begin = 0.0
    for part in (durations[:half], durations[half:]):
        free = [max(at, begin) for at in free]
        heapq.heapify(free)
        for seconds in part:
            begin = free[0] + seconds
            heapq.heapreplace(free, begin)
    return max(free)


def _raise_limits() -> None:
    """Each runner keeps some files open, and is a thread here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    threading.stack_size(512 << 10)
