"""Death and refusal at every call: each operation of `docs/spool-format.md` is stopped at each of its calls.

A child does the operation and is killed there, so that nothing that it could still have done is done. Then the
invariants hold, and the next runner carries on to the end that the workflow would have had anyway (I11). The rows of
the crash table (X1 to X19) are taken one by one as well.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import spooltools as tools
from spooltools import BROKEN, FULL, READS, Do, Fault, Hand, TornWrite, Wanted, check_invariants

from torc_spool import (
    actions,
    changes,
    fsops,
    mend,
    mounts,
    naming,
    processes,
    recovery,
    scheduling,
    sickhosts,
    userdata,
)
from torc_spool.actor import Actor, identity, new_name
from torc_spool.arrival import await_turn
from torc_spool.capacity import Capacity
from torc_spool.errors import NotFound
from torc_spool.model import Attempt, FailureHandler, Resources, Rule, Status, Stdio, Trigger, UserData
from torc_spool.naming import Cause, Request
from torc_spool.recovery import RUNNER_VARIABLE, WORKFLOW_VARIABLE
from torc_spool.reinitialize import reinitialize, reset_status
from torc_spool.remedies import Terms
from torc_spool.repair import look
from torc_spool.runner import Options, Runner
from torc_spool.settle import Settler
from torc_spool.spool import Spool
from torc_spool.store import Store
from torc_spool.streak import Streak

COMPLETED, FAILED, CANCELED, TERMINATED = Status.COMPLETED, Status.FAILED, Status.CANCELED, Status.TERMINATED

GRAPH = tools.workflow(
    {
        "first": Wanted(),
        "second": Wanted(after=("first",)),
        "bad": Wanted("false"),
        "after_bad": Wanted(after=("bad",)),
        "anyway": Wanted(after=("bad",), anyway=True),
        "alone": Wanted(),
    }
)
FIRST, SECOND, BAD, AFTER_BAD, ANYWAY, ALONE = range(1, 7)
THE_END = {
    "first": COMPLETED,
    "second": COMPLETED,
    "bad": FAILED,
    "after_bad": CANCELED,
    "anyway": COMPLETED,
    "alone": COMPLETED,
}
SMALL = tools.workflow(
    {"first": Wanted(), "second": Wanted(after=("first",)), "alone": Wanted()},
    actions=(Do(Trigger.WORKFLOW_COMPLETE), Do(Trigger.WORKER_START)),
)
ONCE = tools.workflow(
    {
        "bad": Wanted("once"),
        "after_bad": Wanted(after=("bad",)),
        "last": Wanted(after=("after_bad",)),
        "slow": Wanted(),
        "anyway": Wanted(after=("bad", "slow"), anyway=True),
    }
)


def root(spool: str) -> str:
    return f"{spool}/1-test"


class Scenario(NamedTuple):
    """An operation to be stopped, on a spool that was made so, and what must come of it in the end."""

    make: Callable[[str], object]  # the spool, once
    prepare: Callable[[str], Any]  # in the child, undisturbed
    act: Callable[[Any], object]  # in the child, until it is stopped
    carry_on: Callable[[str], object]  # by those who live


SCENARIOS: dict[str, Scenario] = {}


# -- what is stopped, and how it goes on


def make_graph(spool: str) -> None:
    tools.submit(spool, GRAPH)


def to_the_end(spool: str) -> None:
    assert tools.drain(spool) == THE_END


def hand_of(spool: str) -> Hand:
    return Hand(tools.open_workflow(spool))


def scenario(
    name: str,
    act: Callable[[Any], object],
    *,
    make: Callable[[str], object] = make_graph,
    prepare: Callable[[str], Any] = hand_of,
    carry_on: Callable[[str], object] = to_the_end,
) -> None:
    SCENARIOS[name] = Scenario(make, prepare, act, carry_on)


def command(
    name: str,
    act: Callable[[Any], object],
    once: dict[str, Status],
    *,
    make: Callable[[str], object] = make_graph,
    unless: dict[str, Status] = THE_END,
) -> None:
    """A command of a person: stopped, it may have done a part; said again, it leads to the end `once` it is done."""

    def partly(spool: str) -> None:
        final = tools.drain(spool)
        assert all(state in (once[job], unless[job]) for job, state in final.items()), final

    def again(spool: str) -> None:
        act(tools.open_workflow(spool))
        assert tools.drain(spool) == once

    SCENARIOS[name] = Scenario(make, tools.open_workflow, act, partly)
    SCENARIOS[f"{name} repeated"] = Scenario(make, tools.open_workflow, act, again)


def _submits(spool: str) -> None:
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
    make=_submits,
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
    for job, outcome in ((FIRST, COMPLETED), (BAD, FAILED)):
        hand.record_result(job, outcome)
        hand.show(job, outcome)


scenario("settle", lambda store: Settler(store).settle(), make=_unsettled, prepare=tools.open_workflow)


def _failed_once(spool: str) -> None:
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
    make=_failed_once,
    unless={"bad": FAILED, "after_bad": CANCELED, "last": CANCELED, "slow": COMPLETED, "anyway": COMPLETED},
)
command(
    "cancel waiting",
    lambda store: changes.cancel(store, ["first", "bad", "second"]),
    THE_END | {"first": CANCELED, "second": CANCELED, "bad": CANCELED},
)


def _two_in_dead_hands(spool: str) -> None:
    make_graph(spool)
    tools.dead_runner(spool, lambda hand: hand.take("first"))


command(
    "cancel held by a runner",
    lambda store: changes.cancel(store, ["first", "alone"]),
    THE_END | {"first": CANCELED, "second": CANCELED, "alone": CANCELED},
    make=_two_in_dead_hands,
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
    assert [number for number, _ in job(spool, 1).attempts] == [1]
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


def _given_by_one_who_was_fenced(spool: str) -> None:
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


def test_of_a_job_that_was_given_back_before_its_runner_was_fenced_the_later_attempt_counts(base: Path) -> None:
    """I1, v8."""
    spool = str(base / "spool")
    _given_by_one_who_was_fenced(spool)
    tools.drain(spool)
    tree = check_invariants(root(spool))
    assert tree.one(1).attempts == [(1, FAILED), (2, COMPLETED)]
    assert tree.evidence == {1}


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


def _set_aside(spool: str) -> None:
    _damaged(spool)
    tools.drain(spool)


scenario("set aside", lambda hand: hand.served.claim(tools.offer(3)), make=_damaged, carry_on=_made_anew)
scenario(
    "make anew",
    lambda store: changes.retry(store, ["alone"]),
    make=_set_aside,
    prepare=tools.open_workflow,
    carry_on=_made_anew,
)


def _through(spool: str) -> Hand:
    hand = _started(spool)
    _finish(hand)
    return hand


scenario("end of a runner", lambda hand: hand.actor.retire(0), prepare=_through)


def _gone_or_whole(spool: str) -> None:
    if os.path.isdir(root(spool)):
        to_the_end(spool)
        Spool(spool).delete(1)
    with pytest.raises(NotFound):
        Spool(spool).open(1)
    assert tools.submit(spool, SMALL) == 2, "I9: an id is never used twice"
    assert os.listdir(f"{spool}/.trash") == []


scenario("delete", lambda spool: Spool(spool).delete(1), prepare=lambda spool: spool, carry_on=_gone_or_whole)


def _a_dead_runner(spool: str) -> None:
    """One of each: claimed, running, ended but not shown, to be canceled, claimed and to be canceled; half a result."""
    tools.submit(spool, DEAD)
    tools.dead_runner(spool, _die_with_one_of_each)
    store = tools.open_workflow(spool)
    for job in (4, 5):
        assert fsops.create(f"{store.layout.requests}/{Request(job=Cause(job, 1))}")


DEAD = tools.workflow(
    {
        "claimed": Wanted(),
        "running": Wanted(),
        "ended": Wanted("false"),
        "unwanted": Wanted(),
        "claimed_unwanted": Wanted(),
        "after": Wanted(after=("ended",)),
        "later": Wanted(after=("running", "claimed")),
    }
)


def _die_with_one_of_each(hand: Hand) -> None:
    hand.take("running", "ended", "unwanted")
    hand.record_result(3, FAILED)
    filename = hand.running[2][0]
    Path(f"{hand.actor.running}/.{filename}.tmp").write_bytes(b'{"id":2,"na')


def _taken_back(spool: str) -> None:
    final = tools.drain(spool)
    ended = dict.fromkeys(("claimed", "running", "later"), COMPLETED) | {"ended": FAILED}
    assert final == ended | dict.fromkeys(("unwanted", "claimed_unwanted", "after"), CANCELED)
    tree = check_invariants(root(spool))
    assert tree.one(3).attempts == [(1, FAILED)], "a result that was recorded is kept, and the job not run again"
    assert tree.one(2).attempts[0] == (1, None), "the lost attempt is noted"
    assert "is gone from" in tree.one(2).content["attempts"][0]["reason"]
    assert tree.requests == []


scenario("recovery", changes.recover, make=_a_dead_runner, prepare=tools.open_workflow, carry_on=_taken_back)


def _recover_at_the_walltime(store: Store) -> None:
    """As if Slurm had said so of the dead."""
    actor = Actor.born(store, identity(new_name(), kind="recover"))
    for owner in recovery.dead(recovery.scan(store)):
        recovery.take_back(actor, owner._replace(walltime="allocation 80 reached its walltime"))
    actor.retire()
    Settler(store).settle()


def _cut_short_or_given(spool: str) -> None:
    """Terminated, or run again where the taker died before it had noted that; the others as in any recovery."""
    final = tools.drain(spool)
    cut_short = final["running"] is TERMINATED
    ended = dict.fromkeys(("claimed", "running", "later"), COMPLETED) | {"ended": FAILED}
    ended |= {"running": TERMINATED, "later": CANCELED} if cut_short else {}
    assert final == ended | dict.fromkeys(("unwanted", "claimed_unwanted", "after"), CANCELED)
    tree = check_invariants(root(spool))
    assert tree.one(2).attempts == ([(1, TERMINATED)] if cut_short else [(1, None), (2, COMPLETED)])
    assert tree.one(3).attempts == [(1, FAILED)]
    assert tree.requests == []


scenario(
    "recovery at the walltime",
    _recover_at_the_walltime,
    make=_a_dead_runner,
    prepare=tools.open_workflow,
    carry_on=_cut_short_or_given,
)


def _a_runner_too_many(spool: str) -> None:
    """As the dead runner, in a workflow that gives no job to another."""
    tools.submit(spool, msgspec.structs.replace(DEAD, settings={"max_runner_deaths": 1}))
    tools.dead_runner(spool, _die_with_one_of_each)


def _given_up(spool: str) -> None:
    """Failed, also where the taker died before it had noted that: then another runner has died with the job."""
    final = tools.drain(spool)
    ended = dict.fromkeys(("claimed", "unwanted", "claimed_unwanted"), COMPLETED) | {"ended": FAILED, "after": CANCELED}
    assert final == ended | {"running": FAILED, "later": CANCELED, "unwanted": FAILED}
    tree = check_invariants(root(spool))
    assert tree.one(2).attempts == [(1, FAILED)]
    assert tree.one(2).content["attempts"][0]["reason"] == "killed its runner 1 time"


scenario(
    "recovery from a killer",
    changes.recover,
    make=_a_runner_too_many,
    prepare=tools.open_workflow,
    carry_on=_given_up,
)


def _two_failed(spool: str) -> None:
    make_small(spool)
    hand = hand_of(spool)
    hand.take("first", "alone")
    for job in (1, 3):
        hand.finish(job, FAILED, exec_s=0.0)
    hand.leave()


def _note_a_sick_host(store: Store) -> None:
    streak = Streak(2)
    for job in (1, 3):
        streak.note(1, job, Attempt(attempt=1, outcome=FAILED, exec_s=0.0))
    sickhosts.note(store, identity(new_name(), kind="runner"), streak)


def _given_back_or_failed(spool: str) -> None:
    """The note is there before any job is given back; what is not, a person retries."""
    store = tools.open_workflow(spool)
    is_given = store.snapshot()[1].status is not FAILED or store.snapshot()[3].status is not FAILED
    assert not is_given or sickhosts.notes(store)
    changes.retry(store)
    assert set(tools.drain(spool).values()) == {COMPLETED}
    assert look(store) == []


scenario(
    "note a sick host",
    _note_a_sick_host,
    make=_two_failed,
    prepare=tools.open_workflow,
    carry_on=_given_back_or_failed,
)


def _ask_for_nodes(store: Store) -> None:
    with scheduling.turn(store) as is_ours:
        assert is_ours


def _noted_once(spool: str) -> None:
    _two_failed(spool)
    _note_a_sick_host(tools.open_workflow(spool))


scenario(
    "ask for nodes",
    _ask_for_nodes,
    make=make_graph,
    prepare=tools.open_workflow,
    carry_on=lambda spool: _ask_for_nodes(tools.open_workflow(spool)),
)


scenario(
    "lift a note",
    lambda store: sickhosts.lift(store, processes.host_name()),
    make=_noted_once,
    prepare=tools.open_workflow,
    carry_on=lambda spool: None,
)


MEMORY = 64 << 20


def _out_of_memory(spool: str) -> None:
    """The first job of a small workflow has used more than its memory, the last has failed."""
    jobs = SMALL.jobs
    limited = msgspec.structs.replace(jobs[0], resources=Resources(memory_bytes=MEMORY))
    tools.submit(spool, msgspec.structs.replace(SMALL, jobs=(limited, *jobs[1:])))
    hand = hand_of(spool)
    hand.take("first", "alone")
    hand.finish(1, FAILED, cause="out_of_memory", stated_memory_bytes=MEMORY)
    hand.finish(3, FAILED)
    hand.leave()
    changes.recover(tools.open_workflow(spool))


def _mended(spool: str) -> None:
    """Whoever helped, and how often he was stopped: the job gets half as much again, once."""
    mend.recover(tools.open_workflow(spool), Terms())
    seen = check_invariants(root(spool)).one(1)
    assert seen.name.needs.memory_mib == 96
    assert seen.content["resources"]["memory_bytes"] == 96 << 20
    assert seen.attempts == [(1, FAILED)]
    assert look(tools.open_workflow(spool)) == []
    assert tools.drain(spool) == {"first": COMPLETED, "second": COMPLETED, "alone": FAILED}


scenario(
    "help what did not complete",
    lambda store: mend.recover(store, Terms()),
    make=_out_of_memory,
    prepare=tools.open_workflow,
    carry_on=_mended,
)


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


def _action(spool: str) -> tuple[str, int | None]:
    (row, _) = actions.rows(tools.open_workflow(spool))
    return row["state"], row["performance"]


def _performed_in_the_end(spool: str) -> None:
    """By those who live; what was interrupted only once somebody has it repeated."""
    assert set(tools.drain(spool).values()) == {COMPLETED}
    if _action(spool)[0] in ("interrupted", "set_aside"):
        actions.repeat(tools.open_workflow(spool), 1)
    hand = hand_of(spool)
    if _action(spool)[0] == "waiting":
        _perform(hand)
    hand.leave()
    assert _action(spool)[0] == "done"


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


# -- every call


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with tools.without_syncs_and_searches():
        yield


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with tools.directory_in_memory(tmp_path_factory.mktemp("crash")) as path:
        yield path


@pytest.fixture
def base(memory: Path) -> Path:
    """A directory of the test's own."""
    return Path(tempfile.mkdtemp(dir=memory))


