"""Selection is the walk that the rules describe: in order, what fits is taken, what does not is skipped."""

from __future__ import annotations

import itertools
import re
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torc_spool import naming, select
from torc_spool.errors import BadName
from torc_spool.model import Needs
from torc_spool.select import Entry, Free, Offer, Pick, ReadyQueue

LAW = settings(deadline=None)  # no test fails because the machine is busy
CAPACITY = Free(cpus=4, memory_mib=8, gpus=2)


def cases(arguments: str | tuple[str, ...], named: dict[str, Any]) -> pytest.MarkDecorator:
    """Parametrizes by name: each key is the name of a case, each value its row."""
    return pytest.mark.parametrize(arguments, list(named.values()), ids=list(named))


def entry(job: int, priority: int = 0, directory: str = "any", **needs: int) -> Entry:
    name = naming.job_name(priority=priority, job=job, needs=Needs(**needs), name=f"job {job}")
    return Entry(str(name), directory)


def ids(found: list[Pick] | list[Entry]) -> list[int]:
    names = [each.entry.name if isinstance(each, Pick) else each.name for each in found]
    return [naming.parse_job(name).id for name in names]


def shapes() -> list[tuple[int, str | None, str, Needs]]:
    """Priority, key, scheduler and needs of many sorts of jobs, the plain ones first: one draw for each job."""
    random = Random(20)

    def shape() -> tuple[int, str | None, str, Needs]:
        needs = Needs(
            num_cpus=random.randint(1, 5),
            num_gpus=random.choice([0, 0, 0, 1, 2, 3]),
            num_nodes=random.choice([1, 1, 1, 2, 3]),
            memory_mib=random.randint(1, 9),
            runtime_s=random.choice([0, 10, 20, 30]),
        )
        return random.randint(0, 2), random.choice([None, None, "a", "b"]), random.choice(["any", "gpu"]), needs

    plain = [(0, None, "any", Needs(num_cpus=cpus)) for cpus in range(1, 6)]
    return [*plain, *(shape() for _ in range(400))]


SHAPES = shapes()
some_needs = st.sampled_from([needs for *_, needs in SHAPES])


def ready_jobs(start: int = 1, most: int = 12) -> st.SearchStrategy[list[Entry]]:
    """Jobs of a few priorities, keys and schedulers, in no order."""

    def made(drawn: list[tuple[int, str | None, str, Needs]]) -> list[Entry]:
        entries = [
            Entry(str(naming.job_name(priority=priority, job=job, needs=needs, name="a", key=key)), directory)
            for job, (priority, key, directory, needs) in enumerate(drawn, start)
        ]
        return entries[1::2] + entries[::2]

    return st.lists(st.sampled_from(SHAPES), max_size=most).map(made)


PARTS = [CAPACITY, *(Free(*parts) for parts in itertools.product((0, 1, 3, 4), (0, 2, 7), (0, 1, 2)))]
offers = st.builds(
    lambda *parts: Offer(CAPACITY, *parts[:3], own_node_only=parts[3]),
    st.lists(st.just(CAPACITY) | st.sampled_from(PARTS), min_size=1, max_size=4).map(tuple),  # some of it is in use
    st.sampled_from([None, None, 0.0, 9.5, 20.0, 29.999, 100.0]),
    st.sampled_from([None, None, 0, 1, 2, 5]),
    st.sampled_from([False, False, True]),
)
queue_depths = st.builds(lambda slots: Offer.idle(CAPACITY, slots=slots, ignore_resources=True), st.integers(0, 12))


def reference(entries: list[Entry], offer: Offer) -> list[tuple[Entry, tuple[int, ...]]]:
    """The rules, word by word, without any thought of speed."""
    cpus, memory, gpus = ([node[part] for node in offer.nodes] for part in range(3))
    busy = [node != offer.capacity for node in offer.nodes]
    taken: list[tuple[Entry, tuple[int, ...]]] = []
    for candidate in sorted(entries, key=lambda each: each.name):
        if offer.slots is not None and len(taken) == offer.slots:
            break
        if offer.ignore_resources:
            taken.append((candidate, (0,)))
            continue
        needs = naming.parse_job(candidate.name).needs
        if offer.seconds_left is not None and needs.runtime_s > offer.seconds_left:
            continue
        fitting = [
            node
            for node in range(len(offer.nodes))
            if cpus[node] >= needs.num_cpus and memory[node] >= needs.memory_mib and gpus[node] >= needs.num_gpus
        ]
        if needs.num_nodes > 1:
            fitting = [node for node in fitting if not busy[node]]
            fitting = fitting[-needs.num_nodes :] if offer.own_node_only else fitting
        elif offer.own_node_only:
            fitting = [node for node in fitting if node == 0]
        if len(fitting) < needs.num_nodes:
            continue
        used = tuple(fitting[: needs.num_nodes])
        for node in used:
            busy[node] = True
            whole = needs.num_nodes > 1
            cpus[node] -= cpus[node] if whole else needs.num_cpus
            memory[node] -= memory[node] if whole else needs.memory_mib
            gpus[node] -= gpus[node] if whole else needs.num_gpus
        taken.append((candidate, used))
    return taken


