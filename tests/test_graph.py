"""The ledger says what a naive evaluation of the graph says, whatever the order of events, in time like its edges."""

from __future__ import annotations

import graphlib
import itertools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from linecount import lines

from torc_spool import graph
from torc_spool.graph import Ended, Ledger, Link, Verdict, cycle
from torc_spool.model import OUTCOMES, UNSUCCESSFUL, Status
from torc_spool.naming import Cause

LAW = settings(deadline=None)  # no test fails because the machine is busy
COMPLETED, FAILED, CANCELED = Status.COMPLETED, Status.FAILED, Status.CANCELED


def cases(arguments: str | tuple[str, ...], named: dict[str, Any]) -> pytest.MarkDecorator:
    """Parametrizes by name: each key is the name of a case, each value its row."""
    return pytest.mark.parametrize(arguments, list(named.values()), ids=list(named))


@st.composite
def graphs(draw: st.DrawFn) -> list[Link]:
    """Up to eight jobs, each waiting for some of those before it; ids are in no order of their own."""
    ids = draw(st.permutations(range(1, draw(st.integers(1, 8)) + 1)))
    links = [
        Link(
            job,
            tuple(draw(st.lists(st.sampled_from(ids[:place]), unique=True, max_size=4))) if place else (),
            draw(st.booleans()),
        )
        for place, job in enumerate(ids)
    ]
    return draw(st.permutations(links))


def ended() -> st.SearchStrategy[Ended]:
    return st.builds(Ended, st.integers(1, 3), st.sampled_from(OUTCOMES))


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Link], list[tuple[str, Any]]]:
    """A graph, and what is learned about it: outcomes, in any order and more than once, retries, and listings."""
    links = draw(graphs())
    jobs = st.sampled_from([link.id for link in links])
    events = st.one_of(
        st.tuples(st.just("note"), st.tuples(jobs, ended())),
        st.tuples(st.just("forget"), jobs),
        st.tuples(st.just("sync"), st.dictionaries(jobs, ended())),
    )
    return links, draw(st.lists(events, max_size=20))


def naive_causes(link: Link, outcomes: Mapping[int, Ended]) -> set[Cause]:
    """Every attempt because of which a job is to be canceled."""
    bad = {
        Cause(awaited, outcomes[awaited].attempt)
        for awaited in link.depends_on
        if awaited in outcomes and outcomes[awaited].outcome in UNSUCCESSFUL
    }
    return bad if link.cancel_on_failure else set()


def agrees(verdict: Verdict | None, link: Link, outcomes: Mapping[int, Ended]) -> bool:
    """Whether a verdict is the one that a look at all awaited jobs gives."""
    causes = naive_causes(link, outcomes)
    if causes:
        return verdict is not None and verdict.id == link.id and verdict.cause in causes
    return verdict == (Verdict(link.id) if all(job in outcomes for job in link.depends_on) else None)


def play(ledger: Ledger, outcomes: dict[int, Ended], kind: str, what: Any) -> None:
    """Tell a ledger and a plain dictionary of one event."""
    if kind == "note":
        job, outcome = what
        outcomes[job] = outcome
        ledger.note(job, *outcome)
    elif kind == "forget":
        outcomes.pop(what, None)
        ledger.forget(what)
    else:
        outcomes.clear()
        outcomes.update(what)
        ledger.sync(what)


# --- verdicts


@LAW
@given(histories())
def test_it_agrees_with_a_naive_evaluation_after_every_event(case: tuple[list[Link], list[tuple[str, Any]]]) -> None:
    links, events = case
    ledger, outcomes = Ledger(links), dict[int, Ended]()
    for event in events:
        play(ledger, outcomes, *event)
        assert ledger.ended == outcomes
        for link in links:
            assert agrees(ledger.verdict(link.id), link, outcomes)


@LAW
@given(st.data())
def test_the_order_in_which_outcomes_arrive_does_not_matter(data: st.DataObject) -> None:
    links = data.draw(graphs())
    outcomes = data.draw(st.dictionaries(st.sampled_from([link.id for link in links]), ended()))
    ledger = Ledger(links)
    for job in data.draw(st.permutations(list(outcomes))):
        ledger.note(job, *outcomes[job])
    for link in links:
        assert agrees(ledger.verdict(link.id), link, outcomes)