@pytest.fixture(scope="module")
def made(memory: Path) -> Callable[[str], str]:
    """The spool of a scenario before anything is stopped, made once."""
    base = Path(tempfile.mkdtemp(dir=memory))
    known: dict[Callable[[str], object], str] = {}

    def make(name: str) -> str:
        recipe = SCENARIOS[name].make
        if recipe not in known:
            known[recipe] = str(base / str(len(known)))
            with tools.without_syncs_and_searches():
                recipe(known[recipe])
        return known[recipe]

    return make


def stop_at_every_call(name: str, made: str, base: Path, fault: Callable[[int], Fault]) -> int:
    """Stop an operation at its n-th call for each n; how many calls that were."""
    for n in itertools.count(1):
        ending = stop_once(name, made, str(base / f"n{n}"), fault(n))
        if ending.how != "killed" and ending.calls < n:
            return n - 1
    raise AssertionError


def stop_once(name: str, made: str, spool: str, fault: Fault) -> tools.Ending:
    stopped = SCENARIOS[name]
    tools.copy_tree(made, spool)
    before = tools.read(root(spool))
    ending = tools.in_child(lambda: stopped.prepare(spool), stopped.act, fault)
    assert ending.how != "fenced", ending
    tree = check_invariants(root(spool), before, damaged=damaged(name))
    assert odd(spool) <= ODD.get(name, set()), "what a crash leaves is no damage"
    stopped.carry_on(spool)
    check_invariants(root(spool), tree, damaged=damaged(name))
    assert not odd(spool)
    shutil.rmtree(spool)
    return ending