# --- what is taken


@LAW
@given(ready_jobs(), offers | queue_depths)
def test_it_takes_what_the_rules_take(entries: list[Entry], offer: Offer) -> None:
    picks = select.select(ReadyQueue(entries), offer)
    assert [(pick.entry, pick.nodes) for pick in picks] == reference(entries, offer)
    assert all(pick.needs == naming.parse_job(pick.entry.name).needs for pick in picks)


@LAW
@given(ready_jobs(), queue_depths)
def test_queue_depth_takes_the_next_jobs_whatever_they_need(entries: list[Entry], offer: Offer) -> None:
    picks = select.select(ReadyQueue(entries), offer)
    assert [pick.entry for pick in picks] == sorted(entries)[: offer.slots]


@LAW
@given(ready_jobs(), offers)
def test_it_never_gives_more_than_there_is(entries: list[Entry], offer: Offer) -> None:
    picks = select.select(ReadyQueue(entries), offer)
    for node, free in enumerate(offer.nodes):
        here = [pick.needs for pick in picks if node in pick.nodes]
        assert sum(needs.num_cpus for needs in here) <= free.cpus
        assert sum(needs.memory_mib for needs in here) <= free.memory_mib
        assert sum(needs.num_gpus for needs in here) <= free.gpus
        if any(needs.num_nodes > 1 for needs in here):
            assert len(here) == 1
            assert free == offer.capacity
    assert all(len(set(pick.nodes)) == pick.needs.num_nodes for pick in picks)


@LAW
@given(ready_jobs(), offers | queue_depths)
def test_it_is_pure(entries: list[Entry], offer: Offer) -> None:
    queue = ReadyQueue(entries)
    assert select.select(queue, offer) == select.select(queue, offer)
    assert list(queue) == sorted(entries)


@LAW
@given(ready_jobs(), offers | queue_depths)
def test_what_is_left_after_the_claims_takes_nothing_more(entries: list[Entry], offer: Offer) -> None:
    queue = ReadyQueue(entries)
    picks = select.select(queue, offer)
    left = select.after(offer, picks)
    assert all(part >= 0 for node in left.nodes for part in node)
    assert left.slots is None or left.slots >= 0
    queue.discard(picks)
    assert select.select(queue, left) == []


@LAW
@given(ready_jobs(), offers, st.integers(0, 12))
def test_claims_one_by_one_take_what_one_claim_takes(entries: list[Entry], offer: Offer, first: int) -> None:
    picks = select.select(ReadyQueue(entries), offer)
    queue, again, left = ReadyQueue(entries), [], offer
    while one := select.select(queue, left._replace(slots=1))[: 1 if left.slots != 0 else 0]:
        queue.discard(one)
        left = select.after(left, one)
        again += one
    assert again == picks


def test_the_example_of_the_strategies_starts_two_of_three() -> None:
    jobs = [entry(job, num_cpus=16, memory_mib=64 * 1024) for job in (1, 2, 3)]
    offer = Offer.idle(Free(32, 128 * 1024))
    assert ids(select.select(ReadyQueue(jobs), offer)) == [1, 2]
    offer = Offer.idle(Free(32, 128 * 1024), slots=3, ignore_resources=True)
    assert ids(select.select(ReadyQueue(jobs), offer)) == [1, 2, 3]


def test_a_job_of_high_priority_that_does_not_fit_is_skipped_for_lower_ones_that_do() -> None:
    jobs = [entry(1, priority=10, num_cpus=1), entry(2, priority=100, num_cpus=16)]
    assert ids(select.select(ReadyQueue(jobs), Offer.idle(Free(16, 8)))) == [2]
    assert ids(select.select(ReadyQueue(jobs), Offer.idle(Free(15, 8)))) == [1]


