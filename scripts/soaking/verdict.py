"""What is wrong with a workflow that has come to its end: pure, from its evidence and what was done to its runners."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from evidence import Evidence, Found, Run
from workload import Expected


class Deaths(NamedTuple):
    """What is known of the runners that did not end of themselves."""

    pids: Collection[int]  # killed, declared dead, or given up because the disk was full
    disk_was_full: bool


class Tally(NamedTuple):
    """What the evidence amounts to."""

    jobs: int
    attempts: int  # recorded
    lost: int  # of these, lost with their runners
    executions: int
    actions: int
    interrupted: int  # actions whose runner died while it performed them
    recovered: int  # runners whose work was taken back


def tally(evidence: Evidence) -> Tally:
    attempts = [attempt for found in evidence.files for attempt in found.content.get("attempts", ())]
    states = Counter(state for state, _, _ in evidence.actions.values())
    return Tally(
        len(evidence.files),
        len(attempts),
        sum(attempt.get("outcome") is None for attempt in attempts),
        sum(len(runs) for runs in evidence.runs.values()),
        states["done"],
        states["running"],
        evidence.recovered,
    )


def problems(expected: dict[str, Expected], evidence: Evidence, deaths: Deaths) -> Iterator[str]:
    """One sentence for each law that does not hold."""
    yield from (f"{where}: is no job's file, or was set aside" for where in evidence.foreign)
    files: dict[int, list[Found]] = {}
    for found in evidence.files:
        files.setdefault(found.id, []).append(found)
    ids = {name: number for number, name in enumerate(expected, 1)}
    for name, number in ids.items():
        here = files.get(number, [])
        if len(here) != 1:
            places = ", ".join(found.where for found in here) or "nowhere"
            yield f"job {number}: must have one file, and lies {places}"
            continue
        runs = evidence.runs.get(number, [])
        for what in (
            *_outcome(expected[name], here[0]),
            *_attempts(here[0], deaths),
            *_retries(expected[name], here[0]),
            *_executions(here[0], runs, deaths),
            *_journal(here[0], evidence),
            *_output(expected[name], here[0], evidence, deaths),
            *_order(runs, {each: evidence.runs.get(ids[each], []) for each in expected[name].after}),
        ):
            yield f"job {number} ({here[0].where}): {what}"
    yield from _actions(evidence, deaths)


def _recorded(found: Found) -> list[dict[str, Any]]:
    attempts: list[dict[str, Any]] = found.content.get("attempts", [])
    return attempts


def _outcome(expected: Expected, found: Found) -> Iterator[str]:
    place = found.where.split("/")
    if place[:2] != ["done", expected.outcome]:
        yield f"must end {expected.outcome}"
    if expected.outcome == "canceled":
        return
    last = (_recorded(found) or [{}])[-1]
    if (last.get("outcome"), last.get("return_code"), last.get("attempt")) != (
        expected.outcome,
        expected.return_code,
        found.attempt,
    ):
        yield f"its last attempt must be {found.attempt}, {expected.outcome} with {expected.return_code}, and is {last}"


def _attempts(found: Found, deaths: Deaths) -> Iterator[str]:
    numbers = [attempt["attempt"] for attempt in _recorded(found)]
    if sorted(set(numbers)) != numbers:
        yield f"an attempt is recorded twice, or out of order: {numbers}"
    for attempt in _recorded(found):
        if attempt.get("outcome") is not None:
            continue
        if not str(attempt.get("reason", "")).startswith("its runner died: "):
            yield f"attempt {attempt['attempt']} has no outcome, and no death as its reason: {attempt}"
        elif _pid(attempt["runner"]) not in deaths.pids:
            yield f"attempt {attempt['attempt']} was lost with {attempt['runner']}, to which nothing was done"


def _retries(expected: Expected, found: Found) -> Iterator[str]:
    """A death may not use up a retry: the failures are counted that really were."""
    failures = sum(attempt.get("return_code") == 10 for attempt in _recorded(found))
    least, most = expected.failures
    if not least <= failures <= most:
        yield f"must have failed {least} to {most} times with 10, and did {failures} times"
    others = [
        a for a in _recorded(found) if a.get("outcome") and a.get("return_code") not in (10, expected.return_code)
    ]
    if others:
        yield f"has ended as it cannot: {others}"


def _executions(found: Found, runs: list[Run], deaths: Deaths) -> Iterator[str]:
    ran = Counter(run.attempt for run in runs)
    recorded = {attempt["attempt"]: attempt for attempt in _recorded(found)}
    for number, times in ran.items():
        if times > 1:
            yield f"attempt {number} ran {times} times"
        if number not in recorded:
            yield f"attempt {number} ran and is not recorded"
    ended = {run.attempt: run for run in runs}
    for number, attempt in recorded.items():
        if attempt.get("outcome") is None:
            continue
        run = ended.get(number)
        if run is None:
            yield f"attempt {number} is recorded as {attempt['outcome']} and never ran"
        elif (run.code, run.runner) != (attempt.get("return_code"), attempt.get("runner")):
            yield f"attempt {number} ran as {run}, and is recorded as {attempt}"
    for run in runs:
        other = recorded.get(run.attempt, {}).get("runner")
        if other not in (None, run.runner) and _pid(run.runner) not in deaths.pids:
            yield f"attempt {run.attempt} ran with {run.runner}, which lived, and is recorded for {other}"


def _journal(found: Found, evidence: Evidence) -> Iterator[str]:
    recorded = {attempt["attempt"]: attempt for attempt in _recorded(found)}
    for name, counts in (("start", evidence.starts), ("end", evidence.ends)):
        for (job, attempt), times in counts.items():
            if job != found.id:
                continue
            if times > 1:
                yield f"the journals have {times} lines of the {name} of attempt {attempt}"
            if name == "end" and recorded.get(attempt, {}).get("outcome") is None:
                yield f"the journals have an end of attempt {attempt}, and its file has none"


def _output(expected: Expected, found: Found, evidence: Evidence, deaths: Deaths) -> Iterator[str]:
    last = (_recorded(found) or [{}])[-1]
    path = last.get("stdout")
    if (path is not None) != expected.keeps_output:
        yield f"its output must {'' if expected.keeps_output else 'not '}be kept, and its file is {path}"
    if path is None:
        return
    lines = evidence.outputs.get(path.rsplit("/", 1)[1])
    if lines != [f"attempt {found.attempt}"] and not deaths.disk_was_full:
        yield f"{path} must hold the output of attempt {found.attempt}, and holds {lines}"


def _order(runs: list[Run], others: dict[str, list[Run]]) -> Iterator[str]:
    """No execution begins before what it waits for has ended: in the end, or with a runner."""
    first = min((run.began for run in runs), default=None)
    for name, theirs in others.items():
        if first is None or not theirs:
            continue
        last = max(theirs, key=lambda run: run.attempt)
        if last.ended is None or last.ended > first:
            yield f"ran before {name} had ended, for which it has to wait: {first} and {last}"


def _actions(evidence: Evidence, deaths: Deaths) -> Iterator[str]:
    for number in range(1, 4):
        state, runner, code = evidence.actions.get(number, ("nowhere", None, None))
        performers = evidence.performed.get(number, [])
        if len(performers) > 1:
            yield f"action {number} was performed {len(performers)} times, by {', '.join(performers)}"
        if state == "done":
            if code == 0 and performers != [runner]:
                yield f"action {number} is recorded as performed by {runner}, and was by {performers or 'nobody'}"
            if code != 0 and not deaths.disk_was_full:
                yield f"action {number} failed with {code}"
        elif state != "running":
            yield f"action {number} is {state} at the end"
        elif runner is None or _pid(runner) not in deaths.pids:
            yield f"action {number} is interrupted, and nothing was done to {runner}"


def _pid(runner: str) -> int:
    return int(runner.rsplit("-", 2)[1])