ODD = {"set aside": {"damaged"}, "make anew": {"damaged"}, "make action anew": {"temporary"}}


def odd(spool: str) -> set[str]:
    """The kinds of what a check finds, where there is a whole workflow."""
    if not os.path.exists(f"{root(spool)}/workflow.json"):
        return set()
    return {finding.kind for finding in look(Spool(spool).open(1))}


def damaged(name: str) -> tuple[int, ...]:
    return (ALONE,) if name in ("set aside", "make anew") else ()


def changes_something(operation: str, _path: str) -> bool:
    return operation not in READS


LONG = {name for name in SCENARIOS if name.startswith(("recovery ", "reinitialize", "reset", "first submit"))}
"""Those with very many calls, which are tried out with the slow tests: there each is also killed before every call."""


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in LONG])
def test_killed_before_each_call_that_changes_something(name: str, made: Callable[[str], str], base: Path) -> None:
    """Between two of these calls the disk stays as it is, so that this is death at any moment."""
    calls = stop_at_every_call(name, made(name), base, lambda n: Fault(n, when=changes_something))
    assert calls >= 1


@pytest.mark.parametrize("name", [pytest.param(each, marks=[pytest.mark.slow] * (each in LONG)) for each in SCENARIOS])
def test_refused_each_call_that_changes_something_by_a_full_disk(
    name: str, made: Callable[[str], str], base: Path
) -> None:
    """It comes out as a StorageError, if at all, and nothing is done by halves."""
    stop_at_every_call(name, made(name), base, lambda n: Fault(n, error=FULL, when=changes_something))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_before_each_call(name: str, made: Callable[[str], str], base: Path) -> None:
    stop_at_every_call(name, made(name), base, Fault)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_refused_each_call_by_a_broken_disk(name: str, made: Callable[[str], str], base: Path) -> None:
    stop_at_every_call(name, made(name), base, lambda n: Fault(n, error=BROKEN))


