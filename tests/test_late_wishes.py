"""Wishes to cancel an attempt that nobody obeyed, or that nobody means any more (X13, X21)."""

from __future__ import annotations

from pathlib import Path

import pytest
import spooltools as tools
from spooltools import Hand, Wanted

from torc_spool import changes, reinitialize
from torc_spool.model import Status
from torc_spool.naming import Cause, Request


def wish(spool: str, attempt: int) -> Path:
    """What a cancel of an attempt of the only job has left."""
    path = Path(tools.open_workflow(spool).layout.requests, str(Request(job=Cause(1, attempt))))
    path.touch()
    return path


@pytest.fixture
def spool(tmp_path: Path) -> str:
    tools.submit(str(tmp_path), tools.workflow({"only": Wanted()}))
    return str(tmp_path)


@pytest.mark.parametrize("was", ["started", "claimed"])
def test_who_claims_a_job_obeys_what_was_wished_of_an_attempt_that_was_lost(was: str, spool: str) -> None:
    tools.dead_runner(spool, lambda hand: hand.take(*(["only"] if was == "started" else [])))
    changes.recover(tools.open_workflow(spool))
    wish(spool, 1)  # and who took the job back died before he looked
    assert tools.drain(spool) == {"only": Status.CANCELED}
    assert tools.read(tools.open_workflow(spool).layout.root).requests == []


def test_a_wish_about_an_attempt_that_has_its_outcome_means_nothing(spool: str) -> None:
    assert tools.drain(spool, outcome_of=lambda _job, _attempt: Status.FAILED) == {"only": Status.FAILED}
    store = tools.open_workflow(spool)
    changes.retry(store)
    wish(spool, 1)
    hand = Hand(store)
    hand.take("only")  # starts
    hand.finish(1, Status.COMPLETED)
    hand.leave()


@pytest.mark.parametrize("again", ["retry", "reset-status"])
def test_what_is_left_of_an_obeyed_cancel_does_not_cancel_what_a_person_has_run_again(again: str, spool: str) -> None:
    store = tools.open_workflow(spool)
    changes.cancel(store)
    left = wish(spool, 1)
    changes.retry(store, ["only"]) if again == "retry" else reinitialize.reset_status(store)
    assert not left.exists()
    assert tools.drain(spool) == {"only": Status.COMPLETED}
