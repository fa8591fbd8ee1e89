"""The protocol holds in every state that can be reached, and each of its laws is needed."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from protocol_model import Protocol, explore
from protocol_state import Broken, Faults, Rules

ALL = Faults(crashes=1, declared=1, lost_replies=1, stale_paths=True)


class World(NamedTuple):
    """What is explored, and how many states there are at least: fewer, and the model does not do what it is for."""

    jobs: int
    faults: Faults
    least: int
    chained: bool = False
    anyway: bool = False

    def explore(self, rules: Rules) -> int:
        protocol = Protocol(jobs=self.jobs, chained=self.chained, anyway=self.anyway, rules=rules, faults=self.faults)
        return explore(protocol)


WORLDS = {
    "alone": World(1, Faults(), 6),
    "crash": World(2, Faults(crashes=1), 1_000, chained=True),
    "crashes": World(1, Faults(crashes=2, stale_paths=True), 3_000),
    "declared dead": World(1, Faults(declared=2, stale_paths=True), 5_000),
    "three": World(3, Faults(crashes=1), 10_000, chained=True),
    "cancel and retry": World(1, Faults(crashes=1, commands=1, retries=1), 1_000),
    "person and graph": World(2, Faults(commands=2), 1_000, chained=True),
    "person and graph, anyway": World(2, Faults(commands=3), 3_000, chained=True, anyway=True),
}
SLOW = {
    "cancel and give back": World(1, Faults(crashes=1, commands=1, returns=1), 1_000),
    "cancel and take back": World(1, Faults(crashes=2, commands=1), 1_000),
    "person": World(1, Faults(declared=1, stale_paths=True, commands=2), 5_000),
    "retry": World(1, Faults(crashes=1, declared=1, retries=1), 3_000),
    "all faults": World(1, ALL, 20_000),
    "retry by stale paths": World(1, Faults(crashes=1, declared=1, stale_paths=True, retries=1), 40_000),
    "chain": World(2, Faults(crashes=1, declared=1, stale_paths=True), 40_000, chained=True),
    "chain with lost replies": World(
        2, Faults(crashes=1, declared=1, lost_replies=2, stale_paths=True), 40_000, chained=True
    ),
    "cancel and retry, declared dead": World(1, Faults(declared=1, commands=1, retries=1), 40_000),
    "two": World(2, Faults(crashes=1, declared=1, stale_paths=True), 40_000),
    "many": World(1, Faults(crashes=2, declared=2, lost_replies=1, stale_paths=True), 40_000),
    "person, graph and crash": World(2, Faults(crashes=1, commands=2), 40_000, chained=True),
    "person, graph and crash, anyway": World(2, Faults(crashes=1, commands=2), 40_000, chained=True, anyway=True),
}


@pytest.mark.parametrize("name", [*WORLDS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_every_reachable_state_keeps_the_invariants(name: str) -> None:
    world = (WORLDS | SLOW)[name]
    assert world.explore(Rules()) >= world.least


class Law(NamedTuple):
    """A law of the design (its number), the mutation of the model that is without it, and the invariant that breaks."""

    number: int
    rule: str
    breaks: str
    world: World


ONE = World(1, Faults(), 0)
PERSON = World(2, Faults(commands=2), 0, chained=True)


def _one(**faults: int) -> World:
    return World(1, Faults(stale_paths=True, **faults), 0)


LAWS = (
    Law(2, "own_content", "I1: job 0 lies in", _one(commands=1)),
    Law(2, "result_before", "I15: job 0 is done without a result", ONE),
    Law(3, "own_place", "I1: job 0 lies in", ONE),
    Law(3, "enoent_looks", "I11: the work ends with job 0 in", _one(lost_replies=1)),
    Law(5, "fence", "I8: actor . gives away before the fence", World(1, ALL, 0)),
    Law(5, "both_first", "I8: actor . gives away before the fence", World(1, ALL, 0)),
    Law(5, "looks_again", "I8: actor . gives away before the fence", _one(declared=2)),
    Law(5, "look_in_done", "I1: job 0 lies in .'done', 'ready'", _one(declared=1)),
    Law(5, "look_everywhere", "I1: job 0 lies in .'done', 'ready'", _one(crashes=1, declared=1, retries=1)),
    Law(5, "result_counts", "I15: job 0 has a result and is executed again", _one(crashes=1)),
    Law(5, "takes_family", "I11: the work ends with job 0 in", _one(crashes=2)),
    Law(6, "made_once", "I8: actor . gives away before the fence", _one(declared=1)),
    Law(6, "fresh_names", "I8: actor . gives away before the fence", _one(crashes=1)),
    Law(7, "new_attempt", "I9: attempt 0.1 is executed twice", World(1, ALL, 0)),
    Law(7, "wait_anew", "I5: job 1 is released before job 0", PERSON._replace(anyway=True)),
    Law(8, "release_waits", "I5: job 1 is released before job 0", World(2, Faults(), 0, chained=True)),
    Law(8, "blocked_first", "I5: job 1 is released before job 0", PERSON._replace(anyway=True)),
    Law(8, "cancel_is_revived", "I11: the work ends with job 1 canceled", PERSON),
    Law(9, "unknown_is_alive", "I7: .* is moved while its owner may live", ONE),
    Law(9, "kill_after_fence", "I15: a death is recorded as a failure", _one(declared=1)),
    Law(13, "retries_are_given", "I15: job 0 is done without a result", _one(crashes=1, retries=1)),
    Law(2, "start_looks", "I11: 0.1 was to be canceled, and runs again", _one(crashes=1, retries=1, commands=1)),
    Law(2, "asker_looks", "I11: 0.1 was to be canceled, and runs again", _one(retries=1, commands=1)),
    Law(2, "wish_passes_on", "I11: 0.1 runs again, which was to be canceled", _one(crashes=1, commands=1)),
)


@pytest.mark.parametrize("law", LAWS, ids=[f"{law.number} {law.rule}" for law in LAWS])
def test_each_law_is_needed(law: Law) -> None:
    with pytest.raises(Broken, match=law.breaks):
        law.world.explore(Rules()._replace(**{law.rule: False}))


def test_no_law_is_left_out() -> None:
    assert sorted(law.rule for law in LAWS) == sorted(Rules._fields)