@pytest.mark.parametrize("error", [None, FULL], ids=["killed", "full"])
@pytest.mark.parametrize(
    "name", ["first submit", "birth", "finish", "recovery", "make anew", "make action anew", "end of a runner"]
)
def test_stopped_in_the_middle_of_each_content(
    name: str, error: int | None, made: Callable[[str], str], base: Path
) -> None:
    calls = stop_at_every_call(name, made(name), base, lambda n: TornWrite(n, error=error))
    assert calls >= 1


# -- recovery, again and again


def _recover_and_die(spool: str, n: int) -> bool:
    """A taker that is killed before its n-th change; False when it lived to the end."""
    fault = Fault(n, when=changes_something)
    return tools.in_child(lambda: tools.open_workflow(spool), changes.recover, fault).how == "killed"


def takers_that_die(made: str, spool: str, deaths: tuple[int, ...]) -> bool:
    tools.copy_tree(made, spool)
    tree = check_invariants(root(spool))
    all_died = True
    for n in deaths:
        all_died = _recover_and_die(spool, n) and all_died
        tree = check_invariants(root(spool), tree)
    _taken_back(spool)
    check_invariants(root(spool), tree)
    for record in Path(root(spool), "runners").rglob("taken/*"):
        assert json.loads((record / "end.json").read_bytes())["evidence"], record  # v11, of those inside too
    shutil.rmtree(spool)
    return all_died


@pytest.mark.parametrize("deaths", [(12, 12), (20, 13), (30, 21), (14, 26, 21), (22, 22, 22, 22)], ids=str)
def test_takers_die_one_after_the_other(deaths: tuple[int, ...], made: Callable[[str], str], base: Path) -> None:
    """X16, X17: whoever takes the last of them takes all."""
    takers_that_die(made("recovery"), str(base / "spool"), deaths)


@pytest.mark.slow
def test_takers_die_one_after_the_other_anywhere(made: Callable[[str], str], base: Path) -> None:
    for first in itertools.count(1):
        results = [
            takers_that_die(made("recovery"), str(base / f"{first}-{second}"), (first, second))
            for second in range(1 + first % 5, 50, 5)
        ]
        if not any(results):
            break
    assert first > 40


# -- the rows of the crash table


class Row(NamedTuple):
    """A row of the crash table: killed after this call of a scenario, this is left, and this comes of it."""

    row: str
    step: str
    scenario: str
    call: tuple[str, str]  # the operation, and a pattern of the path
    left: Callable[[str], None]
    then: Callable[[str], None] = lambda _spool: None


def job(spool: str, number: int) -> tools.Seen:
    return tools.read(root(spool)).one(number)


def lies(number: int, status: Status, attempt: int = 1) -> Callable[[str], None]:
    def check(spool: str) -> None:
        seen = job(spool, number)
        assert (seen.status, seen.name.attempt) == (status, attempt)

    return check


def attempts(number: int, *expected: tuple[int, Status | None]) -> Callable[[str], None]:
    def check(spool: str) -> None:
        assert job(spool, number).attempts == [*expected]

    return check


def all_of(*checks: Callable[[str], None]) -> Callable[[str], None]:
    def check(spool: str) -> None:
        for one in checks:
            one(spool)

    return check


def _unseen(spool: str) -> None:
    assert tools.check_spool(spool) == [1]
    assert len(os.listdir(f"{spool}/.staging")) == 1


def _published(spool: str) -> None:
    assert len(tools.check_spool(spool)) == 2


def _no_jobs_held(spool: str) -> None:
    assert len(os.listdir(f"{root(spool)}/runners")) == 1
    assert not {seen.status for (seen,) in tools.read(root(spool)).jobs.values()} & {*tools.OWNED}


def _closed(spool: str) -> None:
    """Nothing is left in a dead runner's name."""
    owned = {path.split("/")[1] for path in tools.read(root(spool)).owned}
    assert owned == set()


def _half_a_content(spool: str) -> None:
    (temporary,) = tools.read(root(spool)).temporaries
    assert temporary.startswith(f"{root(spool)}/running/")


def _requests(*expected: str) -> Callable[[str], None]:
    def check(spool: str) -> None:
        assert sorted(tools.read(root(spool)).requests) == [*expected]

    return check


def _in_a_dead_takers_hands(spool: str) -> None:
    """The record of the one lies in that of the other, who is dead too."""
    tree = tools.read(root(spool))
    (taker,) = os.listdir(f"{root(spool)}/runners")
    assert len(tree.runners) == 2
    assert any(path.startswith(f"{root(spool)}/runners/{taker}/taken/") for path in tree.runners.values())


def _before_the_taking(spool: str) -> None:
    assert len(os.listdir(f"{root(spool)}/runners")) == 2


def _some_jobs_in_its_hands(spool: str) -> None:
    _in_a_dead_takers_hands(spool)
    (taker,) = os.listdir(f"{root(spool)}/runners")
    tree = tools.read(root(spool))
    assert {seen.detail for (seen,) in tree.jobs.values() if seen.status in tools.OWNED} == {taker}
    assert tree.owned == {f"pending/{taker}", f"running/{taker}"}, "I8"


def _aside(spool: str) -> None:
    tree = tools.read(root(spool))
    assert ALONE not in tree.jobs
    assert tree.evidence == {ALONE}


def _deleted(spool: str) -> None:
    assert not os.path.exists(root(spool))
    assert os.listdir(f"{spool}/.trash") == ["1-deleted"]


