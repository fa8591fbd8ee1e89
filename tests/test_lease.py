"""Leases: who was silent for too long is dead for others, and knows that of itself before it moves anything."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import spooltools as tools
from hypothesis import given
from hypothesis import strategies as st
from spooltools import Hand, Wanted

from torc_spool import changes, fsops, lease, owners, processes, recovery, repair
from torc_spool.actor import Actor, identity, new_name
from torc_spool.errors import Fenced, StorageError, UsageError
from torc_spool.evidence import Here, of_host, of_lease
from torc_spool.lease import Lease
from torc_spool.model import Attempt, RunnerRecord, Status
from torc_spool.served import Served
from torc_spool.store import Store

ELSEWHERE = {"host": "elsewhere", "boot_id": "another", "pid_namespace": "pid:[9]"}


class Clock:
    """Goes as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Store:
    jobs = {"a": Wanted(), "b": Wanted(), "c": Wanted(after=("a",))}
    tools.submit(str(tmp_path / "spool"), tools.workflow(jobs))
    return tools.open_workflow(str(tmp_path / "spool"))


@pytest.fixture
def faults() -> Iterator[None]:
    yield
    fsops.fault = None


# -- the lease that can be kept


@given(st.floats(lease.SHORTEST_S, 1e6))
def test_three_signs_of_life_and_a_minute_of_staleness_fit_in_every_lease(lease_s: float) -> None:
    beat = lease.heartbeat_s(lease.check(lease_s, "--lease"))
    assert 3 * beat + lease.STALENESS_S <= lease_s + 1e-6
    assert 5.0 <= beat <= 60.0


@pytest.mark.parametrize("lease_s", [0.0, 74.9, float("inf"), float("nan")])
def test_a_lease_that_cannot_be_kept_is_refused(lease_s: float) -> None:
    with pytest.raises(UsageError, match="give 75 s or more"):
        lease.check(lease_s, "--lease")


# -- the evidence, as a pure decision

AGES = st.one_of(st.none(), st.floats(0, 1e6))
HERES = st.builds(Here, st.sampled_from("ab"), st.sampled_from(["", "1", "2"]), st.sampled_from(["", "1", "2"]))


@given(HERES, HERES, AGES, st.floats(75, 1e5), st.booleans(), st.booleans())
def test_silence_decides_where_nothing_better_is_known(
    here: Here, there: Here, age: float | None, lease_s: float, runs: bool, stopped: bool
) -> None:
    record = RunnerRecord(
        name="r", host=there.host, pid=7, pid_start="1", boot_id=there.boot_id, pid_namespace=there.pid_namespace,
        lease_s=lease_s,
    )  # fmt: skip
    sure = of_host(record, here, heartbeat_age_s=age, is_running=lambda _pid, _start: runs)
    silent = of_lease(record, here, heartbeat_age_s=age, is_stopped=lambda _pid: stopped)
    seen = here.host == there.host and here.boot_id == there.boot_id != "" and here[2] == there[2] != ""
    over = age is not None and age > lease_s
    assert (silent is not None) == (over and (stopped or not seen))
    if sure is not None:
        assert over or (seen and not runs), "no death without evidence"
    if silent is not None:
        assert f"silent for {age:.0f} s (its lease is {lease_s:.0f} s)" in silent.evidence


# -- what a process knows of its own lease


def test_a_lease_lapses_by_the_own_clock_until_the_next_sign_of_life() -> None:
    clock = Clock()
    mine = Lease(240.0, clock=clock)
    clock.now += 239.0
    assert not mine.lapsed
    clock.now += 1.0
    assert mine.lapsed
    assert not mine.beat(clock.now, 50.0), "the sign before was too long ago"
    assert not mine.lapsed


def test_whose_clock_stood_still_sees_its_absence_in_the_filesystems_time() -> None:
    clock = Clock()
    mine = Lease(240.0, clock=clock)
    assert mine.beat(clock.now, 50.0)
    clock.now += 60.0
    assert not mine.beat(clock.now, 350.0)
    assert not mine.judges


