"""What is stopped: recoveries, and what is done about the sick, the missing and the failed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import spooltools as tools
from crashactions import make_small
from crashtools import CANCELED, COMPLETED, FAILED, SMALL, TERMINATED, hand_of, make_graph, root, scenario
from spooltools import Hand, Wanted, check_invariants

from torc_spool import changes, fsops, mend, processes, recovery, scheduling, sickhosts
from torc_spool.actor import Actor, identity, new_name
from torc_spool.model import Attempt, Resources
from torc_spool.naming import Cause, Request
from torc_spool.remedies import Terms
from torc_spool.repair import look
from torc_spool.settle import Settler
from torc_spool.store import Store
from torc_spool.streak import Streak


def a_dead_runner(spool: str) -> None:
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


def taken_back(spool: str) -> None:
    final = tools.drain(spool)
    ended = dict.fromkeys(("claimed", "running", "later"), COMPLETED) | {"ended": FAILED}
    assert final == ended | dict.fromkeys(("unwanted", "claimed_unwanted", "after"), CANCELED)
    tree = check_invariants(root(spool))
    assert tree.one(3).attempts == [(1, FAILED)], "a result that was recorded is kept, and the job not run again"
    assert tree.one(2).attempts[0] == (1, None), "the lost attempt is noted"
    assert "is gone from" in tree.one(2).content["attempts"][0]["reason"]
    assert tree.requests == []


scenario("recovery", changes.recover, make=a_dead_runner, prepare=tools.open_workflow, carry_on=taken_back)


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
    make=a_dead_runner,
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