def _action_is(*expected: object) -> Callable[[str], None]:
    def check(spool: str) -> None:
        assert _action(spool) == expected

    return check


def _outcome_in_dead_hands(spool: str) -> None:
    seen = job(spool, FIRST)
    assert (seen.status, seen.attempts) == (Status.RUNNING, [(1, COMPLETED)])


def _failure_in_dead_hands(memory_bytes: int) -> Callable[[str], None]:
    def check(spool: str) -> None:
        seen = job(spool, FIRST)
        assert (seen.status, seen.attempts) == (Status.RUNNING, [(1, FAILED)])
        assert seen.content["resources"]["memory_bytes"] == memory_bytes
        assert seen.name.needs.memory_mib == 64

    return check


def _noted(*statuses: Status) -> Callable[[str], None]:
    """The note is there, and this has become of the two jobs that failed at once."""

    def check(spool: str) -> None:
        assert sickhosts.notes(tools.open_workflow(spool))
        assert sorted(job(spool, number).status for number in (1, 3)) == sorted(statuses)

    return check


def _asking(count: int) -> Callable[[str], None]:
    def check(spool: str) -> None:
        assert len(os.listdir(f"{root(spool)}/slurm")) == count

    return check


def _lifted(spool: str) -> None:
    assert sickhosts.notes(tools.open_workflow(spool)) == []
    assert len(os.listdir(f"{root(spool)}/sick")) == 1  # as evidence


def _defined_anew(spool: str) -> None:
    _outcome_in_dead_hands(spool)
    assert tools.open_workflow(spool).revisions.number == 1


