"""The protocol holds in every state that can be reached, and each of its laws is needed."""

from __future__ import annotations

import pytest
from protocol_model import Broken, Faults, Protocol, Rules, explore


@pytest.mark.parametrize(
    ("jobs", "chained", "faults", "least"),
    [
        (1, False, Faults(), 6),
        (2, True, Faults(crashes=1), 1_000),
        (1, False, Faults(crashes=2, stale_paths=True), 3_000),
        (1, False, Faults(declared=2, stale_paths=True), 5_000),
        (1, False, Faults(crashes=1, declared=1, lost_replies=1, stale_paths=True), 20_000),
        (1, False, Faults(crashes=1, declared=1, stale_paths=True, retries=1), 40_000),
        pytest.param(2, True, Faults(crashes=1, declared=1, stale_paths=True), 40_000, marks=pytest.mark.slow),
        pytest.param(
            2, True, Faults(crashes=1, declared=1, lost_replies=2, stale_paths=True), 40_000, marks=pytest.mark.slow
        ),
        pytest.param(2, False, Faults(crashes=1, declared=1, stale_paths=True), 40_000, marks=pytest.mark.slow),
        pytest.param(
            1, False, Faults(crashes=2, declared=2, lost_replies=1, stale_paths=True), 40_000, marks=pytest.mark.slow
        ),
    ],
    ids=[
        "alone",
        "crash",
        "crashes",
        "declared dead",
        "all faults",
        "retry",
        "chain",
        "chain with lost replies",
        "two",
        "many",
    ],
)
def test_every_reachable_state_keeps_the_invariants(jobs: int, chained: bool, faults: Faults, least: int) -> None:
    protocol = Protocol(jobs=jobs, chained=chained, rules=Rules(), faults=faults)
    assert explore(protocol) >= least  # fewer: the model does not do what it is there to do


@pytest.mark.parametrize(
    ("law", "breaks"),
    [
        ("fence", "I8"),
        ("both_first", "I8"),
        ("looks_again", "I8"),
        ("new_attempt", "executed twice"),
        ("own_place", "executed twice"),
        ("result_counts", "has a result and is executed again"),
        ("look_in_done", "two outcomes"),
        ("enoent_looks", "the work ends with job 0 in"),
        ("release_waits", "I5"),
        ("result_before", "done without a result"),
        ("look_everywhere", "executed twice"),
        ("retries_are_given", "done without a result"),
    ],
)
def test_each_law_is_needed(law: str, breaks: str) -> None:
    faults = Faults(crashes=1, declared=1, lost_replies=1, stale_paths=True)
    if law in ("look_everywhere", "retries_are_given"):
        faults = faults._replace(lost_replies=0, retries=1)
    chained = law == "release_waits"
    protocol = Protocol(jobs=1 + chained, chained=chained, rules=Rules()._replace(**{law: False}), faults=faults)
    with pytest.raises(Broken, match=breaks):
        explore(protocol)


def test_no_law_is_left_out() -> None:
    (mark,) = [mark for mark in test_each_law_is_needed.pytestmark if mark.name == "parametrize"]
    assert sorted(law for law, _ in mark.args[1]) == sorted(Rules._fields)
