"""What is stopped: actions, and workflows that are run again."""

from __future__ import annotations

import os
from typing import Any

import spooltools as tools
from crashtools import CANCELED, COMPLETED, FIRST, SMALL, THE_END, command, hand_of, make_graph, scenario, to_the_end
from spooltools import Hand, Wanted

from torc_spool import actions, changes
from torc_spool.reinitialize import reinitialize, reset_status

# -- actions


def make_small(spool: str) -> None:
    tools.submit(spool, SMALL)


def _perform(hand: Hand) -> None:
    name = actions.listed(hand.store, "waiting")[0][1]
    mine = actions.claim(hand.store, name, hand.name)
    assert mine is not None
    assert actions.finish(hand.store, mine, 0)


def _interrupted(spool: str) -> None:
    make_small(spool)
    tools.dead_runner(
        spool, lambda hand: actions.claim(hand.store, actions.listed(hand.store, "waiting")[0][1], hand.name)
    )


def _go_on(hand: Hand) -> None:
    mine = actions.take_over(hand.store, actions.listed(hand.store, "running")[0][1], hand.name)
    assert mine is not None
    assert actions.finish(hand.store, mine, 0)


def _performed(spool: str) -> None:
    make_small(spool)
    tools.dead_runner(spool, _perform)


def action(spool: str) -> tuple[str, int | None]:
    (row, _) = actions.rows(tools.open_workflow(spool))
    return row["state"], row["performance"]


def _performed_in_the_end(spool: str) -> None:
    """By those who live; what was interrupted only once somebody has it repeated."""
    assert set(tools.drain(spool).values()) == {COMPLETED}
    if action(spool)[0] in ("interrupted", "set_aside"):
        actions.repeat(tools.open_workflow(spool), 1)
    hand = hand_of(spool)
    if action(spool)[0] == "waiting":
        _perform(hand)
    hand.leave()
    assert action(spool)[0] == "done"


def _action_set_aside(spool: str) -> None:
    make_small(spool)
    store = tools.open_workflow(spool)
    (filename,) = os.listdir(store.layout.actions_waiting)
    assert store.park(store.layout.actions_waiting, filename)


scenario("perform", _perform, make=make_small, carry_on=_performed_in_the_end)
scenario("go on with an action", _go_on, make=_interrupted, carry_on=_performed_in_the_end)
for _name, _make in {"repeat action": _performed, "make action anew": _action_set_aside}.items():
    scenario(
        _name,
        lambda store: actions.repeat(store, 1),
        make=_make,
        prepare=tools.open_workflow,
        carry_on=_performed_in_the_end,
    )
scenario(
    "rearm",
    lambda store: actions.rearm(store, {FIRST}),
    make=_performed,
    prepare=tools.open_workflow,
    carry_on=_performed_in_the_end,
)


# -- running again

CHANGED = tools.workflow(
    {
        "first": Wanted("true # in another way"),
        "second": Wanted(after=("first",)),
        "bad": Wanted(),
        "after_bad": Wanted(after=("bad",)),
        "anyway": Wanted(after=("bad",), anyway=True),
        "alone": Wanted(priority=3),
    }
)


def _ended(spool: str) -> None:
    make_graph(spool)
    to_the_end(spool)


def _half_way(spool: str) -> None:
    """The first has completed, what waits for it is ready, and one more was never run and is canceled."""
    make_graph(spool)
    tools.dead_runner(spool, lambda hand: (hand.take("first"), hand.finish(FIRST, COMPLETED)))
    store = tools.open_workflow(spool)
    changes.recover(store)
    changes.cancel(store, ["bad"])


def _reinitialized(store: Any) -> None:
    reinitialize(store, (CHANGED, tools.VERBATIM))


command("reinitialize", _reinitialized, dict.fromkeys(THE_END, COMPLETED), make=_ended)
command(
    "reinitialize half way",
    _reinitialized,
    dict.fromkeys(THE_END, COMPLETED),
    make=_half_way,
    unless=THE_END | {"bad": CANCELED},
)
command("reset status", reset_status, THE_END, make=_ended)
command("reset what failed", lambda store: reset_status(store, failed=True), THE_END, make=_ended)