HELP = "help what did not complete"
_J = r"/9[^/]*-"  # how the name of a job's file begins, before its slug
ROWS = [
    Row(
        "X28",
        "z2",
        "reinitialize repeated",
        ("rename", rf"/done/completed{_J}first"),
        _outcome_in_dead_hands,
        attempts(FIRST, (1, COMPLETED), (2, COMPLETED)),
    ),
    Row(
        "X28",
        "z4",
        "reinitialize half way repeated",
        ("rename", rf"/(ready/any|blocked){_J}second"),
        all_of(_outcome_in_dead_hands, lies(SECOND, Status.BLOCKED, 2)),
        attempts(FIRST, (1, COMPLETED), (2, COMPLETED)),
    ),
    Row(
        "X28",
        "z5",
        "reinitialize repeated",
        ("create", r"/revision/workflow\.json$"),
        _outcome_in_dead_hands,
        attempts(FIRST, (1, COMPLETED), (2, COMPLETED)),
    ),
    Row(
        "X29",
        "z6",
        "reinitialize repeated",
        ("rename", r"/runners/[^/]+/revision$"),
        _defined_anew,
        attempts(FIRST, (1, COMPLETED), (2, COMPLETED)),
    ),
    Row(
        "X30",
        "z7",
        "reinitialize repeated",
        ("rename", rf"/done/canceled{_J}after_bad"),
        all_of(_defined_anew, lies(AFTER_BAD, Status.BLOCKED, 2)),
        attempts(FIRST, (1, COMPLETED), (2, COMPLETED)),
    ),
    Row(
        "X30",
        "z8",
        "reinitialize repeated",
        ("rename", rf"/running/[^/]+{_J}second"),
        all_of(_defined_anew, lies(SECOND, Status.BLOCKED, 2)),
        attempts(FIRST, (1, COMPLETED), (2, COMPLETED)),
    ),
    Row(
        "X31",
        "z9",
        "reinitialize half way repeated",
        ("rename", rf"/ready/any{_J}alone"),
        all_of(lies(FIRST, Status.READY, 2), lies(ALONE, Status.READY, 2)),
        attempts(FIRST, (1, COMPLETED), (2, COMPLETED)),
    ),
    Row("X1", "s1", "submit", ("mkdir", r"/\.staging/[^/]+$"), _unseen),
    Row("X1", "s2", "submit", ("create", r"/owner\.json$"), _unseen),
    Row("X1", "s3", "submit", ("mkdir", r"/\.ids/\d+$"), _unseen),
    Row("X1", "s4", "submit", ("create", r"/jobs\.jsonl$"), _unseen),
    Row("X1", "s5", "submit", ("create", r"/workflow\.json$"), _unseen),
    Row("X1", "s6", "submit", ("sync", ""), _unseen),
    Row("X2", "s7", "submit", ("rename", r"/workflow$"), _published),
    Row("X2", "s8", "submit", ("fsync", ""), _published),
    Row("X3", "b1", "birth", ("mkdir", r"/runners/"), _no_jobs_held),
    Row("X3", "b2", "birth", ("rename", r"/\.runner\.json\.tmp$"), _no_jobs_held, _closed),
    Row("X3", "b3", "birth", ("create", r"/journal$"), _no_jobs_held, _closed),
    Row("X3", "b4", "birth", ("mkdir", r"/running/"), _no_jobs_held, _closed),
    Row("X3", "b5", "birth", ("mkdir", r"/pending/"), _no_jobs_held, _closed),
    Row("X3", "b6", "birth", ("utime", r"/heartbeat$"), _no_jobs_held, _closed),
    Row(
        "X4",
        "c1",
        "claim",
        ("rename", rf"/ready/any{_J}first"),
        lies(FIRST, Status.PENDING),
        attempts(FIRST, (2, COMPLETED)),
    ),
    Row(
        "X5",
        "t2",
        "start",
        ("rename", rf"/pending/[^/]+{_J}first"),
        lies(FIRST, Status.RUNNING),
        attempts(FIRST, (1, None), (2, COMPLETED)),
    ),
    Row(
        "X7",
        "f1 in a new file",
        "finish",
        ("create", r"/running/[^/]+/\.9[^/]*-first"),
        all_of(lies(FIRST, Status.RUNNING), attempts(FIRST)),
        attempts(FIRST, (1, None), (2, COMPLETED)),
    ),
    Row(
        "X7",
        "f1 in an old file",
        "finish",
        ("open", r"/running/[^/]+/\.spare"),
        all_of(lies(BAD, Status.RUNNING), attempts(BAD)),
        attempts(BAD, (1, None), (2, FAILED)),
    ),
    Row(
        "X8",
        "f2 of a new file",
        "finish",
        ("rename", r"/running/[^/]+/\.9[^/]*-first"),
        all_of(lies(FIRST, Status.RUNNING), attempts(FIRST, (1, COMPLETED))),
        attempts(FIRST, (1, COMPLETED)),
    ),
    Row(
        "X8",
        "f2 of an old file",
        "finish",
        ("rename", r"/running/[^/]+/\.spare"),
        all_of(lies(BAD, Status.RUNNING), attempts(BAD, (1, FAILED))),
        attempts(BAD, (1, FAILED)),
    ),
    Row(
        "X9",
        "f3",
        "finish",
        ("rename", rf"/running/[^/]+{_J}first"),
        all_of(lies(FIRST, COMPLETED), lies(SECOND, Status.BLOCKED)),
        attempts(FIRST, (1, COMPLETED)),
    ),
    Row(
        "X10",
        "r1",
        "settle",
        ("rename", rf"/blocked{_J}(second|anyway)"),
        lambda spool: _one_of(spool, Status.READY, SECOND, ANYWAY),
    ),
    Row("X10", "k1", "settle", ("rename", rf"/blocked{_J}after_bad"), lies(AFTER_BAD, CANCELED)),
    Row(
        "X10",
        "w1",
        "retry repeated",
        ("rename", rf"/done/canceled{_J}after_bad"),
        all_of(lies(2, Status.BLOCKED, 2), lies(3, CANCELED)),
    ),
    Row(
        "X11",
        "n1",
        "cancel waiting repeated",
        ("rename", rf"/ready/any{_J}first"),
        all_of(lies(FIRST, CANCELED), lies(BAD, Status.READY)),
    ),
    Row(
        "X11",
        "h1 of hold",
        "hold repeated",
        ("rename", rf"/ready/any{_J}first"),
        all_of(lies(FIRST, Status.HELD), lies(BAD, Status.READY)),
    ),
    Row(
        "X11",
        "h1 of release",
        "release",
        ("rename", rf"/held{_J}first"),
        all_of(lies(FIRST, Status.READY), lies(BAD, Status.HELD)),
    ),
    Row(
        "X11",
        "h1 of a priority",
        "set priority",
        ("rename", rf"/ready/any{_J}first"),
        lambda spool: _priorities(spool, {FIRST: 7, ALONE: 0}),
    ),
    Row(
        "X12",
        "q1",
        "cancel held by a runner repeated",
        ("create", r"/requests/"),
        all_of(lies(FIRST, Status.RUNNING), _requests("cancel-000000001.1")),
        _requests(),
    ),
    Row(
        "X13",
        "q2 not reached",
        "obey",
        ("rename", rf"/running/[^/]+{_J}first"),
        all_of(lies(FIRST, CANCELED), _requests("cancel-000000001.1")),
    ),
    Row(
        "X14",
        "y1",
        "retry repeated",
        ("rename", r"/done/failed/"),
        all_of(lies(1, Status.READY, 2), lies(2, CANCELED)),
    ),
    Row("X15", "e1", "end of a runner", ("rmdir", r"/pending/"), _no_jobs_held, _closed),
    Row("X15", "e2", "end of a runner", ("rmdir", r"/running/"), all_of(_no_jobs_held, _closed)),
    Row("X16", "v2", "recovery", ("mkdir", r"/taken$"), _before_the_taking),
    Row("X16", "v3", "recovery", ("rename", r"/runners/[^/]+$"), _in_a_dead_takers_hands),
    Row("X16", "v5", "recovery", ("rename", r"/running/[^/~]+$"), _in_a_dead_takers_hands),
    Row("X16", "v6", "recovery", ("rename", r"/running/[^/]+~[^/]+/"), _in_a_dead_takers_hands),
    Row("X16", "v7", "recovery", ("rmdir", r"/running/[^/]+~"), _in_a_dead_takers_hands),
    Row("X16", "v5 of pending", "recovery", ("rename", r"/pending/[^/~]+$"), _in_a_dead_takers_hands),
    Row("X16", "v6 of pending", "recovery", ("rename", r"/pending/[^/]+~[^/]+/"), _in_a_dead_takers_hands),
    Row("X16", "v7 of pending", "recovery", ("rmdir", r"/pending/[^/]+~"), _some_jobs_in_its_hands),
    Row("X17", "v8", "recovery", ("list", r"/done/completed$"), _some_jobs_in_its_hands),
    Row("X17", "v9", "recovery", ("rename", rf"/running/[^/~]+{_J}ended"), lies(3, FAILED)),
    Row("X17", "f1", "recovery", ("create", r"/running/[^/]+/\.9[^/]*-running"), _some_jobs_in_its_hands),
    Row("X17", "f2", "recovery", ("rename", r"/running/[^/]+/\.9[^/]*-running"), _some_jobs_in_its_hands),
    Row("X17", "v10", "recovery", ("rename", rf"/running/[^/~]+{_J}running"), lies(2, Status.READY, 2)),
    Row("X17", "v10 of pending", "recovery", ("rename", rf"/pending/[^/~]+{_J}claimed\."), lies(1, Status.READY, 2)),
    Row(
        "X20",
        "f2 with retry_rule",
        "retry by a handler",
        ("rename", r"/running/[^/]+/\.9[^/]*-bad"),
        all_of(lies(1, Status.RUNNING), attempts(1, (1, FAILED))),
        attempts(1, (1, FAILED), (2, COMPLETED)),
    ),
    Row(
        "X21",
        "f3' of one that is wanted",
        "retry by a handler",
        ("rename", rf"/running/[^/]+{_J}bad"),
        all_of(lies(1, Status.READY, 2), attempts(1, (1, FAILED))),
        attempts(1, (1, FAILED), (2, COMPLETED)),
    ),
    Row(
        "X21",
        "f3' of one that is unwanted",
        "unwanted retry",
        ("rename", rf"/running/[^/]+{_J}bad"),
        all_of(lies(1, Status.READY, 2), _requests("cancel-000000001.1")),
        all_of(lies(1, CANCELED, 2), attempts(1, (1, FAILED)), _requests()),
    ),
    Row("X18", "a1", "set aside", ("rename", rf"/pending/[^/]+{_J}alone"), _aside),
    Row("X25", "x1", "perform", ("rename", r"/actions/waiting/"), _action_is("interrupted", 1)),
    Row("X26", "x2", "perform", ("rename", r"/actions/running/"), _action_is("done", 1), _action_is("done", 1)),
    Row("X27", "x3", "repeat action", ("rename", r"/actions/done/"), _action_is("waiting", 2), _action_is("done", 2)),
    Row("X27", "x3 by rearm", "rearm", ("rename", r"/actions/done/"), _action_is("waiting", 2), _action_is("done", 2)),
    Row("X36", "x4", "go on with an action", ("rename", r"/actions/running/"), _action_is("interrupted", 1)),
    Row("X37", "g2", HELP, ("rename", rf"/done/failed{_J}first"), _failure_in_dead_hands(MEMORY)),
    Row("X38", "g3", HELP, ("rename", r"/running/[^/]+/\.[^/]*first"), _failure_in_dead_hands(96 << 20)),
    Row("X39", "g4", HELP, ("rename", rf"/running/[^/]+{_J}first"), lies(FIRST, Status.READY, 2)),
    Row("X40", "o2", "note a sick host", ("create", r"/sick/"), _noted(Status.FAILED, Status.FAILED)),
    Row("X41", "o3", "note a sick host", ("rename", r"/done/failed/"), _noted(Status.FAILED, Status.READY)),
    Row("X42", "o4", "lift a note", ("rename", r"/sick/"), _lifted),
    Row("X43", "j1", "ask for nodes", ("create", r"/slurm/"), _asking(1), _asking(0)),
    Row("X19", "d1", "delete", ("rename", r"/1-test$"), _deleted),
]


