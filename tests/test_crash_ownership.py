"""Whose a job is, when its owner is dead, frozen, overruled, or somebody moved it by hand."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import crashtools
import inmemory
import pytest
import spooltools as tools
from crashjobs import failed_once, given_by_one_who_was_fenced
from crashleft import J
from crashrecovery import a_dead_runner
from crashtools import (
    ALONE,
    BAD,
    COMPLETED,
    FAILED,
    FIRST,
    SMALL,
    attempts,
    job,
    lies,
    make_graph,
    root,
    to_the_end,
)
from spooltools import READS, Hand, check_invariants

from torc_spool import changes, fsops
from torc_spool.model import Status

base, memory, quick = crashtools.base, inmemory.memory, inmemory.quick


def test_of_a_job_that_was_given_back_before_its_runner_was_fenced_the_later_attempt_counts(base: Path) -> None:
    """I1, v8."""
    spool = str(base / "spool")
    given_by_one_who_was_fenced(spool)
    tools.drain(spool)
    tree = check_invariants(root(spool))
    assert tree.one(1).attempts == [(1, FAILED), (2, COMPLETED)]
    assert tree.evidence == {1}


def test_i7_i8_nothing_is_given_away_while_a_directory_of_the_dead_is_there(base: Path) -> None:
    """I8, and I7: the living are let alone."""
    spool = str(base / "spool")
    a_dead_runner(spool)
    living = Hand(tools.open_workflow(spool))
    tools.submit(spool, SMALL)
    dead = next(name for name in tools.read(root(spool)).runners if name != living.name)
    given: list[str] = []

    def watch(operation: str, path: str) -> None:
        assert operation in READS or living.name not in path, "I7"
        if operation == "rename" and re.search(rf"/(running|pending)/[^/~]+{J}", path):
            given.append(path)
            assert not tools.owned_by(tools.read(root(spool)), dead), "I8"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsops, "fault", watch)
        steps, (owner,) = changes.recover(tools.open_workflow(spool))
    assert owner.name == dead
    assert len(given) == len(steps) == 5
    living.leave()


def test_i7_the_jobs_of_a_living_runner_stay_where_they_are(base: Path) -> None:
    spool = str(base / "spool")
    make_graph(spool)
    living = Hand(tools.open_workflow(spool))
    living.take("first")
    held = {number: job(spool, number) for number in (FIRST, BAD, ALONE)}
    tools.drain(spool)
    assert {number: job(spool, number) for number in held} == held
    living.leave()


STEPS_OF_A_FROZEN_OWNER: dict[str, Callable[[Hand], object]] = {
    "claim": lambda hand: hand.claim(1),
    "start": lambda hand: _start_again(hand),
    "record": lambda hand: hand.record_result(FIRST, COMPLETED),
    "show": lambda hand: hand.actor.show(hand.running[FIRST][0], COMPLETED),
    "beat": lambda hand: hand.actor.beat(),
}


def _start_again(hand: Hand) -> None:
    filename = hand.running[ALONE][0]
    hand.actor.start(filename, hand.running[ALONE][1], hand.running[ALONE][2].content)


@pytest.mark.parametrize("step", STEPS_OF_A_FROZEN_OWNER)
@pytest.mark.parametrize("recorded", [False, True], ids=["unrecorded", "recorded"])
def test_a_frozen_owner_that_wakes_after_it_was_fenced_changes_nothing(step: str, recorded: bool, base: Path) -> None:
    """I7, I8: the new owner's jobs are out of the old one's reach."""
    spool = str(base / "spool")
    make_graph(spool)
    frozen = Hand(tools.open_workflow(spool))
    frozen.take("first", "alone")
    if recorded:
        frozen.record_result(FIRST, COMPLETED)
    changes.recover(frozen.store, said_dead=[frozen.name])
    before = tools.read(root(spool))
    with contextlib.suppress(tools.Fenced):
        STEPS_OF_A_FROZEN_OWNER[step](frozen)
        pytest.fail("it was not told that it is fenced")
    assert tools.read(root(spool)) == before
    to_the_end(spool)
    assert job(spool, FIRST).attempts == ([(1, COMPLETED)] if recorded else [(1, None), (2, COMPLETED)])


@pytest.mark.parametrize("status", ["running", "pending"])
def test_a_taker_that_was_overruled_and_lives_hides_no_jobs(
    status: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I8: it may still rename a directory from under who overruled it; that one looks again."""
    spool = str(base / "spool")
    make_graph(spool)
    dead = Hand(tools.open_workflow(spool))
    dead.take("first", "alone") if status == "running" else dead.claim(ALONE)
    overruled = Hand(tools.open_workflow(spool))
    taken = f"{overruled.actor.directory}/taken"
    os.mkdir(taken)
    os.rename(dead.actor.directory, f"{taken}/{dead.name}")
    stolen: list[str] = []

    def steal(_operation: str, path: str) -> None:
        mine = f"{root(spool)}/{status}/{overruled.name}~{dead.name}"
        if not stolen and path != mine and path.endswith(f"~{dead.name}") and os.path.isdir(path):
            stolen.append(path)
            os.rename(path, mine)

    monkeypatch.setattr(fsops, "fault", steal)
    changes.recover(overruled.store, said_dead=[overruled.name])
    assert len(stolen) == 1
    monkeypatch.undo()
    assert os.listdir(f"{root(spool)}/{status}") == []
    to_the_end(spool)


# -- returns by hand that keep the old attempt


def _back_by_hand(spool: str) -> None:
    failed_once(spool)
    failed = tools.find(root(spool), "bad")
    os.rename(failed, failed.replace("/done/failed/", "/ready/any/"))


def test_a_job_that_was_moved_back_by_hand_runs_again_as_a_new_attempt(base: Path) -> None:
    spool = str(base / "spool")
    _back_by_hand(spool)
    assert set(tools.drain(spool).values()) == {COMPLETED}
    attempts(1, (1, FAILED), (2, COMPLETED))(spool)


def test_a_job_that_was_moved_back_by_hand_and_claimed_by_one_who_died_runs_again(base: Path) -> None:
    """X4: what it holds is the result of its earlier run, not of the one that was lost."""
    spool = str(base / "spool")
    _back_by_hand(spool)
    tools.dead_runner(spool, lambda hand: hand.take())
    lies(1, Status.PENDING)(spool)
    assert set(tools.drain(spool).values()) == {COMPLETED}
    attempts(1, (1, FAILED), (2, COMPLETED))(spool)
