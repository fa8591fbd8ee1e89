"""What is stopped: submitting, claiming, running and changing jobs, and runners that end."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
import spooltools as tools
from crashtools import (
    ALONE,
    BAD,
    CANCELED,
    COMPLETED,
    FAILED,
    FIRST,
    ONCE,
    SMALL,
    THE_END,
    command,
    hand_of,
    job,
    make_graph,
    root,
    scenario,
    to_the_end,
)
from spooltools import Fault, Hand

from torc_spool import changes, fsops, naming
from torc_spool.actor import Actor, identity, new_name
from torc_spool.errors import NotFound
from torc_spool.model import FailureHandler, Rule, Status
from torc_spool.naming import Cause, Request
from torc_spool.settle import Settler
from torc_spool.spool import Spool


def submits(spool: str) -> None:
    """X1, X2: a spool with a workflow, and remains of a submit and a delete that were killed."""
    tools.submit(spool, SMALL)
    killed = Fault(1, when=lambda _operation, path: path.endswith("/workflow.json"))
    assert tools.in_child(lambda: spool, lambda _: tools.submit(spool, SMALL), killed).how == "killed"
    os.makedirs(f"{spool}/.trash/7-deleted/done")


def _next_submit(spool: str) -> None:
    published = tools.check_spool(spool)
    assert published[0] == 1
    assert len(published) <= 2
    mine = tools.submit(spool, SMALL)
    assert mine > max(published), "I9"
    assert os.listdir(f"{spool}/.staging") == os.listdir(f"{spool}/.trash") == []
    assert tools.check_spool(spool) == [*published, mine]
    for workflow in published[1:]:
        assert set(tools.drain(spool, workflow).values()) == {COMPLETED}


scenario(
    "submit",
    lambda spool: tools.submit(spool, SMALL),
    make=submits,
    prepare=lambda spool: spool,
    carry_on=_next_submit,
)
scenario(
    "first submit",
    lambda spool: tools.submit(f"{spool}/new", SMALL),
    make=os.mkdir,
    prepare=lambda spool: spool,
    carry_on=lambda spool: tools.submit(f"{spool}/new", SMALL) and tools.check_spool(f"{spool}/new"),
)
scenario("birth", lambda store: Actor.born(store, identity(new_name())), prepare=tools.open_workflow)
scenario("claim", lambda hand: hand.served.claim(tools.offer(3)))


def _claimed(spool: str) -> Hand:
    hand = hand_of(spool)
    hand.take()
    return hand


def _start(hand: Hand) -> None:
    for filename in sorted(os.listdir(hand.actor.pending)):
        name = naming.parse_job(filename)
        content = hand.actor.load(filename, name.id)
        assert content is not None
        hand.actor.start(filename, name, content)


def _started(spool: str) -> Hand:
    hand = hand_of(spool)
    hand.served.settle()
    hand.take("first", "bad", "alone")
    return hand


def _finish(hand: Hand) -> None:
    """Three results: the first in a new file, the others in old ones; and what follows from them."""
    hand.finish(FIRST, COMPLETED)
    hand.finish(BAD, FAILED)
    hand.finish(ALONE, COMPLETED)


scenario("start", _start, prepare=_claimed)
scenario("finish", _finish, prepare=_started)
scenario("give back", lambda hand: [_give_back(hand, job) for job in list(hand.running)], prepare=_started)


def _give_back(hand: Hand, job: int) -> None:
    filename, name, claimed = hand.running.pop(job)
    hand.actor.give_back(filename, name, claimed.content.job)


def _unsettled(spool: str) -> None:
    """Outcomes are shown, nothing that must follow has been done."""
    make_graph(spool)
    tools.dead_runner(spool, _show_two)


def _show_two(hand: Hand) -> None:
    hand.take("first", "bad")
    for number, outcome in ((FIRST, COMPLETED), (BAD, FAILED)):
        hand.record_result(number, outcome)
        hand.show(number, outcome)


scenario("settle", lambda store: Settler(store).settle(), make=_unsettled, prepare=tools.open_workflow)


def failed_once(spool: str) -> None:
    """A failed job, and two that were canceled because of it; `anyway` waits for one more."""
    tools.submit(spool, ONCE)
    tools.dead_runner(spool, _fail_the_first)
    changes.recover(tools.open_workflow(spool))


def _fail_the_first(hand: Hand) -> None:
    hand.served.settle()
    (claimed,) = hand.claim(1)
    hand.start(claimed)
    hand.finish(1, FAILED)


command(
    "retry",
    lambda store: changes.retry(store, ["bad"]),
    dict.fromkeys(("bad", "after_bad", "last", "slow", "anyway"), COMPLETED),
    make=failed_once,
    unless={"bad": FAILED, "after_bad": CANCELED, "last": CANCELED, "slow": COMPLETED, "anyway": COMPLETED},
)
command(
    "cancel waiting",
    lambda store: changes.cancel(store, ["first", "bad", "second"]),
    THE_END | {"first": CANCELED, "second": CANCELED, "bad": CANCELED},
)


def two_in_dead_hands(spool: str) -> None:
    make_graph(spool)
    tools.dead_runner(spool, lambda hand: hand.take("first"))


command(
    "cancel held by a runner",
    lambda store: changes.cancel(store, ["first", "alone"]),
    THE_END | {"first": CANCELED, "second": CANCELED, "alone": CANCELED},
    make=two_in_dead_hands,
)


def _asked(spool: str) -> Hand:
    hand = _started(spool)
    changes.cancel(hand.store, ["first"])
    return hand


def _obeyed_in_the_end(spool: str) -> None:
    assert tools.drain(spool) == THE_END | {"first": CANCELED, "second": CANCELED}
    assert tools.read(root(spool)).requests == [], "X13"


scenario("obey", lambda hand: hand.finish(FIRST, CANCELED), prepare=_asked, carry_on=_obeyed_in_the_end)
command(
    "hold",
    lambda store: changes.hold(store, ["first", "bad"]),
    THE_END
    | {
        "first": Status.HELD,
        "second": Status.BLOCKED,
        "bad": Status.HELD,
        "after_bad": Status.BLOCKED,
        "anyway": Status.BLOCKED,
    },
)


def _running_once(spool: str) -> Hand:
    hand = hand_of(spool)
    hand.served.settle()
    hand.take("bad", "slow")
    return hand


def _run_again(spool: str) -> None:
    was = job(spool, 1)
    final = tools.drain(spool)
    assert final == dict.fromkeys(("bad", "after_bad", "last", "slow", "anyway"), COMPLETED)
    assert was.name.attempt == 2 or was.status is Status.RUNNING, "a failure that is to be retried is never shown"
    first = [(1, FAILED)] if (1, FAILED) in was.attempts else [(1, None)]
    assert job(spool, 1).attempts == [*first, (2, COMPLETED)], "no attempt is lost once its result is recorded"


def _running_unwanted(spool: str) -> Hand:
    hand = _running_once(spool)
    changes.cancel(hand.store, ["bad"])
    return hand


def _never_run_again(spool: str) -> None:
    final = tools.drain(spool)
    assert final == dict.fromkeys(("bad", "after_bad", "last"), CANCELED) | {"slow": COMPLETED, "anyway": COMPLETED}
    assert [number for number, _ in job(spool, 1).attempts] in ([], [1])
    assert tools.read(root(spool)).requests == []


def _make_once(spool: str) -> None:
    tools.submit(spool, ONCE)


scenario("retry by a handler", lambda hand: hand.retry(1), make=_make_once, prepare=_running_once, carry_on=_run_again)
scenario(
    "unwanted retry",
    lambda hand: hand.retry(1),
    make=_make_once,
    prepare=_running_unwanted,
    carry_on=_never_run_again,
)
scenario(
    "unwanted give back",
    lambda hand: _give_back(hand, 1),
    make=_make_once,
    prepare=_running_unwanted,
    carry_on=_never_run_again,
)


def _to_be_retried(spool: str) -> None:
    """A dead runner, with the result of a job that is to be run again, and of one that nobody wants any more."""
    _make_once(spool)
    tools.dead_runner(spool, _die_before_the_retry)
    store = tools.open_workflow(spool)
    assert fsops.create(f"{store.layout.requests}/{Request(job=Cause(4, 1))}")


def _die_before_the_retry(hand: Hand) -> None:
    hand.served.settle()
    hand.take("bad", "slow")
    for number in (1, 4):
        filename, name, claimed = hand.running[number]
        failed = msgspec.structs.replace(tools.result(hand.name, name.attempt, FAILED), retry_rule=1)
        assert hand.actor.record_result(filename, claimed.content, failed)


def _retried_by_a_taker(spool: str) -> None:
    final = tools.drain(spool)
    assert final == dict.fromkeys(("bad", "after_bad", "last", "anyway"), COMPLETED) | {"slow": CANCELED}
    assert job(spool, 1).attempts == [(1, FAILED), (2, COMPLETED)]
    assert job(spool, 4).attempts == [(1, FAILED)]
    assert tools.read(root(spool)).requests == []


scenario(
    "recovery of a retry",
    lambda store: changes.recover(store),
    make=_to_be_retried,
    prepare=tools.open_workflow,
    carry_on=_retried_by_a_taker,
)


def given_by_one_who_was_fenced(spool: str) -> None:
    """What an NFS client can still do before v7: its result is written where the job was already taken from, and that
    file is given back (f3'). So there are two: the taker's, and a later attempt in ready."""
    handlers = (FailureHandler(name="again", rules=(Rule(match_all_exit_codes=True),)),)
    tools.submit(spool, msgspec.structs.replace(ONCE, failure_handlers=handlers))
    tools.dead_runner(spool, _leave_two_files)


def _leave_two_files(hand: Hand) -> None:
    hand.take("bad")
    path = f"{hand.actor.running}/{hand.running[1][0]}"
    taken = Path(path).read_bytes()
    assert hand.retry(1)
    Path(path).write_bytes(taken)


def _held(spool: str) -> None:
    make_graph(spool)
    changes.hold(tools.open_workflow(spool), ["first", "second", "bad"])


def _all_let_go(spool: str) -> None:
    changes.release(tools.open_workflow(spool))
    to_the_end(spool)


scenario("release", changes.release, make=_held, prepare=tools.open_workflow, carry_on=_all_let_go)
scenario(
    "set priority",
    lambda store: changes.set_priority(store, ["first", "second", "alone"], 7),
    prepare=tools.open_workflow,
)
scenario("ask to stop", lambda hand: changes.stop_runner(hand.store, hand.name))


def _damaged(spool: str) -> None:
    make_graph(spool)
    tools.damage(tools.find(root(spool), "alone"))


def _made_anew(spool: str) -> None:
    final = tools.drain(spool)
    if "alone" not in final:
        assert ALONE in tools.read(root(spool)).evidence
        (changed,) = changes.retry(tools.open_workflow(spool), ["alone"])
        assert changed.done, changed
        final = tools.drain(spool)
    assert final == THE_END


def set_aside(spool: str) -> None:
    _damaged(spool)
    tools.drain(spool)


scenario("set aside", lambda hand: hand.served.claim(tools.offer(3)), make=_damaged, carry_on=_made_anew)
scenario(
    "make anew",
    lambda store: changes.retry(store, ["alone"]),
    make=set_aside,
    prepare=tools.open_workflow,
    carry_on=_made_anew,
)


def _through(spool: str) -> Hand:
    hand = _started(spool)
    _finish(hand)
    return hand


scenario("end of a runner", lambda hand: hand.actor.retire(0), prepare=_through)


def gone_or_whole(spool: str) -> None:
    if os.path.isdir(root(spool)):
        to_the_end(spool)
        Spool(spool).delete(1)
    with pytest.raises(NotFound):
        Spool(spool).open(1)
    assert tools.submit(spool, SMALL) == 2, "I9: an id is never used twice"
    assert os.listdir(f"{spool}/.trash") == []


scenario("delete", lambda spool: Spool(spool).delete(1), prepare=lambda spool: spool, carry_on=gone_or_whole)