def test_every_ready_job_is_looked_at() -> None:
    jobs = [entry(job, num_cpus=2 + job % 1000, priority=1) for job in range(1, 3000)]
    jobs.append(entry(3000, num_cpus=1))
    assert ids(select.select(ReadyQueue(jobs), Offer.idle(Free(1, 8)))) == [3000]


@cases(
    ("seconds_left", "taken"),
    {
        "no end": (None, True),
        "more than it needs": (60.5, True),
        "exactly what it needs": (60.0, True),
        "a little less": (59.999, False),
        "nothing": (0.0, False),
    },
)
def test_a_runtime_fits_up_to_the_very_second(seconds_left: float | None, taken: bool) -> None:
    offer = Offer.idle(CAPACITY, seconds_left=seconds_left)
    assert bool(select.select(ReadyQueue([entry(1, runtime_s=60)]), offer)) == taken
    assert (select.never_fits(Needs(runtime_s=60), offer) is None) == taken


def test_a_job_that_states_no_runtime_fits_in_any_time() -> None:
    assert select.select(ReadyQueue([entry(1)]), Offer.idle(CAPACITY, seconds_left=0.0))


def test_queue_depth_ignores_the_end_of_time() -> None:
    offer = Offer.idle(CAPACITY, seconds_left=1.0, slots=1, ignore_resources=True)
    assert select.select(ReadyQueue([entry(1, runtime_s=60)]), offer)


def test_queue_depth_takes_on_a_node_that_is_full() -> None:
    offer = Offer(CAPACITY, (Free(0, 0, 0),), slots=1, ignore_resources=True)
    assert ids(select.select(ReadyQueue([entry(1, num_cpus=99, num_nodes=9)]), offer)) == [1]


def test_jobs_of_several_schedulers_are_merged_in_order() -> None:
    jobs = [entry(1, directory="any"), entry(2, 5, "gpu"), entry(3, 5, "any"), entry(4, 7, "gpu")]
    offer = Offer.idle(CAPACITY, slots=9, ignore_resources=True)
    picks = select.select(ReadyQueue(jobs), offer)
    assert [(pick.entry.directory, *ids([pick])) for pick in picks] == [("gpu", 4), ("gpu", 2), ("any", 3), ("any", 1)]


@cases(
    ("nodes", "needs", "taken"),
    {
        "two whole nodes": ([CAPACITY, CAPACITY], {"num_nodes": 2}, (0, 1)),
        "the whole ones among three": ([CAPACITY, Free(3, 8, 2), CAPACITY], {"num_nodes": 2}, (0, 2)),
        "only one is whole": ([CAPACITY, Free(3, 8, 2)], {"num_nodes": 2}, None),
        "not that many nodes": ([CAPACITY], {"num_nodes": 2}, None),
        "too much for each of them": ([CAPACITY, CAPACITY], {"num_nodes": 2, "num_cpus": 5}, None),
        "one node shares": ([Free(1, 1, 0), CAPACITY], {"num_cpus": 2}, (1,)),
        "the first with room": ([Free(2, 2, 1), CAPACITY], {"num_cpus": 2, "memory_mib": 2, "num_gpus": 1}, (0,)),
    },
)
def test_nodes_of_a_job(nodes: list[Free], needs: dict[str, int], taken: tuple[int, ...] | None) -> None:
    picks = select.select(ReadyQueue([entry(1, **needs)]), Offer(CAPACITY, tuple(nodes)))
    assert [pick.nodes for pick in picks] == ([] if taken is None else [taken])


def test_a_job_of_several_nodes_has_them_alone() -> None:
    jobs = [entry(1, num_nodes=2), entry(2), entry(3, num_nodes=2)]
    picks = select.select(ReadyQueue(jobs), Offer.idle(CAPACITY, 3))
    assert [(*ids([pick]), pick.nodes) for pick in picks] == [(1, (0, 1)), (2, (2,))]


def test_who_reaches_only_its_own_node_keeps_it_for_jobs_of_one() -> None:
    jobs = [entry(1, num_nodes=2), *(entry(number, num_cpus=3) for number in (2, 3, 4))]
    picks = select.select(ReadyQueue(jobs), Offer.idle(CAPACITY, 4, own_node_only=True))
    assert [(*ids([pick]), pick.nodes) for pick in picks] == [(1, (2, 3)), (2, (0,))]