@LAW
@given(st.data())
def test_a_noted_outcome_returns_all_that_it_decides_and_nothing_else(data: st.DataObject) -> None:
    links = data.draw(graphs())
    outcomes = data.draw(st.dictionaries(st.sampled_from([link.id for link in links]), ended()))
    ledger = Ledger(links)
    before = {link.id: ledger.verdict(link.id) for link in links}
    for job, outcome in outcomes.items():
        decided = {verdict.id: verdict for verdict in ledger.note(job, *outcome)}
        after = {link.id: ledger.verdict(link.id) for link in links}
        assert all(verdict == after[other] for other, verdict in decided.items())
        assert {other for other in after if before[other] is None and after[other] is not None} <= set(decided)
        assert set(decided) <= set(ledger.dependents(job))
        before = after


def test_the_same_outcome_twice_decides_nothing_twice() -> None:
    ledger = Ledger([Link(1), Link(2, (1,))])
    assert ledger.note(1, 1, COMPLETED) == [Verdict(2)]
    assert ledger.note(1, 1, COMPLETED) == []


def test_a_job_is_released_when_all_that_it_waits_for_have_completed() -> None:
    ledger = Ledger([Link(1), Link(2), Link(3, (1, 2))])
    assert ledger.note(2, 1, COMPLETED) == []
    assert ledger.note(1, 1, COMPLETED) == [Verdict(3)]


@pytest.mark.parametrize("outcome", UNSUCCESSFUL, ids=str)
def test_a_job_is_canceled_by_the_first_that_does_not_complete(outcome: Status) -> None:
    ledger = Ledger([Link(1), Link(2), Link(3, (1, 2))])
    assert ledger.note(2, 4, outcome) == [Verdict(3, Cause(2, 4))]


@pytest.mark.parametrize("outcome", UNSUCCESSFUL, ids=str)
def test_a_job_that_does_not_mind_is_released_when_all_have_ended(outcome: Status) -> None:
    ledger = Ledger([Link(1), Link(2), Link(3, (1, 2), cancel_on_failure=False)])
    assert ledger.note(2, 1, outcome) == []
    assert ledger.note(1, 1, COMPLETED) == [Verdict(3)]


def test_a_retry_takes_its_cancellation_back_but_not_that_of_others() -> None:
    ledger = Ledger([Link(1), Link(2), Link(3, (1, 2))])
    ledger.note(1, 1, FAILED)
    ledger.note(2, 1, FAILED)
    ledger.forget(1)
    assert ledger.verdict(3) == Verdict(3, Cause(2, 1))
    ledger.forget(2)
    assert ledger.verdict(3) is None


def test_a_second_failure_names_the_second_attempt() -> None:
    ledger = Ledger([Link(1), Link(2, (1,))])
    ledger.note(1, 1, FAILED)
    assert ledger.note(1, 2, FAILED) == [Verdict(2, Cause(1, 2))]


def test_an_outcome_of_no_job_of_the_workflow_changes_nothing() -> None:
    ledger = Ledger([Link(1), Link(2, (1,))])
    assert ledger.note(9, 1, FAILED) == []
    assert ledger.verdict(9) is None
    assert ledger.verdict(2) is None


def test_a_job_that_waits_for_none_of_the_workflow_waits_on() -> None:
    ledger = Ledger([Link(1, (7,))])
    assert ledger.verdict(1) is None


def test_what_a_link_says_is_kept() -> None:
    ledger = Ledger([Link(1), Link(2, (1,), scheduler="gpu")])
    assert (ledger.scheduler(1), ledger.scheduler(2)) == (None, "gpu")
    assert (ledger.awaited(1), ledger.awaited(2)) == ((), (1,))
    assert (ledger.dependents(1), ledger.dependents(2)) == ([2], [])


# --- stale causes


@cases(
    ("known", "stale"),
    {
        "nothing is known of it": (None, True),
        "it failed in that attempt": (Ended(2, FAILED), False),
        "it was canceled in that attempt": (Ended(2, CANCELED), False),
        "it failed in a later attempt": (Ended(3, FAILED), True),
        "it failed in an earlier attempt": (Ended(1, FAILED), True),
        "it completed": (Ended(3, COMPLETED), True),
        "it completed in that very attempt": (Ended(2, COMPLETED), True),
    },
)
def test_a_cause_is_stale_unless_that_attempt_still_failed(known: Ended | None, stale: bool) -> None:
    ledger = Ledger([Link(1), Link(2, (1,))])
    if known is not None:
        ledger.note(1, *known)
    assert ledger.is_stale(Cause(1, 2)) == stale