@given(st.lists(st.floats(1, 1000), max_size=30))
def test_who_was_away_waits_for_the_others_and_judges_again_however_often_it_is_away(gaps: list[float]) -> None:
    clock = Clock()
    mine = Lease(240.0, clock=clock)
    absences = []
    for gap in gaps:
        clock.now += gap
        judged = mine.judges
        mine.beat(clock.now, clock.now)
        absences += [clock.now] if judged and not mine.judges else []
    assert bool(absences) == any(gap >= 70 for gap in gaps)
    assert all(later - earlier >= 120 + 600 for earlier, later in pairwise(absences))
    clock.now += 120
    assert mine.judges


# -- fencing


def elsewhere(**what: object) -> RunnerRecord:
    return msgspec.structs.replace(identity(new_name()), **{**ELSEWHERE, **what})


def silence(hand: Hand, seconds: float) -> None:
    heartbeat = f"{hand.actor.directory}/heartbeat"
    now = os.stat(heartbeat).st_mtime - seconds
    os.utime(heartbeat, (now, now))


def frozen(store: Store) -> tuple[Hand, Clock]:
    """A runner of another host that runs a, has claimed b, and was frozen for longer than its lease."""
    clock, hand = Clock(), Hand(store, record=elsewhere())
    hand.actor.lease = Lease(240.0, clock=clock)
    hand.take("a")
    silence(hand, 1000)
    clock.now += 1000
    return hand, clock


def test_who_wakes_after_its_work_was_taken_moves_nothing(store: Store) -> None:
    """I14: before anything is claimed, recorded or given."""
    hand, _ = frozen(store)
    other = Hand(store)
    other.work()
    before = tools.read(store.layout.root)
    filename, name, claimed = hand.running[1]
    content, actor = claimed.content, hand.actor
    ways: list[Callable[[], object]] = [
        actor.beat,
        actor.assure,
        lambda: actor.claim(claimed.pick.entry),
        lambda: actor.start(filename, name, content),
        lambda: actor.record_result(filename, content, Attempt(attempt=1, outcome=Status.FAILED)),
        lambda: actor.show(filename, Status.FAILED),
        lambda: actor.give_back(filename, name, content.job),
    ]
    for way in ways:
        with pytest.raises(Fenced):
            way()
    assert tools.read(store.layout.root) == before
    assert set(tools.states(store.layout.root).values()) == {Status.COMPLETED}
    assert recovery.why_taken(store, hand.name) == (
        f"{other.name} has taken it back on the evidence: it is silent for 1000 s (its lease is 240 s)"
    )


def test_who_wakes_and_finds_its_directories_goes_on(store: Store) -> None:
    hand, _ = frozen(store)
    hand.finish(1, Status.COMPLETED)
    assert hand.actor.lease.lapsed
    hand.actor.beat()
    assert not hand.actor.lease.lapsed
    assert [owner.evidence for owner in recovery.scan(store)] == [None]


def test_whose_lapse_cannot_be_looked_into_records_nothing_yet(store: Store, faults: None) -> None:
    hand, _ = frozen(store)

    def refuse(operation: str, path: str) -> None:
        if operation == "list" and path == store.layout.running:
            raise OSError(5, "broken", path)

    fsops.fault = refuse
    with pytest.raises(StorageError):
        hand.record_result(1, Status.COMPLETED)
    fsops.fault = None
    hand.finish(1, Status.COMPLETED)


