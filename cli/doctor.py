"""`torc-spool doctor`: can this filesystem carry a spool?"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import click

from torc_spool import doctor as doctors
from torc_spool import fsops, probes, report, trust
from torc_spool.doctor import Findings, Verdict
from torc_spool.errors import EXIT_JOBS_FAILED, EXIT_OK, NotFound, UsageError

from .common import CommonCommand, State, clean, named, say, show_json


@click.command(cls=CommonCommand)
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option(
    "--peer",
    "word",
    metavar="NAME",
    callback=named("give a word that all peers are told"),
    help="Measure together with the doctors that are told the same NAME, on other nodes.",
)
@click.option(
    "--peers",
    type=click.IntRange(2, 64),
    metavar="N",
    help="How many they are in all. Default: 2 with --peer. In one step of Slurm no --peer is needed.",
)
@click.pass_obj
def doctor(state: State, directory: str, word: str | None, peers: int | None) -> int:
    """Try out whether a filesystem can carry a spool, and say what follows.

    DIR is the spool, or the directory where it is to be. Run it on two nodes at once for what holds between them. The
    findings are kept in DIR/.doctor.json, where runners look; nothing else is left behind. Exit codes: 0 good or
    usable; 1 do not put a spool there.
    """
    path = os.path.abspath(directory)
    if not directory or fsops.entries(path) is None:
        raise NotFound(f"{directory or 'DIR is empty'}: there is no such directory; make it first")
    trust.check_directory(path, shared=state.allow_shared)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing is left behind then, either
    found, first = _measure(path, word, peers)
    verdict = doctors.judge(found)
    data = doctors.report(found, verdict, time=report.iso(time.time()))
    if first:
        doctors.keep(path, data)
    if not first and word is None:  # the output of a step is one
        say(f"verdict: {verdict.word}; the doctor on {found.hosts[0]} tells the rest")
    elif state.json:
        show_json(data)
    else:
        for line in _text(found, verdict):
            click.echo(clean(line))
    return EXIT_OK if verdict.ok else EXIT_JOBS_FAILED


def _measure(path: str, word: str | None, peers: int | None) -> tuple[Findings, bool]:
    if word is None and peers is None:
        return probes.alone(path), True
    if word is None:
        step = [os.environ.get(name) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")]
        if None in step:
            raise UsageError(
                "--peers: outside a step of Slurm the peers need a common word: give all the same --peer NAME"
            )
        word = "-".join(map(str, step))
    say(f"waiting for {peers or 2} peers in {path}")
    return probes.together(path, word, peers or 2)


def _text(found: Findings, verdict: Verdict) -> Iterator[str]:
    nodes = "1 node" if found.nodes == 1 else f"{found.nodes} nodes"
    yield f"verdict: {verdict.word}"
    yield from (f"  broken: {line}" for line in verdict.broken)
    yield from (f"  mind: {line}" for line in verdict.notes)
    kind = "network filesystem" if found.network else "local filesystem"
    inodes = "not counted" if found.inodes_free is None else str(found.inodes_free)
    space = f"{report.memory_text(found.bytes_free)} free, inodes: {inodes}"
    yield f"filesystem: {found.filesystem or 'unknown'} ({kind}), {space}"
    yield f"looked at by: {len(found.hosts)} processes on {nodes} ({', '.join(sorted(set(found.hosts)))})"
    wrong = f"{found.rename_wrong}, {found.mkdir_wrong}, {found.create_wrong}"
    yield f"races: {found.races} each of rename, mkdir, create; without exactly one winner: {wrong}"
    yield f"reads of a file while it was replaced: {found.torn} torn"
    yield f"rmdir keeps what is not empty: {_yes(found.rmdir_keeps)}; hard links: {_yes(found.links)}"
    yield f"flock excludes: {_yes(found.lock_excludes)}; file events arrive: {_yes(found.events)}"
    late = "never" if found.listing_late_s is None else f"after {found.listing_late_s * 1000:.1f} ms at the latest"
    yield f"a new file is listed by another process: {late}"
    programs = f"programs can be executed: {_yes(found.executable)}"
    yield f"clock against the filesystem's: {found.clock_skew_s:g} s; {programs}"
    listing = f"a listing takes {found.list_s * 1000:.2f} ms"
    yield f"calls a second, one process: create {found.create_per_s:.0f}, rename {found.rename_per_s:.0f}; {listing}"
    chosen = verdict.settings
    lock = "worth waiting for" if chosen.lock else "of no use"
    yield f"settings: idle runners look every {chosen.poll_s:g} s; the lock is {lock}; lease {chosen.lease_s:g} s"
    yield f"budget: all runners of a workflow together ask {chosen.calls_per_s:g} calls a second"


def _yes(value: bool | None) -> str:
    return "unknown" if value is None else "yes" if value else "no"
