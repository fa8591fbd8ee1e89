"""When a failure handler has a job run again: a pure decision."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torc_spool import handlers
from torc_spool.digest import digest
from torc_spool.handlers import Script, retries, rule_for, script_before
from torc_spool.model import Attempt, FailureHandler, Job, Rule, Status

FAILED, TERMINATED, CANCELED, COMPLETED = Status.FAILED, Status.TERMINATED, Status.CANCELED, Status.COMPLETED


def handler(*rules: Rule) -> FailureHandler:
    return FailureHandler(name="h", rules=rules)


def history(*entries: tuple[Status | None, int | None]) -> list[Attempt]:
    """Attempts from 1 on: their outcome (None: lost) and the rule by which they were retried."""
    return [
        Attempt(attempt=number, outcome=outcome, return_code=1, retry_rule=rule)
        for number, (outcome, rule) in enumerate(entries, 1)
    ]


def named(*codes: int, times: int = 3, script: str | None = None) -> Rule:
    return Rule(exit_codes=codes, max_retries=times, recovery_script=script)


ANY = Rule(match_all_exit_codes=True)


@pytest.mark.parametrize(
    ("rules", "outcome", "code", "expected"),
    [
        ((named(10),), FAILED, 10, 1),
        ((named(10),), FAILED, 11, None),
        ((ANY,), FAILED, 1, 1),
        ((ANY, named(10)), FAILED, 10, 2),
        ((ANY, named(10)), FAILED, 11, 1),
        ((named(10), named(10, 11)), FAILED, 10, 1),
        ((named(10, times=0), named(10), ANY), FAILED, 10, None),
        ((named(137),), FAILED, 137, 1),
        ((named(152),), TERMINATED, 152, 1),
        ((ANY,), TERMINATED, 143, None),
        ((ANY,), CANCELED, 143, None),
        ((ANY,), COMPLETED, 0, None),
        ((named(0),), FAILED, 0, None),
        ((ANY,), FAILED, None, None),
        ((), FAILED, 1, None),
    ],
    ids=[
        "its code",
        "another code",
        "all codes",
        "a named code wins over all, whatever the order",
        "all where none names it",
        "the first of two",
        "no other takes the place of one that is used up",
        "over its memory",
        "over its runtime",
        "ended by its runner",
        "canceled",
        "completed",
        "code 0",
        "could not be started",
        "no rules",
    ],
)
def test_the_rule_that_applies(
    rules: tuple[Rule, ...], outcome: Status, code: int | None, expected: int | None
) -> None:
    assert rule_for(handler(*rules), [], outcome, code) == expected


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ([], 0),
        ([(FAILED, 1), (FAILED, 1)], 2),
        ([(FAILED, 1), (FAILED, 2)], 1),
        ([(FAILED, 1), (None, None), (FAILED, 1), (None, None)], 2),
        ([(FAILED, 1), (FAILED, None)], 0),
        ([(FAILED, 1), (FAILED, None), (FAILED, 1)], 1),
        ([(COMPLETED, None), (None, None), (FAILED, 1)], 1),
    ],
    ids=["none", "two", "by another rule", "runners died", "shown", "after one that was shown", "after completion"],
)
def test_retries_are_counted_from_the_last_outcome_that_was_shown(
    before: list[tuple[Status | None, int | None]], expected: int
) -> None:
    assert retries(history(*before), 1) == expected


rules = st.builds(
    Rule,
    exit_codes=st.lists(st.integers(1, 4), max_size=2).map(tuple),
    match_all_exit_codes=st.booleans(),
    max_retries=st.integers(0, 3),
)


@given(st.lists(rules, max_size=3), st.lists(st.integers(0, 5), max_size=30))
def test_no_rule_retries_more_often_than_it_may_and_a_named_code_wins(some: list[Rule], ends: list[int]) -> None:
    """Each end is a return code, 0 a runner's death; a person retries whatever is shown."""
    handled, attempts, since_shown = handler(*some), list[Attempt](), dict[int, int]()
    for number, code in enumerate(ends, 1):
        outcome = FAILED if code else None
        rule = rule_for(handled, attempts, FAILED, code) if code else None
        attempts.append(Attempt(attempt=number, outcome=outcome, return_code=code or None, retry_rule=rule))
        if rule is not None:
            since_shown[rule] = since_shown.get(rule, 0) + 1
            applied = some[rule - 1]
            assert since_shown[rule] <= applied.max_retries
            assert code in applied.exit_codes or applied.match_all_exit_codes
            assert code in applied.exit_codes or not any(code in other.exit_codes for other in some)
        elif code:
            since_shown.clear()


@given(st.lists(rules, min_size=1, max_size=3), st.integers(1, 5), st.integers(0, 5))
def test_deaths_of_runners_change_nothing(some: list[Rule], code: int, deaths: int) -> None:
    lost = [Attempt(attempt=number) for number in range(1, deaths + 1)]
    failed = Attempt(attempt=deaths + 1, outcome=FAILED, return_code=code, retry_rule=1)
    after = [Attempt(attempt=deaths + 2 + number) for number in range(deaths)]
    handled = handler(*some)
    assert rule_for(handled, [*lost, failed, *after], FAILED, code) == rule_for(handled, [failed], FAILED, code)
    assert script_before(handled, [*lost, failed, *after]) == script_before(handled, [failed])


def test_the_script_that_has_to_run_before_an_attempt() -> None:
    handled = handler(named(1, script="fix it"), named(2), named(3, script=" "))
    assert script_before(handled, []) is None
    assert script_before(handled, history((FAILED, 1))) == Script(1, "fix it", 1, 1)
    assert script_before(handled, history((FAILED, 1), (None, None))) == Script(1, "fix it", 1, 1)
    assert script_before(handled, history((FAILED, 1), (FAILED, None))) is None, "a person's retry begins anew"
    assert script_before(handled, history((FAILED, 2))) is None
    assert script_before(handled, history((FAILED, 3))) is None
    assert script_before(handled, history((FAILED, 4))) is None, "a rule that the handler has not"
    assert handlers.last_retried(history((FAILED, 2), (None, None))) == history((FAILED, 2))[0]


def test_the_digest_tells_what_defines_a_run() -> None:
    job = Job(id=1, name="one", command="true")
    base = digest(job, {})
    assert len(base) == 16
    assert int(base, 16) >= 0
    assert digest(msgspec.structs.replace(job, id=2, name="two", priority=7), {}) == base
    env = msgspec.structs.replace(job, env={"B": "2", "A": "1"})
    assert digest(env, {}) == digest(msgspec.structs.replace(job, env={"A": "1"}), {"A": "0", "B": "2"}) != base
    script = msgspec.structs.replace(job, invocation_script="nice")
    assert (
        len({base, digest(env, {}), digest(script, {}), digest(msgspec.structs.replace(job, command="false"), {})}) == 4
    )
