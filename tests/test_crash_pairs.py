"""Two operations at the same time: another one comes in between at each call of the first."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import crashtools
import inmemory
import pytest
import spooltools as tools
from crashjobs import failed_once, set_aside, submits, two_in_dead_hands
from crashrecovery import a_dead_runner, taken_back
from crashtools import (
    ALONE,
    CANCELED,
    COMPLETED,
    FIRST,
    SMALL,
    THE_END,
    hand_of,
    job,
    make_graph,
    root,
    to_the_end,
)
from spooltools import Hand, check_invariants

from torc_spool import changes, fsops
from torc_spool.errors import NotFound
from torc_spool.model import Status
from torc_spool.settle import Settler

base, memory, quick = crashtools.base, inmemory.memory, inmemory.quick


class Pair(NamedTuple):
    """Two operations on one spool: the second takes place before the n-th call of the first, for every n."""

    make: Callable[[str], object]
    first: Callable[[str], Callable[[], object]]
    second: Callable[[str], Callable[[], object]]
    check: Callable[[str], None]


def _command(act: Callable[[Any], object]) -> Callable[[str], Callable[[], object]]:
    return lambda spool: lambda: act(tools.open_workflow(spool))


def _cancel_two(store: Any) -> None:
    changes.cancel(store, ["first", "alone"])


def _both_canceled(spool: str) -> None:
    tree = tools.read(root(spool))
    for number in (FIRST, ALONE):
        seen = tree.one(number)
        wished = f"cancel-{seen.name.id:09d}.{seen.name.attempt}" in tree.requests
        assert seen.status is CANCELED or wished, "a wish to cancel came to nothing"
    assert tools.drain(spool) == THE_END | {"first": CANCELED, "second": CANCELED, "alone": CANCELED}


def _retries(spool: str) -> Callable[[], object]:
    """A retry of `bad`, and a note whether `anyway` had to wait for something else at that moment."""

    def act() -> None:
        HAD_TO_WAIT[spool] = job(spool, 4).status is not COMPLETED
        changes.retry(tools.open_workflow(spool), ["bad"])

    return act


HAD_TO_WAIT: dict[str, bool] = {}  # by spool


def _all_complete(spool: str) -> None:
    failed, anyway = job(spool, 1), job(spool, 5)
    too_early = failed.status in tools.WAITING and anyway.status is Status.READY
    assert not (too_early and HAD_TO_WAIT[spool]), "it did not wait for the second run of what it waits for"
    assert set(tools.drain(spool).values()) == {COMPLETED}


def _one_alone(spool: str) -> None:
    check_invariants(root(spool))
    to_the_end(spool)
    assert [outcome for _, outcome in job(spool, ALONE).attempts] == [COMPLETED]


def _claims(spool: str) -> Callable[[], object]:
    hand = hand_of(spool)
    hand.served.refresh()
    return lambda: [hand.start(claimed) for claimed in hand.served.claim(tools.offer(3))]


def _all_are_held_once(spool: str) -> None:
    tree = check_invariants(root(spool))
    held = [seen for (seen,) in tree.jobs.values() if seen.status in tools.OWNED]
    assert len(held) == 3
    changes.recover(tools.open_workflow(spool), said_dead=[*tree.runners])
    to_the_end(spool)


def _by_one_who_finished(spool: str) -> Callable[[], object]:
    """A runner that knows that `bad` has failed, and finishes the other that `anyway` waits for."""
    store = tools.open_workflow(spool)
    hand = Hand(store)
    hand.served.settle()
    hand.take("slow")
    return lambda: hand.finish(4, COMPLETED)


def _a_frozen_owner(spool: str) -> None:
    make_graph(spool)
    FROZEN[spool] = hand_of(spool)
    FROZEN[spool].take("first")


FROZEN: dict[str, Hand] = {}  # by spool


def _said_dead(spool: str) -> Callable[[], object]:
    return lambda: changes.recover(tools.open_workflow(spool), said_dead=[FROZEN[spool].name])


def _finishes(spool: str) -> Callable[[], object]:
    return lambda: FROZEN[spool].finish(FIRST, COMPLETED)


def _one_outcome(spool: str) -> None:
    tree = check_invariants(root(spool))
    assert not tools.owned_by(tree, FROZEN[spool].name)
    to_the_end(spool)
    assert [outcome for _, outcome in job(spool, FIRST).attempts].count(COMPLETED) == 1


def _leaves(spool: str) -> Callable[[], object]:
    hand = FROZEN[spool] = hand_of(spool)
    return lambda: hand.actor.retire(0)


def _says_dead_if_it_is_there(spool: str) -> Callable[[], object]:
    def act() -> None:
        with contextlib.suppress(NotFound):
            _said_dead(spool)()

    return act


def _submits_one(spool: str) -> Callable[[], object]:
    return lambda: tools.submit(spool, SMALL)


PAIRS = {
    "recovery, cancel": Pair(two_in_dead_hands, _command(changes.recover), _command(_cancel_two), _both_canceled),
    "cancel, recovery": Pair(two_in_dead_hands, _command(_cancel_two), _command(changes.recover), _both_canceled),
    "recovery, recovery": Pair(
        a_dead_runner, _command(changes.recover), _command(changes.recover), lambda spool: taken_back(spool)
    ),
    "recovery, end of the frozen owner's job": Pair(_a_frozen_owner, _said_dead, _finishes, _one_outcome),
    "end of a frozen owner's job, recovery": Pair(_a_frozen_owner, _finishes, _said_dead, _one_outcome),
    "end of a runner, recovery": Pair(make_graph, _leaves, _says_dead_if_it_is_there, to_the_end),
    "retry, settle": Pair(failed_once, _retries, _command(lambda store: Settler(store).settle()), _all_complete),
    "settle, retry": Pair(failed_once, _command(lambda store: Settler(store).settle()), _retries, _all_complete),
    "end of a job, retry": Pair(failed_once, _by_one_who_finished, _retries, _all_complete),
    "make anew, make anew": Pair(
        set_aside,
        _command(lambda store: changes.retry(store, ["alone"])),
        _command(lambda store: changes.retry(store, ["alone"])),
        _one_alone,
    ),
    "make anew, make anew and run": Pair(
        set_aside,
        _command(lambda store: changes.retry(store, ["alone"])),
        lambda spool: lambda: (changes.retry(tools.open_workflow(spool), ["alone"]), tools.drain(spool)),
        _one_alone,
    ),
    "claim, claim": Pair(make_graph, _claims, _claims, _all_are_held_once),
    "hold, claim": Pair(
        make_graph, _command(lambda store: changes.hold(store, ["first"])), _claims, lambda spool: _let_go(spool)
    ),
    "claim, priority": Pair(
        make_graph,
        _claims,
        _command(lambda store: changes.set_priority(store, ["alone"], 7)),
        lambda spool: _let_go(spool),
    ),
    "submit, submit": Pair(submits, _submits_one, _submits_one, lambda spool: _ids_are(tools.check_spool(spool), 3)),
}


def _let_go(spool: str) -> None:
    tree = check_invariants(root(spool))
    changes.recover(tools.open_workflow(spool), said_dead=[*tree.runners])
    changes.release(tools.open_workflow(spool))
    to_the_end(spool)


def _ids_are(ids: list[int], count: int) -> None:
    assert len(set(ids)) == count, "I9"


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_another_operation_before_each_call(name: str, base: Path) -> None:
    """Whoever comes in between at any call: no job is lost or doubled, and no wish either."""
    pair = PAIRS[name]
    template = str(base / "made")
    if pair.make is not _a_frozen_owner:
        pair.make(template)
    for n in itertools.count(1):
        spool = str(base / f"n{n}")
        if pair.make is _a_frozen_owner:
            pair.make(spool)
        else:
            tools.copy_tree(template, spool)
        came = in_between(pair.first(spool), pair.second(spool), n)
        if not came:
            break
        pair.check(spool)
        shutil.rmtree(spool)
    assert n > 1


def in_between(first: Callable[[], object], second: Callable[[], object], n: int) -> bool:
    """Do the second before the n-th call of the first; False when there are not so many."""
    calls = 0

    def interrupt(_operation: str, _path: str) -> None:
        nonlocal calls
        calls += 1
        if calls == n:
            with contextlib.suppress(tools.Fenced):
                second()

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(tools.Fenced):
        patch.setattr(fsops, "fault", interrupt)
        first()
    return calls >= n
