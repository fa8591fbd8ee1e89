"""The table of moves is the one in the format document: what is not documented is not allowed."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from torc_spool import lifecycle
from torc_spool.lifecycle import RULES, Move
from torc_spool.model import OUTCOMES, Status

DOCUMENT = Path(__file__).parent.parent / "docs" / "spool-format.md"

SAME, RAISED, EITHER = "the same attempt", "the next attempt", "the same attempt or a later one"
BLOCKED, READY, HELD = Status.BLOCKED, Status.READY, Status.HELD
PENDING, RUNNING, CANCELED = Status.PENDING, Status.RUNNING, Status.CANCELED
WAITING, OWNED, UNSUCCESSFUL = (BLOCKED, READY, HELD), (PENDING, RUNNING), (Status.FAILED, CANCELED, Status.TERMINATED)

# the steps of "Operations, step by step" that move a job's file
DOCUMENTED = {
    ("c1", Move.CLAIM): ([(READY, PENDING)], SAME),
    ("t2", Move.START): ([(PENDING, RUNNING)], EITHER),
    ("f3", Move.FINISH): (itertools.product(OWNED, OUTCOMES), SAME),
    ("r1", Move.RELEASE): ([(BLOCKED, READY)], SAME),
    ("k1", Move.CASCADE): ([(BLOCKED, CANCELED)], SAME),
    ("w1", Move.REVIVE): ([(CANCELED, BLOCKED)], RAISED),
    ("w2", Move.WAIT_ANEW): ([(BLOCKED, BLOCKED), (HELD, HELD)], RAISED),
    ("n1", Move.CANCEL): (itertools.product(WAITING, [CANCELED]), SAME),
    ("h1", Move.HOLD): ([(BLOCKED, HELD), (READY, HELD)], SAME),
    ("h1", Move.UNHOLD): ([(HELD, READY), (HELD, BLOCKED)], SAME),
    ("h1", Move.PRIORITY): ([(BLOCKED, BLOCKED), (READY, READY), (HELD, HELD)], SAME),
    ("y1", Move.RETRY): (itertools.product(UNSUCCESSFUL, [READY, BLOCKED]), RAISED),
    ("z2", Move.RECALL): (itertools.product(OUTCOMES, [RUNNING]), SAME),
    ("z4", Move.WAIT_AGAIN): ([(READY, BLOCKED)], RAISED),
    ("z9", Move.REDEFINE): ([(state, state) for state in (*WAITING, CANCELED)], SAME),
    ("v6", Move.TAKE): ([(PENDING, PENDING), (RUNNING, RUNNING)], SAME),
    ("v10", Move.GIVE): (itertools.product(OWNED, [READY, BLOCKED]), RAISED),
}
ALLOWED = {
    move: (frozenset(pairs), RAISED if attempts == RAISED else EITHER)
    for (_, move), (pairs, attempts) in DOCUMENTED.items()
}


def is_allowed(move: Move, source: Status, target: Status, attempt: int, new_attempt: int) -> bool:
    try:
        lifecycle.check(move, source, target, attempt, new_attempt)
    except ValueError:
        return False
    return True


def test_every_move_is_a_documented_step() -> None:
    assert set(ALLOWED) == set(Move) == set(RULES)
    text = DOCUMENT.read_text(encoding="utf-8")
    operations = text[text.index("## Operations, step by step") : text.index("## What a crash leaves")]
    assert {step for step, _ in DOCUMENTED} <= set(re.findall(r"\*\*([a-z][0-9]+)\*\*", operations))


@pytest.mark.parametrize("move", list(Move), ids=str)
@pytest.mark.parametrize("source", list(Status), ids=str)
def test_a_move_goes_exactly_where_its_step_says(move: Move, source: Status) -> None:
    pairs, _ = ALLOWED[move]
    assert {target for target in Status if is_allowed(move, source, target, 1, 2)} == {
        target for target in Status if (source, target) in pairs
    }


@pytest.mark.parametrize("move", list(Move), ids=str)
def test_a_move_keeps_or_raises_the_attempt_as_its_step_says(move: Move) -> None:
    pairs, attempts = ALLOWED[move]
    for source, target in pairs:
        assert is_allowed(move, source, target, 3, 3) == (attempts == EITHER)
        assert is_allowed(move, source, target, 3, 4)
        assert not is_allowed(move, source, target, 3, 2)


def test_every_return_after_a_claim_or_an_outcome_raises_the_attempt() -> None:
    for move, source, target in itertools.product(Move, (*OWNED, *OUTCOMES), (BLOCKED, READY)):
        assert not is_allowed(move, source, target, 1, 1)


def test_only_retry_revival_and_what_runs_all_again_change_an_outcome() -> None:
    leaving = {
        move
        for move, source, target in itertools.product(Move, OUTCOMES, Status)
        if source is not target and is_allowed(move, source, target, 1, 2)
    }
    assert leaving == {Move.RETRY, Move.REVIVE, Move.RECALL}


def test_what_completed_stays_so_until_all_that_follows_is_run_again() -> None:
    for move, target in itertools.product(Move, Status):
        allowed = is_allowed(move, Status.COMPLETED, target, 1, 1)
        assert allowed == (move is Move.RECALL and target is RUNNING)


def test_every_state_can_be_reached_and_left() -> None:
    pairs = {pair for pairs, _ in ALLOWED.values() for pair in pairs}
    assert {target for source, target in pairs if source is not target} == set(Status)
    assert {source for source, target in pairs if source is not target} == set(Status)


def test_a_move_that_is_refused_says_from_where_to_where() -> None:
    with pytest.raises(ValueError, match=r"^claim: blocked \(attempt 1\) -> pending \(attempt 1\)$"):
        lifecycle.check(Move.CLAIM, BLOCKED, PENDING, 1, 1)
