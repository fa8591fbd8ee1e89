"""A runner's books: what is given is given once, and what comes back is all there again."""

from __future__ import annotations

import itertools
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torc_spool import naming, select
from torc_spool.capacity import Capacity
from torc_spool.model import Needs
from torc_spool.select import Entry, Free, Offer, Pick, ReadyQueue
from torc_spool.slots import Grant, Slots

LAW = settings(deadline=None)  # no test fails because the machine is busy

capacities = st.builds(
    lambda cpus, memory, gpus, nodes: Capacity(cpus, memory, gpus, "CUDA_VISIBLE_DEVICES" if gpus else None, nodes),
    st.integers(1, 6),
    st.integers(1, 8),
    st.sampled_from([(), ("0",), ("0", "1"), ("3", "1", "2"), ("GPU-b", "GPU-a", "MIG-c", "7")]),
    st.integers(1, 3),
)
some_needs = st.builds(
    lambda *parts: Needs(*parts),
    st.integers(1, 3),
    st.integers(0, 3),
    st.sampled_from([1, 1, 1, 2]),
    st.integers(1, 4),
)


def queue_of(needs: list[Needs], start: int = 1) -> ReadyQueue:
    return ReadyQueue(
        Entry(str(naming.job_name(priority=0, job=job, needs=each, name="a")), "any")
        for job, each in enumerate(needs, start)
    )


def given_twice(grants: list[Grant]) -> list[tuple[int, str]]:
    """The GPUs, as (node, device), that more than one job has."""
    held = [(node, device) for grant in grants for node in grant.nodes for device in grant.devices]
    return [each for each in held if held.count(each) > 1]


def in_use(capacity: Capacity, grants: list[Grant]) -> tuple[Free, ...]:
    """What must be free on each node while these jobs run."""
    nodes = []
    for node in range(capacity.num_nodes):
        here = [grant.needs for grant in grants if node in grant.nodes]
        if any(needs.num_nodes > 1 for needs in here):
            nodes.append(Free(0, 0, 0))
            continue
        nodes.append(
            Free(
                capacity.num_cpus - sum(needs.num_cpus for needs in here),
                capacity.memory_mib - sum(needs.memory_mib for needs in here),
                len(capacity.gpus) - sum(needs.num_gpus for needs in here),
            )
        )
    return tuple(nodes)


@LAW
@given(st.data())
def test_the_books_are_right_after_every_start_and_end(data: st.DataObject) -> None:
    capacity = data.draw(capacities)
    slots = Slots(capacity)
    start, running = slots.offer(), list[Grant]()
    for turn in range(data.draw(st.integers(1, 6))):
        if running and data.draw(st.booleans()):
            slots.free(running.pop(data.draw(st.integers(0, len(running) - 1))))
        else:
            waiting = queue_of(data.draw(st.lists(some_needs, max_size=4)), start=10 * turn + 1)
            running += [slots.take(pick) for pick in select.select(waiting, slots.offer())]
        assert slots.offer().nodes == in_use(capacity, running)
        assert slots.running == len(running)
        assert given_twice(running) == []
        for grant in running:
            assert len(grant.devices) == grant.needs.num_gpus
            assert {*grant.devices} <= {*capacity.gpus}
    for grant in data.draw(st.permutations(running)):
        slots.free(grant)
    assert slots.offer() == start
    assert slots.running == 0


@LAW
@given(capacities, st.lists(some_needs, max_size=6), st.randoms(use_true_random=False))
def test_after_everything_came_back_the_same_devices_are_given_in_the_same_order(
    capacity: Capacity, needs: list[Needs], random: Random
) -> None:
    slots = Slots(capacity)

    def start_all() -> list[Grant]:
        return [slots.take(pick) for pick in select.select(queue_of(needs), slots.offer())]

    first = start_all()
    ends = list(first)
    random.shuffle(ends)
    for grant in ends:
        slots.free(grant)
    assert start_all() == first


@LAW
@given(st.integers(0, 5), st.lists(some_needs, max_size=12))
def test_queue_depth_counts_jobs_and_nothing_else(depth: int, needs: list[Needs]) -> None:
    slots = Slots(Capacity(1, 1, ("0",), "CUDA_VISIBLE_DEVICES", 1), max_parallel_jobs=depth)
    queue, running = queue_of(needs), list[Grant]()
    while picks := select.select(queue, slots.offer(seconds_left=0.0)):
        queue.discard(picks)
        running += [slots.take(pick) for pick in picks]
        assert slots.running == len(running) <= depth
        slots.free(running.pop(0))
    assert len(queue) == 0 or depth == 0
    assert all(grant.devices == () for grant in running)


def test_queue_depth_knows_no_end_of_time() -> None:
    slots = Slots(Capacity(1, 1, (), None, 1), max_parallel_jobs=3)
    assert slots.ignores_resources
    assert slots.offer(seconds_left=1.0) == Offer(Free(1, 1), (Free(1, 1),), None, 3, ignore_resources=True)


def test_an_offer_says_how_much_time_is_left() -> None:
    slots = Slots(Capacity(2, 4, (), None, 2))
    assert not slots.ignores_resources
    assert slots.offer(12.5) == Offer(Free(2, 4), (Free(2, 4), Free(2, 4)), seconds_left=12.5)


def test_more_running_than_the_depth_offers_nothing() -> None:
    slots = Slots(Capacity(1, 1, (), None, 1), max_parallel_jobs=1)
    for job in (1, 2):
        slots.take(Pick(Entry(f"{job}", "any"), Needs(), (0,)))
    assert slots.offer().slots == 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_devices_are_given_in_the_order_of_the_node_whoever_ends_first(order: tuple[int, ...]) -> None:
    slots = Slots(Capacity(4, 8, ("2", "0", "1"), "CUDA_VISIBLE_DEVICES", 1))

    def take(job: int, gpus: int) -> Grant:
        return slots.take(select.select(queue_of([Needs(num_gpus=gpus)], job), slots.offer())[0])

    grants = [take(job, 1) for job in (1, 2, 3)]
    assert [grant.devices for grant in grants] == [("2",), ("0",), ("1",)]
    for index in order:
        slots.free(grants[index])
    assert take(4, 3).devices == ("2", "0", "1")


def test_a_device_that_came_back_is_given_again_while_others_are_held() -> None:
    slots = Slots(Capacity(4, 8, ("0", "1"), "CUDA_VISIBLE_DEVICES", 1))
    first, _ = (slots.take(pick) for pick in select.select(queue_of([Needs(num_gpus=1)] * 2), slots.offer()))
    slots.free(first)
    (third,) = (slots.take(pick) for pick in select.select(queue_of([Needs(num_gpus=1)], 3), slots.offer()))
    assert third.devices == ("0",)


def test_a_job_of_several_nodes_has_the_same_devices_on_each() -> None:
    slots = Slots(Capacity(4, 8, ("0", "1"), "CUDA_VISIBLE_DEVICES", 3))
    picks = select.select(queue_of([Needs(num_gpus=1), Needs(num_gpus=1, num_nodes=2)]), slots.offer())
    small, large = (slots.take(pick) for pick in picks)
    assert (small.nodes, small.devices) == ((0,), ("0",))
    assert (large.nodes, large.devices) == ((1, 2), ("0",))
    slots.free(large)
    assert slots.offer().nodes == (Free(3, 7, 1), Free(4, 8, 2), Free(4, 8, 2))
