"""Can a filesystem carry a spool? The verdict, from what was measured: pure. `probes` measures.

What must hold stands under Assumptions in `docs/spool-format.md`; what else was found chooses how
runners go about it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from torc_spool import crowd, fsops, lease, mounts
from torc_spool.errors import DamagedFile, StorageError

FILE = ".doctor.json"  # in the spool
VERSION = 1

GOOD, USABLE, UNFIT = "good", "usable", "do not"

LOCAL_POLL_S, NETWORK_POLL_S, SHORTEST_POLL_S = 60.0, 30.0, 15.0
_POLL_SHARE = 1e-4  # of an idle runner's time that one listing may take
_HEARTBEAT_S, _STALE_S = 60.0, 60.0
_LATE_S, _TOO_LATE_S = 1.0, 60.0  # a listing
_LONGEST_LEASE_S = 3600.0
_CLOCK_S = 30.0
_SLOW = 100.0  # calls a second
_FEWEST_CALLS_PER_S = 200.0
_FEW_BYTES, _FEW_INODES = 1 << 30, 10_000


class Findings(NamedTuple):
    """What was measured. None: it could not be."""

    filesystem: str  # its type
    network: bool
    hosts: tuple[str, ...]  # of the peers, in their order
    races: int  # of each kind that two or more peers ran
    rename_wrong: int  # of these: not exactly one winner
    mkdir_wrong: int
    create_wrong: int
    torn: int  # reads of a file, while another replaced it, that were neither the old nor the new one
    rmdir_keeps: bool  # a directory that holds something cannot be removed
    links: bool
    lock_excludes: bool | None
    events: bool | None  # of one peer reach the others
    listing_late_s: float | None  # until a new name is listed by another peer, at the worst; None: never was
    clock_skew_s: float  # between the filesystem and the host whose clock is the worst
    executable: bool
    create_per_s: float
    rename_per_s: float
    list_s: float  # of one listing
    bytes_free: int
    inodes_free: int | None  # None: the filesystem does not count them

    @property
    def nodes(self) -> int:
        return len(set(self.hosts))


class Settings(NamedTuple):
    """What follows for runners."""

    poll_s: float  # an idle runner looks at least so often
    lock: bool  # whether waiting for the lock is worth anything
    lease_s: float  # a runner that is silent for so long may be dead
    calls_per_s: float = crowd.CALLS_PER_S  # that all runners of a workflow together may ask beside their jobs' steps


class Verdict(NamedTuple):
    """The word, and why it is not a better one."""

    word: str
    broken: list[str]  # laws that do not hold: a spool here would lose jobs, or run them twice
    notes: list[str]  # what is slower, or to be minded
    settings: Settings

    @property
    def ok(self) -> bool:
        return self.word != UNFIT


def judge(found: Findings) -> Verdict:
    """What the findings mean."""
    broken, notes = list(_broken(found)), list(_notes(found))
    word = UNFIT if broken else USABLE if notes else GOOD
    return Verdict(word, broken, notes, _settings(found))


def _broken(found: Findings) -> Iterator[str]:
    races = f"of {found.races} races between {len(found.hosts)} processes"
    if found.rename_wrong:
        yield f"rename: {found.rename_wrong} {races} had not exactly one winner: jobs would run twice or be lost"
    if found.mkdir_wrong:
        yield f"mkdir: {found.mkdir_wrong} {races} had not exactly one winner: two workflows would get one id"
    if found.create_wrong:
        yield f"O_EXCL: {found.create_wrong} {races} had not exactly one winner: files would be written by two"
    if found.torn:
        yield f"rename over a file is not atomic: {found.torn} readers saw neither the old nor the new content"
    if not found.rmdir_keeps:
        yield "rmdir removes a directory that holds a file: the work of the dead could not be fenced"
    if found.listing_late_s is None or found.listing_late_s > _TOO_LATE_S:
        late = "was never seen" if found.listing_late_s is None else f"was seen after {found.listing_late_s:.1f} s"
        yield f"a fresh listing is not current: another process's new file {late}"
    if found.bytes_free < 1 << 20 or found.inodes_free == 0:
        yield "it is full: no space or no inodes are left"


def _notes(found: Findings) -> Iterator[str]:
    where = "between the nodes" if found.nodes > 1 else "here"
    if found.lock_excludes is None:
        yield "there are no locks (flock): claims race, which costs order and speed and no job"
    elif not found.lock_excludes:
        yield f"flock excludes nobody {where}: claims race, which costs order and speed and no job"
    if not found.events:
        yield f"file events do not arrive {where}: an idle runner looks every {_poll_s(found):g} s"
    if found.network and found.nodes == 1:
        yield "only one node has looked: run it on two (--peers), for what holds between nodes"
    if not found.links:
        yield "there are no hard links: a result costs a call more"
    if found.listing_late_s is not None and _LATE_S < found.listing_late_s <= _TOO_LATE_S:
        yield f"a new file is listed elsewhere {found.listing_late_s:.1f} s late: dependent jobs start as much later"
    if abs(found.clock_skew_s) > _CLOCK_S:
        yield f"a clock is {abs(found.clock_skew_s):.0f} s off the filesystem's: times in results are off as much"
    if not found.executable:
        yield "programs in it cannot be executed (noexec): call scripts by their interpreter"
    slowest = min(found.create_per_s, found.rename_per_s)
    if slowest < _SLOW:
        yield f"it is slow: {slowest:.0f} calls a second by one process"
    if (1 << 20) <= found.bytes_free < _FEW_BYTES:
        yield f"little space is left: {found.bytes_free >> 20} MiB"
    if found.inodes_free is not None and 0 < found.inodes_free < _FEW_INODES:
        yield f"few inodes are left: {found.inodes_free}; a job takes three"


def _settings(found: Findings) -> Settings:
    stale = max(_STALE_S, 2 * (found.listing_late_s or 0.0))
    return Settings(_poll_s(found), bool(found.lock_excludes), 2 * (_HEARTBEAT_S + stale), _calls_per_s(found))


def _calls_per_s(found: Findings) -> float:
    """As many as one process had answered: all runners together shall be to the server what one busy program is.

    Never more than the usual: what a server can do for many at once a single process does not see.
    """
    one = min(found.create_per_s, found.rename_per_s)
    return float(round(min(crowd.CALLS_PER_S, max(_FEWEST_CALLS_PER_S, one))))


def _poll_s(found: Findings) -> float:
    """As often as listings stay a small share of the time, where events cannot be relied on."""
    crosses = not found.network or found.nodes > 1
    if found.events and crosses:
        return LOCAL_POLL_S
    return round(min(NETWORK_POLL_S, max(SHORTEST_POLL_S, found.list_s / _POLL_SHARE)), 1)


def report(found: Findings, verdict: Verdict, *, time: str | None) -> dict[str, Any]:
    """All of it as data: what is shown, and kept in the spool."""
    return {
        "version": VERSION,
        "time": time,
        "verdict": verdict.word,
        "broken": verdict.broken,
        "notes": verdict.notes,
        "settings": verdict.settings._asdict(),
        "findings": found._asdict(),
    }


def keep(spool: str, data: dict[str, Any]) -> None:
    """Put a report where runners find it. Raises StorageError."""
    fsops.replace(spool, FILE, msgspec.json.encode(data))


def settings(spool: str, *, user: int) -> Settings | None:
    """What a doctor has chosen for this spool. None: none has, or it is not to be trusted.

    Only the word of the same user counts, and only within reason.
    """
    try:
        content = fsops.read(f"{spool}/{FILE}", limit=1 << 16)
        if content is None or content.owner != user:
            return None
        said = msgspec.json.decode(content.data, type=_Kept)
    except (DamagedFile, StorageError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    found = Settings(*msgspec.structs.astuple(said.settings))
    within = SHORTEST_POLL_S <= found.poll_s <= LOCAL_POLL_S and lease.DEFAULT_S <= found.lease_s <= _LONGEST_LEASE_S
    within = within and _FEWEST_CALLS_PER_S <= found.calls_per_s <= crowd.CALLS_PER_S
    return found if said.version == VERSION and within else None


def calls_per_s(asked: float | None, chosen: Settings | None) -> float:
    """How many calls a second all runners together may ask: what a person says, else what a doctor has chosen."""
    return asked or (crowd.CALLS_PER_S if chosen is None else chosen.calls_per_s)


def budget(spool: str, asked: float | None) -> Callable[[], float]:
    """The same for a spool, of which a doctor's word counts on a network filesystem alone; looks only when called."""

    def tell() -> float:
        is_open = asked is None and mounts.is_network(spool)
        return calls_per_s(asked, settings(spool, user=os.geteuid()) if is_open else None)

    return tell


class _KeptSettings(msgspec.Struct):
    poll_s: float
    lock: bool = True
    lease_s: float = lease.DEFAULT_S
    calls_per_s: float = crowd.CALLS_PER_S


class _Kept(msgspec.Struct):
    version: int
    settings: _KeptSettings