# --- why not


def is_true(reason: str, needs: Needs, offer: Offer, left: Offer, taken: int) -> bool:
    """Whether a reason states facts that rule the job out."""
    patterns = {
        r"needs (\d+) nodes?, the runner has (\d+)": lambda x, y: x == needs.num_nodes > y == len(offer.nodes),
        r"needs (\d+) cpus?(?: on a node)?, the runner has (\d+)": lambda x, y: (
            x == needs.num_cpus > y == CAPACITY.cpus
        ),
        r"needs (\d+) gpus?(?: on a node)?, the runner has (\d+)": lambda x, y: (
            x == needs.num_gpus > y == CAPACITY.gpus
        ),
        r"needs (\d+) MiB of memory(?: on a node)?, the runner has (\d+)": (
            lambda x, y: x == needs.memory_mib > y == CAPACITY.memory_mib
        ),
        r"may run for (\d+) s, the runner has (\d+) s left": (
            lambda x, y: x == needs.runtime_s > (offer.seconds_left or 0) >= y
        ),
        r"needs (\d+) whole nodes, (\d+) are free": (
            lambda x, y: x == needs.num_nodes > y == sum(node == CAPACITY for node in left.nodes)
        ),
        r"needs (\d+) cpus?, (\d+) are free": lambda x, y: (
            x == needs.num_cpus > y == max(n.cpus for n in left.nodes_for_one)
        ),
        r"needs (\d+) gpus?, (\d+) are free": lambda x, y: (
            x == needs.num_gpus > y == max(n.gpus for n in left.nodes_for_one)
        ),
        r"needs (\d+) MiB of memory, (\d+) are free": (
            lambda x, y: x == needs.memory_mib > y == max(n.memory_mib for n in left.nodes_for_one)
        ),
        r"the limit of jobs is reached": lambda: taken == offer.slots,
        r"no single node has all that it needs free at once": (
            lambda: (
                not any(
                    needs.num_cpus <= node.cpus and needs.num_gpus <= node.gpus and needs.memory_mib <= node.memory_mib
                    for node in left.nodes_for_one
                )
            )
        ),
    }
    for pattern, holds in patterns.items():
        match = re.fullmatch(pattern, reason)
        if match is not None:
            return holds(*map(int, match.groups()))
    return False


@LAW
@given(ready_jobs(), offers | queue_depths)
def test_why_a_job_is_skipped_is_true(entries: list[Entry], offer: Offer) -> None:
    queue = ReadyQueue(entries)
    picks = select.select(queue, offer)
    left = select.after(offer, picks)
    for skipped in {*entries} - {pick.entry for pick in picks}:
        needs = queue.needs_of(skipped)
        assert is_true(select.why_not(needs, left), needs, offer, left, len(picks))


@LAW
@given(some_needs, st.integers(1, 3), st.sampled_from([None, 0.0, 10.0, 15.0, 30.0]))
@example(Needs(), 1, 0.0)
def test_never_fits_is_what_an_idle_runner_would_not_take(needs: Needs, nodes: int, seconds_left: float | None) -> None:
    offer = Offer.idle(CAPACITY, nodes, seconds_left=seconds_left)
    job = Entry(str(naming.job_name(priority=0, job=1, needs=needs, name="a")), "any")
    assert (select.never_fits(needs, offer) is None) == bool(select.select(ReadyQueue([job]), offer))


def test_what_is_missing_is_counted_in_words_that_fit() -> None:
    full = Offer(CAPACITY, (Free(0, 0, 0),))
    assert select.why_not(Needs(num_cpus=1), full) == "needs 1 cpu, 0 are free"
    assert select.why_not(Needs(num_cpus=2), full) == "needs 2 cpus, 0 are free"
    assert select.never_fits(Needs(num_gpus=3), full) == "needs 3 gpus, the runner has 2"


def test_the_limit_of_jobs_is_not_blamed_while_one_more_may_run() -> None:
    queue = ReadyQueue([entry(1, num_cpus=3), entry(2, num_cpus=2)])
    offer = Offer.idle(CAPACITY, slots=2)
    picks = select.select(queue, offer)
    assert ids(picks) == [1]
    assert select.why_not(Needs(num_cpus=2), select.after(offer, picks)) == "needs 2 cpus, 1 are free"