def _one_of(spool: str, status: Status, *numbers: int) -> None:
    assert [job(spool, number).status for number in numbers].count(status) == 1


def _priorities(spool: str, expected: dict[int, int]) -> None:
    assert {number: job(spool, number).name.priority for number in expected} == expected


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.row}-{row.step}".replace(" ", "_") for row in ROWS])
def test_the_crash_table(row: Row, made: Callable[[str], str], base: Path) -> None:
    spool, stopped = str(base / "spool"), SCENARIOS[row.scenario]
    tools.copy_tree(made(row.scenario), spool)
    operation, pattern = row.call

    def is_the_step(called: str, path: str) -> bool:
        return called == operation and re.search(pattern, path) is not None

    fault = Fault(1, when=is_the_step, after=True)
    ending = tools.in_child(lambda: stopped.prepare(spool), stopped.act, fault)
    assert ending.how == "killed", f"{row.step} was not reached"
    row.left(spool)
    stopped.carry_on(spool)
    row.then(spool)


def test_the_crash_table_x6_a_process_without_a_runner_is_killed_before_its_job_runs_again(base: Path) -> None:
    """X6."""
    spool, note = str(base / "spool"), base / "pid"
    make_graph(spool)

    def live(hand: Hand) -> None:
        hand.take("first")
        environ = os.environ | {RUNNER_VARIABLE: hand.name, WORKFLOW_VARIABLE: "1"}
        orphan = subprocess.Popen(["sleep", "1000"], env=environ, start_new_session=True)
        note.write_text(f"{orphan.pid} {processes.start_time(orphan.pid)}")

    tools.dead_runner(spool, live)
    pid, start = note.read_text().split()
    assert processes.is_same_process(int(pid), start)
    lived: list[bool] = []

    def watch(operation: str, path: str) -> None:
        if operation == "rename" and "/running/" in path and path.endswith("-first.json") and "~" not in path:
            lived.append(processes.is_same_process(int(pid), start))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "kill_marked", KILL_MARKED)
        patch.setattr(fsops, "fault", watch)
        changes.recover(tools.open_workflow(spool))
    assert lived == [False]
    to_the_end(spool)


KILL_MARKED = processes.kill_marked  # the real one


def test_the_crash_table_x19_a_delete_that_was_cut_short_is_swept(base: Path) -> None:
    """X19, d2: the removal itself is one step of many calls."""
    spool = str(base / "spool")
    make_graph(spool)

    def delete_in_part(_context: object) -> None:
        removed = itertools.count(1)
        rmdir = os.rmdir

        def rmdir_twice(*arguments: Any, **options: Any) -> None:
            if next(removed) == 3:
                tools.die()
            rmdir(*arguments, **options)

        os.rmdir = rmdir_twice  # in the child only
        Spool(spool).delete(1)

    assert tools.in_child(lambda: None, delete_in_part).how == "killed"
    assert os.listdir(f"{spool}/.trash/1-deleted")
    _gone_or_whole(spool)


def test_the_crash_table_x22_output_of_a_job_that_has_completed_is_left_and_its_outcome_is_shown(base: Path) -> None:
    """X22."""
    spool = str(base / "spool")
    spec = tools.workflow({"first": Wanted("echo said")})
    tools.submit(spool, msgspec.structs.replace(spec, stdio=Stdio(delete_on_success=True)))
    shown = Fault(1, when=lambda operation, path: operation == "unlink" and "/output/" in path)
    assert tools.in_child(lambda: spool, _run_for_real, shown).how == "killed"
    assert len(os.listdir(f"{root(spool)}/output")) == 2
    seen = job(spool, 1)
    assert (seen.status, seen.attempts) == (COMPLETED, [(1, COMPLETED)])
    assert "stdout" not in seen.content["attempts"][0]
    assert tools.drain(spool) == {"first": COMPLETED}


