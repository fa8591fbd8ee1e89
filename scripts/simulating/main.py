"""A crowd of runners, simulated. See `scripts/simulate`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time

from crowd import Figures, Scene, simulate

from torc_spool.crowd import CALLS_PER_S

_SHOWN = 14
_BUSY = 5


def main() -> int:
    options = _options()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = tempfile.mkdtemp(prefix="torc-spool-simulate-", dir=memory)
    scene = Scene(
        runners=options.runners,
        jobs=options.jobs,
        seconds=options.seconds,
        slots=options.slots,
        within=options.within,
        latency=options.latency_ms / 1000,
        capacity=options.capacity,
        barrier=options.barrier,
        kill=options.kill,
        seed=options.seed,
        step=not options.no_step,
        calls_per_s=options.calls_per_second,
    )
    began = time.monotonic()
    try:
        figures = simulate(scene, directory)
    finally:
        shutil.rmtree(directory)
    for line in told(scene, figures):
        print(line)
    print(f"simulated in {time.monotonic() - began:.0f} s")
    return 0 if figures.done == scene.jobs else 1


def told(scene: Scene, figures: Figures) -> list[str]:
    """The figures in words."""
    quiet = figures.by_second[int(figures.births) + 1 : max(int(figures.births) + 2, int(figures.makespan))]
    steady = sum(quiet) / len(quiet) if quiet else 0.0
    crowd = f"{scene.runners} runners with {scene.slots} jobs at a time, started within {scene.within:g} s"
    server = f"a server with {scene.latency * 1000:g} ms and {scene.capacity:g} calls/s"
    took = f"{figures.makespan:.1f} s; ideal {figures.ideal:.1f} s ({figures.makespan / figures.ideal:.3f} times)"
    each = f"{figures.calls / scene.jobs:.1f} a job, {figures.calls / scene.runners:.1f} a runner"
    settled = f"from the last runner's first job (at {figures.births:.1f} s) to the last result"
    lines = [
        f"{crowd}; {scene.jobs} jobs of {scene.seconds:g} s; {server}; budget {scene.calls_per_s:g} calls/s",
        f"done: {figures.done} of {scene.jobs} in {took}; the last runner ended {figures.idle_end:.1f} s later",
        f"calls: {figures.calls}, {each}",
        f"calls a second: at most {figures.peak} ({_busiest(figures)}), {steady:.0f} on average {settled}",
    ]
    for phase, count in figures.phases.items():
        top = ", ".join(f"{number} {kind}" for kind, number in figures.kinds_in[phase].most_common(_SHOWN))
        lines.append(f"{phase}: {count / scene.runners:.1f} a runner: {top}")
    return lines


def _busiest(figures: Figures) -> str:
    """When most was asked: the busiest seconds and what they saw."""
    seconds = sorted(range(len(figures.by_second)), key=figures.by_second.__getitem__, reverse=True)[:_BUSY]
    return ", ".join(f"second {at}: {figures.by_second[at]}" for at in sorted(seconds))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    parser.add_argument("--runners", type=int, default=1000, metavar="N", help="(1000)")
    parser.add_argument("--jobs", type=int, default=10_000, metavar="M", help="(10000)")
    parser.add_argument("--seconds", type=float, default=60, metavar="S", help="a job's mean runtime (60)")
    parser.add_argument("--slots", type=int, default=1, metavar="K", help="jobs at a time, of a runner (1)")
    parser.add_argument("--within", type=float, default=1, metavar="S", help="all runners start in so many seconds (1)")
    parser.add_argument("--latency-ms", type=float, default=1, metavar="L", help="of a call (1)")
    parser.add_argument("--capacity", type=float, default=10_000, metavar="C", help="of the server: calls/s (10000)")
    parser.add_argument(
        "--calls-per-second",
        type=float,
        default=CALLS_PER_S,
        metavar="B",
        help=f"option of all runners ({CALLS_PER_S:g})",
    )
    parser.add_argument("--no-step", action="store_true", help="nobody tells the runners that they start at once")
    parser.add_argument("--barrier", action="store_true", help="half of the jobs wait for one of the others")
    parser.add_argument("--kill", type=int, default=0, metavar="K", help="so many runners are killed (0)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of all that is random (1)")
    options = parser.parse_args()
    if min(options.runners, options.jobs, options.slots) < 1 or options.kill >= options.runners:
        parser.error("give at least one runner, one job and one slot, and leave a runner alive")
    return options


if __name__ == "__main__":
    sys.exit(main())
