"""A spool that is away for a moment, as when its server starts anew: nobody is fenced by that, nothing is given up."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import spooltools as tools
from cliutil import Lab, wait_until
from cliutil import lab as lab
from spooltools import Hand, Wanted

from torc_spool import fsops, recovery
from torc_spool.capacity import Capacity
from torc_spool.errors import Fenced, StorageError
from torc_spool.model import Status
from torc_spool.options import Options
from torc_spool.runner import Runner
from torc_spool.spool import Spool


def not_there(spool: Path) -> None:
    spool.rename(spool.with_name("away"))


def an_empty_mount_point(spool: Path) -> None:
    not_there(spool)
    spool.mkdir()


def all_stale(_spool: Path) -> None:
    def stale(_operation: str, path: str) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)

    fsops.fault = stale


def come_back(spool: Path) -> None:
    fsops.fault = None
    away = spool.with_name("away")
    if away.exists():
        if spool.exists():
            spool.rmdir()
        away.rename(spool)


@pytest.fixture
def hand(tmp_path: Path) -> Hand:
    """A runner in whose hands one job runs."""
    spool = str(tmp_path / "spool")
    tools.submit(spool, tools.workflow({"j1": Wanted(), "j2": Wanted()}))
    hand = Hand(tools.open_workflow(spool))
    hand.take("j1")
    return hand


@pytest.mark.parametrize("leave", [not_there, an_empty_mount_point, all_stale])
def test_who_finds_nothing_tries_again_and_records_what_it_has(
    tmp_path: Path, hand: Hand, leave: Callable[[Path], None]
) -> None:
    """It was taken for fenced, and what it ran was killed."""
    spool = tmp_path / "spool"
    leave(spool)
    try:
        for step in (
            hand.actor.beat,
            lambda: hand.record_result(1, Status.COMPLETED),
            lambda: hand.actor.show(hand.running[1][0], Status.COMPLETED),
            hand.actor.holds,
            hand.store.exists,
        ):
            with pytest.raises(StorageError):
                step()
    finally:
        come_back(spool)
    hand.actor.beat()
    assert hand.record_result(1, Status.COMPLETED)
    assert hand.show(1, Status.COMPLETED)
    tools.check_invariants(hand.store.layout.root)


def test_who_finds_nothing_for_as_long_as_its_lease_is_fenced(tmp_path: Path, hand: Hand) -> None:
    not_there(tmp_path / "spool")
    ahead = hand.actor.lease.now() + hand.actor.lease.lease_s
    hand.actor.lease.now = lambda: ahead
    with pytest.raises(Fenced):
        hand.actor.beat()


def test_whose_workflow_was_deleted_is_fenced_at_once(tmp_path: Path, hand: Hand) -> None:
    Spool(str(tmp_path / "spool")).delete(1, force=True)
    with pytest.raises(Fenced):
        hand.actor.beat()
    assert not hand.store.exists()


def test_a_directory_that_shows_nothing_since_it_is_away_has_not_been_fenced(tmp_path: Path, hand: Hand) -> None:
    """v5 to v7: who takes back looks until a listing shows no directory of the dead, and this one shows nothing."""
    taker = Hand(hand.store)
    patched = fsops.entries

    def away(path: str) -> list[str] | None:
        return None if path == hand.store.layout.running else patched(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsops, "entries", away)
        with pytest.raises(StorageError):
            recovery.recover(hand.store, lambda: taker.actor, said_dead=[hand.name])
    assert taker.served.recover()
    given = fsops.names(f"{hand.store.layout.ready}/any")
    assert sorted(name.split("-")[1] for name in given) == ["000000001.2", "000000002.2"]
    tools.check_invariants(hand.store.layout.root)


def test_a_workflow_that_cannot_be_opened_yet_is_served_later(tmp_path: Path) -> None:
    """One refusal, and a runner that stays for days never served it."""
    spool, said = str(tmp_path / "spool"), list[str]()
    for _ in range(2):
        tools.submit(spool, tools.workflow({"j1": Wanted()}))
    runner = Runner(Spool(spool), Options(Capacity(1, 100)), tell=said.append)

    def refuse(operation: str, path: str) -> None:
        if path.endswith("/2-test/workflow.json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    fsops.fault = refuse
    try:
        runner._open_workflows()
        runner._open_new_workflows()
        assert [served.id for served in runner.served] == [1]
        assert len(said) == 1, "it is said once"
    finally:
        fsops.fault = None
    runner._open_new_workflows()
    assert [served.id for served in runner.served] == [1, 2]
    assert runner.served.exit_code(fenced=False) == 0
    runner.served.abandon(ended=False, retire=True)
    runner.executor.close()


@pytest.mark.slow
def test_a_job_survives_that_the_spool_is_away(lab: Lab) -> None:
    gate = lab.gate()
    lab.submit({"name": "j1", "command": gate.wait})
    lab.submit("true")
    runner = lab.start("run", "-p", 1, "--output-dir", lab.base / "output")
    gate.await_jobs("j1")
    not_there(lab.spool)
    gate.open()
    wait_until(lambda: "results cannot be recorded yet" in runner.stderr, "it has looked")
    come_back(lab.spool)
    runner.wait()
    rows = [lab.job("j1", number) for number in (1, 2)]
    assert [(row["status"], row["attempt"]) for row in rows] == [("completed", 1)] * 2
    lab.check()
