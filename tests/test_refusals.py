"""What the filesystem refuses once, at whatever call, costs time and nothing else: a recovery is finished."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import spooltools as tools
from spooltools import Hand, Wanted

from torc_spool import fsops, recovery
from torc_spool.actor import identity, new_name
from torc_spool.errors import Fenced, StorageError
from torc_spool.model import Status

ERRORS = {"ESTALE": errno.ESTALE, "EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EDQUOT": errno.EDQUOT}
errors = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
TRIES = 5


@pytest.fixture(autouse=True)
def faults() -> Iterator[None]:
    yield
    fsops.fault = None


class Refusal:
    """Refuses the n-th call, and counts them."""

    def __init__(self, at: int, error: int) -> None:
        self.at, self.error, self.calls = at, error, 0

    def __call__(self, _operation: str, path: str) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise OSError(self.error, "refused", path)


def dead_runner(base: Path) -> tuple[str, str]:
    """Of another host, silent for long: a has its result and is not shown, b ran, c was claimed, d waits for a."""
    spool = str(base)
    jobs = {"a": Wanted(), "b": Wanted(), "c": Wanted(), "d": Wanted(after=("a",))}
    tools.submit(spool, tools.workflow(jobs))
    there = msgspec.structs.replace(identity(new_name()), host="elsewhere", boot_id="another", pid_namespace="pid:[9]")
    hand = Hand(tools.open_workflow(spool), record=there)
    hand.take("a", "b")
    assert hand.record_result(1, Status.COMPLETED)
    os.utime(f"{hand.actor.directory}/heartbeat", (0, 0))
    return spool, hand.name


def tried(act: Callable[[], object]) -> bool:
    """Again until it is not refused. False when it was taken for fenced: its own directory was said to be gone."""
    for _ in range(TRIES):
        try:
            act()
        except StorageError:
            continue
        except Fenced:
            return False
        return True
    raise AssertionError(f"refused {TRIES} times")


@errors
def test_a_recovery_that_is_refused_anything_once_is_finished_all_the_same(tmp_path: Path, error: int) -> None:
    at = most = 0
    while at <= most:  # at first nothing is refused
        spool, dead = dead_runner(tmp_path / str(at))
        taker = Hand(tools.open_workflow(spool))
        fsops.fault = refusal = Refusal(at, error)
        lives = tried(lambda: taker.served.recover())  # noqa: B023
        fsops.fault = None
        most, at = max(most, refusal.calls), at + 1
        store, where = taker.store, f"call {refusal.at}"
        if lives:
            taker.work()
        else:
            other = Hand(store)
            recovery.recover(store, lambda: other.actor, said_dead=[taker.name])  # noqa: B023
            other.work()
        tree = tools.check_invariants(store.layout.root)
        attempts = {seen.content["name"]: seen.attempts for (seen,) in tree.jobs.values()}
        assert {seen.status for (seen,) in tree.jobs.values()} == {Status.COMPLETED}, where
        assert attempts["a"] == [(1, "completed")], f"{where}: a result that is recorded holds"
        assert attempts["b"] == [(1, None), (2, "completed")], where
        assert attempts["c"][-1][1] == "completed", where
        if lives:
            (end,) = [owner.end for owner in recovery.taken_owners(store) if owner.name == dead]
            assert end is not None, where
            assert "silent" in (end.evidence or ""), where
    assert most > 30