@pytest.mark.parametrize("error", [None, FULL], ids=["killed", "full"])
def test_the_crash_table_x23_x24_user_data_is_the_old_value_or_the_new_one(error: int | None, base: Path) -> None:
    """X23, X24."""
    for n in itertools.count(1):
        spool = str(base / f"n{n}")
        spec = tools.workflow({"first": Wanted()})
        tools.submit(spool, msgspec.structs.replace(spec, user_data=(UserData(name="a b", data={"old": 1}),)))
        fault = Fault(n, error=error, when=changes_something)
        ending = tools.in_child(lambda spool=spool: tools.open_workflow(spool), _update, fault)  # type: ignore[misc]
        store = tools.open_workflow(spool)
        value = bytes(userdata.read(store, userdata.find(store, "a b")).data)
        assert value == (b'{"new":2}' if ending.how == "done" else b'{"old":1}')
        _update(store)
        assert bytes(userdata.read(store, userdata.find(store, "a b")).data) == b'{"new":2}'
        if ending.how == "done":
            break
    assert n > 2


def _update(store: Any) -> None:
    userdata.update(store, userdata.find(store, "a b"), b'{"new":2}')


def test_the_crash_table_x44_a_mark_of_one_that_came_and_died_holds_up_nobody_for_long(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X44, m1."""
    spool, now, slept = str(base / "spool"), time.time(), []
    make_graph(spool)
    monkeypatch.setattr(mounts, "is_network", lambda _path: True)
    come = Fault(1, when=lambda operation, path: operation == "create" and "/.arrived-" in path, after=True)
    assert tools.in_child(lambda: spool, lambda spool: await_turn(spool, lambda: 100, environ={}), come).how == "killed"
    (mark,) = (name for name in os.listdir(spool) if naming.parse_arrival(name))
    monkeypatch.setattr(time, "sleep", slept.append)
    for later, waits, left in ((60, 1, [mark]), (700, 0, [])):
        slept.clear()
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        await_turn(spool, lambda: 100, environ={})
        assert len(slept) == waits
        assert [name for name in os.listdir(spool) if naming.parse_arrival(name)] == left
    check_invariants(root(spool))


# -- a real runner


def _run_for_real(spool: str) -> None:
    """A runner with its loop, its threads and the processes of its jobs."""
    processes.kill_marked = KILL_MARKED  # in the child only
    options = Options(Capacity(num_cpus=2, memory_mib=100), grace_s=1.0)
    Runner(Spool(spool), options, workflow_id=1).run()


@pytest.mark.slow
def test_a_real_runner_is_killed_before_each_change(made: Callable[[str], str], base: Path) -> None:
    """Whatever it was about to do, the next one brings the workflow to its end."""
    for n in itertools.count(1):
        spool = str(base / f"n{n}")
        tools.copy_tree(made("claim"), spool)
        fault = Fault(n, when=changes_something)
        ending = tools.in_child(lambda spool=spool: spool, _run_for_real, fault)  # type: ignore[misc]
        tree = check_invariants(root(spool))
        if ending.how != "killed":
            break
        assert tools.in_child(lambda spool=spool: spool, _run_for_real).how == "done"  # type: ignore[misc]
        check_invariants(root(spool), tree)
        assert tools.states(root(spool)) == THE_END
        shutil.rmtree(spool)
    assert n > 30


# -- ownership


def test_i7_i8_nothing_is_given_away_while_a_directory_of_the_dead_is_there(base: Path) -> None:
    """I8, and I7: the living are let alone."""
    spool = str(base / "spool")
    _a_dead_runner(spool)
    living = Hand(tools.open_workflow(spool))
    tools.submit(spool, SMALL)
    dead = next(name for name in tools.read(root(spool)).runners if name != living.name)
    given: list[str] = []

    def watch(operation: str, path: str) -> None:
        assert operation in READS or living.name not in path, "I7"
        if operation == "rename" and re.search(rf"/(running|pending)/[^/~]+{_J}", path):
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


# -- two at the same time


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
    "recovery, cancel": Pair(_two_in_dead_hands, _command(changes.recover), _command(_cancel_two), _both_canceled),
    "cancel, recovery": Pair(_two_in_dead_hands, _command(_cancel_two), _command(changes.recover), _both_canceled),
    "recovery, recovery": Pair(
        _a_dead_runner, _command(changes.recover), _command(changes.recover), lambda spool: _taken_back(spool)
    ),
    "recovery, end of the frozen owner's job": Pair(_a_frozen_owner, _said_dead, _finishes, _one_outcome),
    "end of a frozen owner's job, recovery": Pair(_a_frozen_owner, _finishes, _said_dead, _one_outcome),
    "end of a runner, recovery": Pair(make_graph, _leaves, _says_dead_if_it_is_there, to_the_end),
    "retry, settle": Pair(_failed_once, _retries, _command(lambda store: Settler(store).settle()), _all_complete),
    "settle, retry": Pair(_failed_once, _command(lambda store: Settler(store).settle()), _retries, _all_complete),
    "end of a job, retry": Pair(_failed_once, _by_one_who_finished, _retries, _all_complete),
    "make anew, make anew": Pair(
        _set_aside,
        _command(lambda store: changes.retry(store, ["alone"])),
        _command(lambda store: changes.retry(store, ["alone"])),
        _one_alone,
    ),
    "make anew, make anew and run": Pair(
        _set_aside,
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
    "submit, submit": Pair(_submits, _submits_one, _submits_one, lambda spool: _ids_are(tools.check_spool(spool), 3)),
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


# -- returns by hand that keep the old attempt


def _back_by_hand(spool: str) -> None:
    _failed_once(spool)
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


# -- the document


def test_the_tests_name_every_row_and_every_invariant_of_the_document() -> None:
    here = Path(__file__).parent
    document = (here.parent / "docs" / "spool-format.md").read_text()
    rows = re.findall(r"^\| (X\d+) \|", document, re.MULTILINE)
    invariants = re.findall(r"\*\*(I\d+)\*\*", document)
    assert sorted(rows, key=lambda row: int(row[1:])) == [f"X{number}" for number in range(1, len(rows) + 1)]
    assert len(invariants) == 15
    tests = "".join(
        path.read_text()
        for path in (here / name for name in ("test_crash.py", "test_repair.py", "test_lease.py", "spooltools.py"))
    )
    missing = [name for name in rows + invariants if not re.search(rf"\b{name}\b", tests)]
    assert not missing
    elsewhere = {"X6", "X22", "X23", "X24", "X32", "X33", "X34", "X35", "X44"}
    assert {row.row for row in ROWS} | elsewhere == set(rows)
