"""What the code does on the disk is what the model of the protocol allows: every call is traced and replayed there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import spooltools as tools
from protocol_model import Protocol
from protocol_state import Faults, Rules, State
from spooltools import Hand, Wanted

from torc_spool import changes, fsops
from torc_spool.model import Status

_JOB = r"[\d.]+-0*(?P<job>\d+)\.(?P<attempt>\d+)-[^/]*"
_STEPS = [  # (call, source, target, the model's step)
    ("rename", rf"ready/any/{_JOB}", r"pending/(?P<who>[^/~]+)/.*", "c1 {who} {job}.{attempt}"),
    ("rename", rf"pending/(?P<who>[^/~]+)/{_JOB}", r"running/.*", "t2 {who}"),
    ("link", rf"running/(?P<who>[^/~]+)/{_JOB}", r".*", "f1 {who}"),
    ("rename", r"running/(?P<who>[^/~]+)/\..*", r".*", "f2 {who}"),
    ("rename", rf"(?:pending|running)/(?P<who>[^/~]+)/{_JOB}", r"done/.*", "{shows} {who}"),
    ("rename", rf"blocked/{_JOB}", r"ready/.*", "r1 * {job}.{attempt}"),
    ("rename", rf"blocked/{_JOB}", r"done/canceled/.*~.*", "k1 * {job}.{attempt}"),
    ("rename", rf"(?:ready/any|blocked|held)/{_JOB}", r"done/canceled/[^~]*", "n1 {job}.{attempt}"),
    ("rename", rf"(?:ready/any|blocked)/{_JOB}", r"held/.*", "h1 {job}.{attempt} held"),
    ("rename", rf"held/{_JOB}", r"(?:ready|blocked)/.*", "h1 {job}.{attempt} released"),
    ("rename", rf"(?:held|blocked)/{_JOB}", r"(?:held|blocked)/.*", "w2 {job}.{attempt}"),
    ("rename", rf"done/canceled/{_JOB}", r"(?:ready|blocked)/.*", "{returns}{job}.{attempt}"),
    ("create", r"requests/cancel-0*(?P<id>\d+)\.(?P<attempt>\d+)", r"", "q1 {job}.{attempt}"),
    ("rename", r"runners/(?P<other>[^/~]+)", r"runners/(?P<who>[^/~]+)/taken/.*", "v3 {who} takes {other}"),
    ("rename", r"running/(?P<other>[^/~]+)", r"running/(?P<who>[^/~]+)~.*", "v5 {who} R{other}"),
    ("rename", r"pending/(?P<other>[^/~]+)", r"pending/(?P<who>[^/~]+)~.*", "v5 {who} P{other}"),
    ("rename", rf"\w+/(?P<who>[^/~]+)~[^/]+/{_JOB}", r".*", "v6 {who} {job}"),
    ("unlink", r"\w+/(?P<who>[^/~]+)~[^/]+/\..*", r"", "v6 {who} spare?"),  # or an old content
    ("rmdir", r"running/(?P<who>[^/~]+)~(?P<other>[^/]+)", r"", "v7 {who} R{who}~{other}"),
    ("rmdir", r"pending/(?P<who>[^/~]+)~(?P<other>[^/]+)", r"", "v7 {who} P{who}~{other}"),
    ("rename", rf"(?:pending|running)/(?P<who>[^/~]+)/{_JOB}", r"ready/.*", "{gives} {who}"),
]
_SILENT = re.compile(r"look|see|crash|declare|v8|v11|v5 \d (done|again)|v7 \d done")
_NOT_OF_JOBS = re.compile(r"runners/|requests/|(pending|running)/[^/~]+$")  # births, beats, ends, wishes obeyed


class Traced:
    """The calls of this process that move or remove something below one workflow's directory."""

    def __init__(self, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.calls = root, list[tuple[str, str, str]]()
        for name in ("rename", "link", "unlink", "rmdir"):
            monkeypatch.setattr(fsops.os, name, self._recorded(name, getattr(os, name)))
        create = fsops.create

        def recorded(path: str, data: bytes = b"", mode: int = 0o644) -> bool:
            if path.startswith(f"{root}/requests/"):
                self.calls.append(("create", self._inside(path), ""))
            return create(path, data, mode)

        monkeypatch.setattr(fsops, "create", recorded)

    def _recorded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(source: str, target: str = "", **more: Any) -> Any:
            result = call(source, target, **more) if target else call(source, **more)
            if source.startswith(self.root):
                self.calls.append((name, self._inside(source), self._inside(target)))
            return result

        return wrapper

    def _inside(self, path: str) -> str:
        return path.removeprefix(self.root + "/")


def labels(calls: list[tuple[str, str, str]], actors: list[str]) -> Iterator[str]:
    """What the model calls each call."""
    recorded: set[tuple[str, str]] = set()  # results written by the one who shows them
    begun: set[tuple[str, str]] = set()
    for name, source, target in calls:
        for kind, before, after, label in _STEPS:
            one, other = re.fullmatch(before, source), re.fullmatch(after, target)
            if kind != name or one is None or other is None:
                continue
            found = one.groupdict() | other.groupdict()
            numbered = {key: actors.index(value) for key, value in found.items() if key in ("who", "other")}
            if "attempt" in found:
                job = found.get("job") or found["id"]
                numbered |= {"job": int(job) - 1, "attempt": int(found["attempt"])}
            if label.startswith("f1"):
                begun.add((found["who"], source))
            elif label.startswith("f2"):
                if (found["who"], target) not in begun:
                    break  # a taker notes a lost attempt: that is no result
                recorded.add((found["who"], target))
            own = (found.get("who", ""), source) in recorded
            yield label.format(
                **numbered,
                shows="f3" if own else "v9",
                gives="f3'" if own else "v10",
                returns="w1 * " if "~" in source else "y1 ",
            )
            break
        else:
            assert _NOT_OF_JOBS.match(source), f"the model has no step for {name} {source} -> {target}"


def replay(protocol: Protocol, steps: list[str]) -> None:
    """Some way through the model takes these steps in this order."""
    states = _silently(protocol, {protocol.initial()})
    for number, step in enumerate(steps):
        wanted = re.compile(
            "(late )?" + re.escape(step.removesuffix("?")).replace(r"\*", r"\d") + "( to retry| canceled)?"
        )
        after = {new for state in states for name, new in protocol.steps(state) if wanted.fullmatch(name)}
        if step.endswith("?"):
            after |= states
        assert after, f"after {steps[:number]} the model does not allow {step!r}"
        states = _silently(protocol, after)


def _silently(protocol: Protocol, states: set[State]) -> set[State]:
    """And all that can be reached without a call that is traced."""
    stack = list(states)
    while stack:
        for name, after in protocol.steps(stack.pop()):
            if _SILENT.match(name) and after not in states:
                states.add(after)
                stack.append(after)
    return states


def both_run_it(one: Hand, other: Hand) -> None:
    one.take("first")
    one.finish(1, Status.COMPLETED)
    other.served.settle()
    other.take("second")
    other.finish(2, Status.COMPLETED)


def taken_back_when_pending(one: Hand, other: Hand) -> None:
    one.claim()
    _taken_back(one, other)


def taken_back_when_running(one: Hand, other: Hand) -> None:
    one.take("first")
    _taken_back(one, other)


def taken_back_with_its_result(one: Hand, other: Hand) -> None:
    one.take("first")
    one.record_result(1, Status.COMPLETED)
    _taken_back(one, other)


def taken_back_from_both(one: Hand, other: Hand) -> None:
    one.take("first")
    _taken_back(one, other)
    other.take("first")
    _taken_back(other, one)


def run_again_by_the_other(one: Hand, other: Hand) -> None:
    one.take("first")
    one.retry(1)
    other.take("first")
    other.finish(1, Status.COMPLETED)


def taken_back_with_a_result_to_retry(one: Hand, other: Hand) -> None:
    one.take("first")
    filename, name, claimed = one.running[1]
    failed = msgspec.structs.replace(tools.result(one.name, name.attempt, Status.FAILED), retry_rule=1)
    assert one.actor.record_result(filename, claimed.content, failed)
    _taken_back(one, other)


def canceled_and_retried(one: Hand, other: Hand) -> None:
    changes.cancel(one.store, ["first"])
    other.served.settle()
    changes.retry(one.store, ["first"])
    other.take("first")
    other.finish(1, Status.COMPLETED)


def held_canceled_and_retried(one: Hand, other: Hand) -> None:
    changes.hold(one.store, ["second"])
    changes.cancel(one.store, ["first"])
    changes.retry(one.store, ["first"])
    changes.release(one.store, ["second"])
    other.take("first")
    other.finish(1, Status.COMPLETED)


def canceled_while_it_runs(one: Hand, other: Hand) -> None:
    one.take("first")
    changes.cancel(other.store, ["first"])
    one.finish(1, Status.CANCELED)
    other.served.settle()


def taken_back_when_it_was_to_be_canceled(one: Hand, other: Hand) -> None:
    one.take("first")
    changes.cancel(other.store, ["first"])
    _taken_back(one, other)


def taken_back_when_pending_and_to_be_canceled(one: Hand, other: Hand) -> None:
    one.claim()
    changes.cancel(other.store, ["first"])
    _taken_back(one, other)


ANYWAY = (held_canceled_and_retried,)  # the second is not canceled with the first


def _taken_back(dead: Hand, other: Hand) -> None:
    changes.recover(other.store, said_dead=[dead.name])


@pytest.mark.parametrize(
    "story",
    [
        both_run_it,
        taken_back_when_pending,
        taken_back_when_running,
        taken_back_with_its_result,
        taken_back_from_both,
        run_again_by_the_other,
        taken_back_with_a_result_to_retry,
        canceled_and_retried,
        held_canceled_and_retried,
        canceled_while_it_runs,
        taken_back_when_it_was_to_be_canceled,
        taken_back_when_pending_and_to_be_canceled,
    ],
)
def test_what_the_code_does_the_model_allows(
    story: Callable[[Hand, Hand], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = str(tmp_path / "spool")
    anyway = story in ANYWAY
    tools.submit(spool, tools.workflow({"first": Wanted(), "second": Wanted(after=("first",), anyway=anyway)}))
    store = tools.open_workflow(spool)
    one, other = Hand(store), Hand(tools.open_workflow(spool))
    traced = Traced(store.layout.root, monkeypatch)
    story(one, other)
    names = [one.name, other.name]
    names += dict.fromkeys(name for _, _, target in traced.calls for name in _takers(target))
    faults = Faults(declared=2, retries=1, commands=4)
    protocol = Protocol(jobs=2, takers=len(names) - 2, chained=True, anyway=anyway, rules=Rules(), faults=faults)
    steps = list(labels(traced.calls, names))
    assert len(steps) > 4
    replay(protocol, steps)


def _takers(target: str) -> list[str]:
    return re.findall(r"runners/([^/]+)/taken/", target)


def test_what_the_model_does_not_allow_is_found_out() -> None:
    protocol = Protocol(jobs=2, chained=True, rules=Rules(), faults=Faults(declared=2))
    replay(protocol, ["c1 0 0.1", "t2 0", "f1 0", "f2 0", "f3 0", "r1 1 1.1"])
    for steps in (["t2 0"], ["c1 0 1.1"], ["c1 0 0.1", "t2 0", "f3 0"], ["c1 0 0.1", "v10 1"]):
        with pytest.raises(AssertionError, match="does not allow"):
            replay(protocol, steps)