@LAW
@given(histories())
def test_a_cancellation_that_it_orders_is_not_stale(case: tuple[list[Link], list[tuple[str, Any]]]) -> None:
    links, events = case
    ledger = Ledger(links)
    for event in events:
        play(ledger, {}, *event)
    for link in links:
        verdict = ledger.verdict(link.id)
        assert verdict is None or verdict.cause is None or not ledger.is_stale(verdict.cause)


# --- what could follow


@LAW
@given(graphs(), st.sets(st.integers(1, 9)))
def test_what_could_follow_is_all_that_waits_directly_or_not(links: list[Link], held: set[int]) -> None:
    following: set[int] = set()
    while True:
        more = {link.id for link in links if {*link.depends_on} & (held | following)}
        if more == following:
            break
        following = more
    assert Ledger(links).could_follow(held) == following


# --- cycles


@LAW
@given(st.dictionaries(st.integers(1, 6), st.lists(st.integers(1, 7), max_size=3).map(tuple)))
@example({1: (1,)})
@example({1: (2,), 2: (1,)})
@example({1: (2, 2), 2: ()})
@example({1: (2, 3), 2: (), 3: (1,)})
def test_a_cycle_is_found_exactly_where_there_is_one(waits: dict[int, tuple[int, ...]]) -> None:
    found = cycle(waits)
    try:
        graphlib.TopologicalSorter(waits).prepare()
    except graphlib.CycleError:
        assert found is not None
        assert found[0] == found[-1]
        assert len(set(found)) == len(found) - 1
        assert all(after in waits[before] for before, after in itertools.pairwise(found))
    else:
        assert found is None


# --- costs: lines of the module that are executed, which no busy machine changes


def into_one(size: int) -> list[Link]:
    return [*(Link(job) for job in range(1, size + 1)), Link(size + 1, tuple(range(1, size + 1)))]


def from_one(size: int) -> list[Link]:
    return [Link(1), *(Link(job, (1,)) for job in range(2, size + 2))]


def chain(size: int) -> list[Link]:
    return [Link(job, (job - 1,) if job > 1 else ()) for job in range(1, size + 1)]


def all_end(links: list[Link], outcome: Status) -> Ledger:
    ledger = Ledger(links)
    for link in links:
        ledger.note(link.id, 1, outcome)
    return ledger


def all_complete(links: list[Link]) -> None:
    all_end(links, COMPLETED)


def all_fail(links: list[Link]) -> None:
    all_end(links, FAILED)


def all_fail_and_are_forgotten(links: list[Link]) -> None:
    ledger = all_end(links, FAILED)
    for link in links:
        ledger.forget(link.id)
        ledger.verdict(links[-1].id)


def all_fail_and_complete_one_by_one(links: list[Link]) -> None:
    ledger = all_end(links, FAILED)
    for link in links:
        ledger.forget(link.id)
        ledger.note(link.id, 2, COMPLETED)
        ledger.verdict(links[-1].id)


def all_fail_again_and_again(links: list[Link]) -> None:
    ledger = all_end(links, FAILED)
    for attempt in (2, 3, 4):
        ledger.sync({link.id: Ended(attempt, FAILED) for link in links})


def all_are_listed(links: list[Link]) -> None:
    ledger = all_end(links, FAILED)
    ledger.sync({link.id: Ended(2, COMPLETED) for link in reversed(links)})
    ledger.sync({})


def all_could_follow(links: list[Link]) -> None:
    Ledger(links).could_follow([links[0].id])


@pytest.mark.parametrize("shape", [into_one, from_one, chain], ids=lambda shape: shape.__name__)
@pytest.mark.parametrize(
    "work",
    [
        all_complete,
        all_fail,
        all_fail_and_are_forgotten,
        all_fail_and_complete_one_by_one,
        all_fail_again_and_again,
        all_are_listed,
        all_could_follow,
    ],
    ids=lambda work: work.__name__,
)
def test_twice_the_edges_are_twice_the_work(
    shape: Callable[[int], list[Link]], work: Callable[[list[Link]], None]
) -> None:
    small, large = shape(50), shape(100)
    assert lines(lambda: work(large), graph) <= 2.1 * lines(lambda: work(small), graph)


def test_the_search_for_a_cycle_is_no_deeper_than_the_interpreter_allows() -> None:
    size = 10 * sys.getrecursionlimit()
    waits = {job: (job + 1,) for job in range(size)}
    assert cycle(waits) is None
    assert cycle(waits | {size: (0,)}) == [*range(size + 1), 0]
