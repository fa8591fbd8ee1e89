"""(b) What a claim costs when 1,000, 10,000 or 100,000 jobs are ready."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import NamedTuple

import harness
from harness import Aim, BenchError, Context, Figure, Report

from torc_spool import actor as actors
from torc_spool.actor import Actor
from torc_spool.model import Job, Resources, WorkflowSpec
from torc_spool.select import Free, Offer
from torc_spool.served import LISTING_SHARE, VIEW_AGE_S, Claimed, Served
from torc_spool.spool import Spool
from torc_spool.submission import Verbatim

TITLE = "claims: selection, rename and reading, per job, one job at a time"
FLAT = Aim(1.5)
CLAIMS = 250
NODE = Free(cpus=64, memory_mib=262_144)
GIB = 1024**3


class Depth(NamedTuple):
    """A workflow with so many ready jobs and a runner's view of it."""

    jobs: int
    served: Served
    actor: Actor
    listings: list[float]


def measure(context: Context) -> Report:
    directory = context.directory_for("b")
    depths = []
    for jobs in context.sizes((1_000, 10_000, 100_000), (1_000, 10_000)):
        context.say(f"(b) {jobs:,} ready jobs")
        depths.append(_depth(f"{directory}/{jobs}", jobs))
    depths.append(_depth(f"{directory}/crowd", depths[0].jobs, crowd=True))
    measures: dict[str, Callable[[], float]] = {}
    modes: dict[str, Callable[[], Iterator[Offer]]] = {"queue depth": _queue_depth, "by resources": _by_resources}
    for depth in depths[:-1]:
        for mode, offers in modes.items():
            measures[f"{mode}, {depth.jobs:,} ready"] = partial(_claim_cost, depth, offers)
    crowd = f"queue depth, {depths[-1].jobs:,} ready, with the lock (another runner is there)"
    measures[crowd] = partial(_claim_cost, depths[-1], _queue_depth)
    samples = harness.interleaved(context.runs, measures)
    figures = [
        harness.ratio(
            f"{mode}: {depth.jobs:,} ready / {depths[0].jobs:,} ready",
            samples[f"{mode}, {depth.jobs:,} ready"],
            samples[f"{mode}, {depths[0].jobs:,} ready"],
            FLAT,
        )
        for mode in modes
        for depth in depths[1:-1]
    ]
    figures += [harness.median(f"a claim, {name}", took, "us", scale=1e6) for name, took in samples.items()]
    for depth in depths[:-1]:
        figures += _listing(depth, samples[f"queue depth, {depth.jobs:,} ready"])
    return Report("b", TITLE, figures, [_NOTE])


_NOTE = (
    f"a listing serves all claims of the next {VIEW_AGE_S:g} s, or of {LISTING_SHARE} times what it cost if that is "
    "more: at most a twentieth of a runner's time"
)


def _listing(depth: Depth, claims: list[float]) -> list[Figure]:
    """One listing, and its share in a claim if a runner did nothing but claim."""
    listing = harness.median(f"a listing of {depth.jobs:,} names, sorted", depth.listings, "ms", scale=1e3)
    cost = harness.median("", depth.listings, "s").value
    claim = harness.median("", claims, "s").value
    served = max(VIEW_AGE_S, LISTING_SHARE * cost) / claim
    return [listing, Figure(f"its share in a claim, {depth.jobs:,} ready", cost / served * 1e6, "us")]


def _depth(directory: str, jobs: int, *, crowd: bool = False) -> Depth:
    os.mkdir(directory)
    spool = Spool(f"{directory}/spool")
    store = spool.open_to_change(spool.submit(_mixed(jobs), Verbatim(b"", "spec.yaml"), cwd=directory))
    if crowd:
        Actor.born(store, actors.identity(actors.new_name()))
    served = Served(store, actors.identity(actors.new_name()), directories=["any"])
    return Depth(jobs, served, served.owner(), [])


def _mixed(jobs: int) -> WorkflowSpec:
    """Jobs of 32 different needs, in turn."""
    kinds = [
        Resources(num_cpus=cpus, memory_bytes=memory * GIB, runtime_s=3600)
        for cpus in range(1, 9)
        for memory in (1, 2, 4, 8)
    ]
    return WorkflowSpec(
        name="claims",
        jobs=tuple(
            Job(id=job, name=f"job_{job:06d}", command="true", resources=kinds[job % len(kinds)])
            for job in range(1, jobs + 1)
        ),
    )


def _queue_depth() -> Iterator[Offer]:
    while True:
        yield Offer(NODE, (NODE,), slots=1, ignore_resources=True)


def _by_resources() -> Iterator[Offer]:
    """As when one job after the other has ended, and left room for one that is no larger."""
    for cpus in cycle(range(1, 9)):
        yield Offer(NODE, (Free(cpus, 8192 * cpus),), seconds_left=7200, slots=1)


def _claim_cost(depth: Depth, offers: Callable[[], Iterator[Offer]]) -> float:
    """Seconds a claim; what was claimed is given back, so that the depth stays."""
    served = depth.served
    depth.listings.append(harness.seconds(served.refresh))
    claims = min(CLAIMS, depth.jobs // 4)
    supply = offers()
    claimed: list[Claimed] = []

    def claim() -> None:
        for _ in range(claims):
            claimed.extend(served.claim(next(supply)))

    took = harness.seconds(claim)
    if len(claimed) != claims:
        raise BenchError(f"{len(claimed)} of {claims} jobs were claimed")
    ready = served.store.layout.ready_for(None)
    for job in claimed:
        os.rename(f"{depth.actor.pending}/{job.filename}", f"{ready}/{job.filename}")
    return took / claims