def old_paths(hand: Hand, taker: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The taker has renamed the directories (v3, v5) and no more; a client of NFS still follows their old paths."""
    layout = hand.store.layout
    fsops.make_directory(layout.taken(taker.name))
    fsops.rename_directory(hand.actor.directory, f"{layout.taken(taker.name)}/{hand.name}")
    for parent, own in ((layout.running, hand.actor.running), (layout.pending, hand.actor.pending)):
        os.rename(own, f"{parent}/{taker.name}~{hand.name}")
        os.symlink(f"{parent}/{taker.name}~{hand.name}", own)
    listdir = os.listdir

    def fresh(path: str) -> list[str]:  # no link is there in truth
        return [name for name in listdir(path) if name != hand.name or path not in (layout.running, layout.pending)]

    monkeypatch.setattr(os, "listdir", fresh)


@pytest.mark.parametrize("knows", [True, False], ids=["its clock went on", "its clock stood still"])
def test_in_the_half_minute_of_old_paths_nothing_is_lost_or_recorded_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch, knows: bool
) -> None:
    hand, clock = frozen(store)
    taker = Actor.born(store, identity(new_name()))
    (dead,) = owners.dead(recovery.scan(store, mine=taker))
    taker.taking[dead.name] = recovery.Taking(dead.evidence, None, dead.cause, {}, [])
    old_paths(hand, taker, monkeypatch)
    if knows:
        with pytest.raises(Fenced):
            hand.record_result(1, Status.COMPLETED)
    else:
        clock.now -= 1000
        hand.finish(1, Status.COMPLETED)  # by the old path, into a directory that the taker empties
    for own in (hand.actor.running, hand.actor.pending):
        os.unlink(own)  # the half minute is over, or the rmdir has ended it
    steps = {step.job: step.action for step in recovery.finish_taking(taker, dead)}
    assert steps == ({1: "requeue", 2: "requeue"} if knows else {2: "requeue"})
    assert taker.retire()
    assert set(tools.drain(os.path.dirname(store.layout.root)).values()) == {Status.COMPLETED}
    tools.check_invariants(store.layout.root)


def test_whose_heartbeat_is_refused_is_not_fenced_and_tries_again(store: Store, faults: None) -> None:
    hand = Hand(store)

    def refuse(operation: str, path: str) -> None:
        if operation == "utime":
            raise OSError(28, "full", path)

    fsops.fault = refuse
    with pytest.raises(StorageError):
        hand.actor.beat()
    assert recovery.scan(store, mine=hand.actor)[0].state == "alive"


# -- whose taker dies too


def test_a_lost_attempt_names_who_ran_it_though_its_taker_died_as_well(store: Store) -> None:
    def run(hand: Hand) -> None:
        hand.take("a")
        hand.actor.note({"event": "start", "id": 1, "attempt": 1, "time": 5.0})

    def take_half(hand: Hand) -> None:
        fsops.fault = lambda operation, path: tools.die() if operation == "create" and "/running/" in path else None
        hand.served.recover()

    spool = os.path.dirname(store.layout.root)
    first, second = tools.dead_runner(spool, run), tools.dead_runner(spool, take_half)
    changes.recover(store)
    place = store.locate(1)
    assert place is not None and place.status is Status.READY
    content = store.read_job(store.path(place), 1)
    assert content is not None
    (lost,) = content.job.attempts
    assert (lost.runner, lost.host, lost.start_time) == (first, processes.host_name(), 5.0)
    assert str(lost.evidence).startswith(f"{second} had taken it for dead, and died before it was through: process ")


# -- who is declared dead before it has begun


def at_call(number: int, do: Callable[[], None]) -> None:
    """Before the n-th call from now on."""
    calls = itertools.count(1)

    def fault(_operation: str, _path: str) -> None:
        if next(calls) == number:
            fsops.fault = None
            do()

    fsops.fault = fault


def leaves_nothing(store: Store, name: str) -> bool:
    return name not in store.owner_directories() and name not in fsops.names(store.layout.runners)


def test_who_is_declared_dead_while_it_begins_is_fenced_and_leaves_nothing(store: Store, faults: None) -> None:
    for number in itertools.count(2):  # the first call makes the name known
        record = identity(new_name())
        at_call(number, lambda name=record.name: changes.recover(store, said_dead=[name]))  # type: ignore[misc]
        try:
            actor = Actor.born(store, record)
        except Fenced:
            assert leaves_nothing(store, record.name)
            continue
        break
    assert fsops.fault is not None and number > 7
    fsops.fault = None
    assert actor.retire()
    assert not repair.look(store)


def test_a_birth_that_the_filesystem_refused_goes_on_unless_it_was_declared_dead_meanwhile(
    store: Store, faults: None
) -> None:
    def refuse() -> None:
        raise OSError(28, "full")

    for number in itertools.count(2):
        for is_taken in (False, True):
            served = Served(store, identity(new_name()), directories=None)
            at_call(number, refuse)
            with contextlib.suppress(StorageError):
                served.owner()
            if fsops.fault is not None:
                assert number > 7
                return
            if is_taken:
                changes.recover(store, said_dead=[served.record.name])
                with pytest.raises(Fenced):
                    served.owner()
                assert leaves_nothing(store, served.record.name)
            else:
                assert served.owner().retire()
            assert not repair.look(store)


# -- who judges


def other_is(store: Store, mine: Actor | None = None) -> str:
    found = recovery.scan(store, mine=mine)
    return next(owner.state for owner in found if owner.record and owner.record.host == "elsewhere")


def test_a_runner_that_was_away_does_not_judge_the_silence_of_others(store: Store) -> None:
    hand, _ = frozen(store)
    clock, mine = Clock(), Actor.born(store, identity(new_name()))
    mine.lease = Lease(240.0, clock=clock)
    mine.beat()
    assert other_is(store, mine) == "dead"
    clock.now += 300  # the file server was away, for all
    mine.beat()
    assert other_is(store, mine) == "alive"
    clock.now += 121
    assert other_is(store, mine) == "dead"
    hand.actor.beat()
    clock.now += 2
    assert other_is(store, mine) == "alive"


def test_who_may_not_write_decides_nothing_by_its_own_clock(
    store: Store, faults: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen(store)

    def refuse(operation: str, path: str) -> None:
        if operation == "utime":
            raise OSError(13, "not permitted", path)

    fsops.fault = refuse
    (owner,) = recovery.scan(store)
    assert (owner.evidence, owner.state) == (None, "silent")
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert owners.dead(recovery.scan(store)) == []


def test_the_clocks_of_hosts_do_not_matter(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = Hand(store, record=elsewhere(started=1e12))
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert owners.dead(recovery.scan(store)) == []
    silence(hand, 241)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert [owner.name for owner in owners.dead(recovery.scan(store))] == [hand.name]


# -- what is refused for one holds up nobody else


@pytest.mark.parametrize("error", [5, 28, 122])
def test_a_job_that_cannot_be_read_holds_up_itself_alone(store: Store, faults: None, error: int) -> None:
    hand, _ = frozen(store)
    second = Hand(store, record=elsewhere())
    silence(second, 1000)

    def refuse(operation: str, path: str) -> None:
        if operation == "open" and "-000000001." in path and "/running/" in path:
            raise OSError(error, "refused", path)

    fsops.fault = refuse
    taker = Hand(store)
    with pytest.raises(StorageError, match="cannot open"):
        taker.served.recover()
    assert tools.states(store.layout.root)["b"] is Status.READY
    assert {owner.name for owner in recovery.taken_owners(store)} == {hand.name, second.name}
    assert taker.actor.taking, "it does not retire before it has finished this"
    fsops.fault = None
    taker.work()
    assert set(tools.states(store.layout.root).values()) == {Status.COMPLETED}
    tools.check_invariants(store.layout.root)


def test_a_record_that_cannot_be_read_holds_up_nobody_else(store: Store, faults: None) -> None:
    hand, _ = frozen(store)
    unreadable = Hand(store, record=elsewhere())

    def refuse(operation: str, path: str) -> None:
        if operation == "open" and unreadable.name in path:
            raise OSError(5, "broken", path)

    fsops.fault = refuse
    assert [owner.name for owner in owners.dead(recovery.scan(store))] == [hand.name]


def test_the_decision_on_each_job_is_kept_with_the_evidence(store: Store) -> None:
    hand, _ = frozen(store)
    taker = Hand(store)
    taker.served.recover()
    (taken,) = recovery.taken_owners(store)
    assert taken.end is not None
    assert taken.end.recovered_by == taker.name
    assert taken.end.evidence == "it is silent for 1000 s (its lease is 240 s)"
    assert sorted((made.id, made.attempt, made.action) for made in taken.end.decisions) == [
        (1, 1, "requeue"),
        (2, 1, "requeue"),
    ]
    assert hand.name == taken.name