def test_a_node_that_a_larger_job_has_alone_has_nothing_left() -> None:
    picks = select.select(ReadyQueue([entry(1, num_nodes=2)]), Offer.idle(CAPACITY, 3))
    assert select.after(Offer.idle(CAPACITY, 3), picks).nodes == (Free(0, 0, 0), Free(0, 0, 0), CAPACITY)


def test_what_would_fit_on_two_nodes_together_fits_on_none() -> None:
    left = Offer(CAPACITY, (Free(4, 1, 2), Free(1, 8, 0)))
    assert select.why_not(Needs(num_cpus=2, memory_mib=2), left) == "no single node has all that it needs free at once"


def test_queue_depth_runs_what_never_fits_otherwise() -> None:
    offer = Offer.idle(CAPACITY, slots=0, ignore_resources=True)
    assert select.never_fits(Needs(num_cpus=99, num_nodes=99), offer) is None
    assert select.why_not(Needs(num_cpus=99), offer) == "the limit of jobs is reached"


# --- the queue


def foreign(name: str) -> Entry:
    return Entry(name, "any")


FOREIGN = {
    "a note": "README",
    "an editor's copy": entry(1).name + "~",
    "needs of no job": entry(1).name.replace("c1g0", "cXg0"),
    "a slug of no job, after needs that are known": entry(1).name.replace("job_", "job "),
    "job 0": entry(1).name.replace("000000001", "000000000"),
}


@cases("name", FOREIGN)
def test_what_is_no_job_is_told_apart_and_never_taken(name: str) -> None:
    queue = ReadyQueue([entry(1), foreign(name), entry(2)])
    assert queue.foreign == [foreign(name)]
    assert (len(queue), ids(list(queue))) == (2, [1, 2])
    assert ids(select.select(queue, Offer.idle(CAPACITY))) == [1, 2]


@cases("name", FOREIGN)
def test_what_is_no_job_cannot_be_put_in(name: str) -> None:
    queue = ReadyQueue([entry(1)])
    with pytest.raises(BadName):
        queue.insert(foreign(name))
    assert list(queue) == [entry(1)]


def test_what_is_gone_already_is_not_taken_out_again() -> None:
    queue = ReadyQueue([entry(1), entry(2)])
    picks = select.select(queue, Offer.idle(CAPACITY, slots=1))
    queue.discard(picks)
    queue.discard(picks)
    assert (len(queue), ids(list(queue))) == (1, [2])


def test_what_was_picked_is_taken_out_although_an_earlier_one_has_come_meanwhile() -> None:
    queue = ReadyQueue([entry(2), entry(3)])
    picks = select.select(queue, Offer.idle(CAPACITY))
    queue.insert(entry(1))
    queue.discard(picks)
    assert (len(queue), ids(list(queue))) == (1, [1])


@LAW
@given(st.data())
def test_the_queue_is_a_sorted_list(data: st.DataObject) -> None:
    model = sorted(data.draw(ready_jobs()))
    queue = ReadyQueue(model)
    pending: list[Pick] = []
    for turn in range(1, data.draw(st.integers(1, 6))):
        kind = data.draw(st.sampled_from(["insert", "pick", "discard"]))
        if kind == "insert":
            for new in data.draw(ready_jobs(start=100 * turn, most=4)):
                queue.insert(new)
                model.append(new)
        elif kind == "pick":
            pending = select.select(queue, data.draw(offers | queue_depths))
        else:
            queue.discard(pending)  # others may have come in between
            model = [each for each in model if each not in {pick.entry for pick in pending}]
            pending = []
        model.sort()
        assert list(queue) == model
        assert len(queue) == len(model)
        assert all(queue.needs_of(each) == naming.parse_job(each.name).needs for each in model)


def test_a_long_queue_that_is_used_up_and_filled_again_stays_sorted() -> None:
    model = [entry(job, num_cpus=1 + job % 2) for job in range(1, 6001)]
    queue, fresh = ReadyQueue(model), 6001
    offer = Offer.idle(CAPACITY, slots=700, ignore_resources=True)
    while model:
        picks = select.select(queue, offer)
        queue.discard(picks)
        assert [pick.entry for pick in picks] == model[:700]
        model = model[700:]
        if fresh < 6010:
            queue.insert(entry(fresh, priority=fresh % 2))
            model = sorted([*model, entry(fresh, priority=fresh % 2)])
            fresh += 1
        assert len(queue) == len(model)
    assert list(queue) == []
