"""The table of allowed moves. A move that is not in it is a bug, whoever asks for it.

Each row is one rename of a job's file. `docs/spool-format.md` has the same table for readers.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

from torc_spool.model import OUTCOMES, UNSUCCESSFUL, Status


class Move(enum.StrEnum):
    """Why a job's file is moved."""

    CLAIM = "claim"
    START = "start"
    FINISH = "finish"
    RELEASE = "release"  # what it waits for has ended
    CASCADE = "cascade"  # what it waits for did not complete
    REVIVE = "revive"  # the attempt that canceled it has been retried
    WAIT_ANEW = "wait anew"  # what it waits for is run again
    CANCEL = "cancel"
    HOLD = "hold"
    UNHOLD = "unhold"
    RETRY = "retry"
    PRIORITY = "priority"
    RECALL = "recall"  # an outcome into the hands of who has all that follows run again
    WAIT_AGAIN = "wait again"  # what it had waited for is run again
    REDEFINE = "redefine"  # its needs are others now
    TAKE = "take"  # a dead runner's file into the taker's own directory
    GIVE = "give"  # by its owner, back to where it can be claimed


class Rule(NamedTuple):
    sources: frozenset[Status]
    targets: frozenset[Status]
    new_attempt: bool = False  # the attempt in the name must rise
    stays: bool = False  # the state must not change


_WAITING = frozenset({Status.BLOCKED, Status.READY, Status.HELD})
_OWNED = frozenset({Status.PENDING, Status.RUNNING})
_RETURN = frozenset({Status.BLOCKED, Status.READY})


def _only(*statuses: Status) -> frozenset[Status]:
    return frozenset(statuses)


RULES: Final[Mapping[Move, Rule]] = {
    Move.CLAIM: Rule(_only(Status.READY), _only(Status.PENDING)),
    Move.START: Rule(_only(Status.PENDING), _only(Status.RUNNING)),
    Move.FINISH: Rule(_OWNED, frozenset(OUTCOMES)),
    Move.RELEASE: Rule(_only(Status.BLOCKED), _only(Status.READY)),
    Move.CASCADE: Rule(_only(Status.BLOCKED), _only(Status.CANCELED)),
    Move.REVIVE: Rule(_only(Status.CANCELED), _only(Status.BLOCKED), new_attempt=True),
    Move.WAIT_ANEW: Rule(
        _only(Status.BLOCKED, Status.HELD), _only(Status.BLOCKED, Status.HELD), new_attempt=True, stays=True
    ),
    Move.CANCEL: Rule(_WAITING, _only(Status.CANCELED)),
    Move.HOLD: Rule(_RETURN, _only(Status.HELD)),
    Move.UNHOLD: Rule(_only(Status.HELD), _RETURN),
    Move.RETRY: Rule(frozenset(UNSUCCESSFUL), _RETURN, new_attempt=True),
    Move.PRIORITY: Rule(_WAITING, _WAITING, stays=True),
    Move.RECALL: Rule(frozenset(OUTCOMES), _only(Status.RUNNING)),
    Move.WAIT_AGAIN: Rule(_only(Status.READY), _only(Status.BLOCKED), new_attempt=True),
    Move.REDEFINE: Rule(_WAITING | {Status.CANCELED}, _WAITING | {Status.CANCELED}, stays=True),
    Move.TAKE: Rule(_OWNED, _OWNED, stays=True),
    Move.GIVE: Rule(_OWNED, _RETURN, new_attempt=True),
}


def check(move: Move, source: Status, target: Status, attempt: int, new_attempt: int) -> None:
    """Raises ValueError when the table does not allow this move: that is our mistake, never the user's."""
    rule = RULES[move]
    rises = new_attempt > attempt if rule.new_attempt else new_attempt >= attempt
    stays = source is target or not rule.stays
    if source not in rule.sources or target not in rule.targets or not rises or not stays:
        raise ValueError(f"{move}: {source} (attempt {attempt}) -> {target} (attempt {new_attempt})")
