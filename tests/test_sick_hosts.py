"""A host on which everything fails at once does not eat the queue, and a workflow that is all wrong still ends."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import cliutil
import msgspec
import pytest
import spooltools as tools
from cliutil import Lab
from hypothesis import given
from hypothesis import strategies as st
from spooltools import Hand, Wanted
from test_allocation_deaths import SMALL, Site

from torc_spool import allocations, sickhosts
from torc_spool.allocations import Wish
from torc_spool.model import Attempt, SickHost, Status
from torc_spool.repair import look
from torc_spool.store import Store
from torc_spool.streak import Streak, Verdict, verdict

lab = cliutil.lab

FAILED, COMPLETED = Status.FAILED, Status.COMPLETED


@pytest.fixture
def site(lab: Lab) -> Site:
    return Site(lab)


def ended(outcome: Status, exec_s: float = 0.1, number: int = 1, **fields: Any) -> Attempt:
    return Attempt(attempt=number, outcome=outcome, exec_s=exec_s, **fields)


# -- the decision


def test_different_jobs_that_fail_at_once_are_counted_and_one_that_works_begins_anew() -> None:
    streak = Streak(3)
    for job in (1, 2, 2, 2):
        streak.note(1, job, ended(FAILED))
    assert not streak.is_long
    streak.note(1, 9, ended(Status.CANCELED))
    assert len(streak.failed) == 2
    streak.note(1, 9, ended(FAILED, cause="out_of_memory", exec_s=0.1))
    assert not streak.failed  # it got so far as to use up its memory
    for job in (1, 2, 3):
        streak.note(1, job, ended(FAILED))
    assert streak.is_long
    assert str(streak) == "3 different jobs in a row failed within 1 s of their start"
    streak.is_judged = True
    streak.note(1, 4, ended(FAILED))
    assert not streak.is_long
    for last in (ended(COMPLETED), ended(FAILED, exec_s=1.5)):
        streak.note(1, 5, last)
        assert (streak.failed, streak.is_judged) == ([], False)


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from((FAILED, COMPLETED))), max_size=12), st.integers(0, 4))
def test_a_streak_is_as_long_as_the_different_jobs_since_the_last_that_completed(
    ends: list[tuple[int, Status]], most: int
) -> None:
    streak = Streak(most)
    for job, outcome in ends:
        streak.note(1, job, ended(outcome))
    since = []
    for job, outcome in reversed(ends):
        if outcome is COMPLETED:
            break
        since.append(job)
    assert {failed.job for failed in streak.failed} == set(since)
    assert streak.is_long == (0 < most <= len(set(since)))


@pytest.mark.parametrize(
    ("asked", "company", "others", "completed", "found"),
    [
        (True, False, True, False, Verdict.SICK),
        (False, False, False, True, Verdict.ALONE),
        (False, True, False, False, Verdict.SICK),
        (False, True, True, True, Verdict.SICK),
        (False, True, True, False, Verdict.WORKFLOW),
    ],
)
def test_what_a_streak_means(asked: bool, company: bool, others: bool, completed: bool, found: Verdict) -> None:
    assert verdict(is_asked_for=asked, has_company=company, others_fail_too=others, any_completed=completed) is found


# -- notes


@pytest.fixture
def hand(tmp_path: Path) -> Hand:
    """A runner that has failed two jobs of three at once."""
    os.chmod(tmp_path, 0o755)
    spool = f"{tmp_path}/spool"
    tools.submit(spool, tools.workflow({"a": Wanted(), "b": Wanted(), "c": Wanted(), "d": Wanted(after=("a",))}))
    hand = Hand(tools.open_workflow(spool))
    hand.take("a", "b")
    for job in (1, 2):
        hand.finish(job, FAILED, exec_s=0.0)
    return hand


def streak_of(*jobs: int) -> Streak:
    streak = Streak(1)
    for job in jobs:
        streak.note(1, job, ended(FAILED))
    return streak


def other_note(store: Store, **fields: Any) -> SickHost:
    note = {"host": "n7", "runner": "n7-1-0123abcd", "time": time.time(), "reason": "so it is", **fields}
    found = SickHost(**note)
    os.makedirs(store.layout.sick, exist_ok=True)
    Path(f"{store.layout.sick}/{found.runner}.json").write_bytes(msgspec.json.encode(found))
    return found


def test_a_note_gives_the_jobs_back_but_not_those_that_failed_so_elsewhere(hand: Hand) -> None:
    store, record = hand.store, msgspec.structs.replace(hand.record, host="n8")
    seen = store.locate(2)
    assert seen is not None
    content = store.read_job(store.path(seen), 2)
    assert content is not None
    before = ended(FAILED, number=0, host="n7")
    job = msgspec.structs.replace(content.job, attempts=(before, *content.job.attempts))
    Path(store.path(seen)).write_bytes(msgspec.json.encode(job))
    assert sickhosts.note(store, record, streak_of(1, 2)) == ["a"]
    states = tools.states(store.layout.root)
    assert (states["a"], states["b"], states["d"]) == (Status.READY, FAILED, Status.BLOCKED)
    (note,) = sickhosts.notes(store)
    assert (note.host, note.jobs, note.any_completed) == ("n8", (1, 2), False)
    assert "foreign" not in [finding.kind for finding in look(store)]
    assert sickhosts.lift(store, "n8") == [record.name]
    assert sickhosts.notes(store) == []


def test_a_second_host_that_fails_alike_speaks_for_the_hosts_unless_nothing_has_completed(hand: Hand) -> None:
    store, record = hand.store, msgspec.structs.replace(hand.record, slurm_node="n8", host="n8")
    other_note(store)
    found, said = sickhosts.judge(store, record, streak_of(1, 2), is_asked_for=False)
    assert found is Verdict.WORKFLOW
    assert "as on n7: it is the jobs, not the hosts" in said
    assert sickhosts.notes(store) == []
    other_note(store, any_completed=True)
    Path(f"{store.layout.outcome(COMPLETED)}/x").touch()
    assert sickhosts.judge(store, record, streak_of(1, 2), is_asked_for=False)[0] is Verdict.SICK
    alone = msgspec.structs.replace(record, slurm_node=None, name=hand.name)
    assert sickhosts.judge(store, alone, streak_of(1), is_asked_for=False)[0] is Verdict.ALONE


def test_one_who_was_alone_is_judged_again_when_others_have_come(hand: Hand) -> None:
    """Else a sick host that is the first to begin would eat the queue."""
    store, streak = hand.store, Streak(2)
    for number, job in enumerate((1, 2, 3, 4), 1):
        streak.note(1, job, ended(FAILED))
        assert streak.is_long == (number % 2 == 0)
        if number == 2:
            found, said = sickhosts.judge(store, hand.record, streak, is_asked_for=False)
            assert (found, "so this one goes on" in said) == (Verdict.ALONE, True)
    assert sickhosts.judge(store, hand.record, streak, is_asked_for=False) == (Verdict.ALONE, ""), "it is said once"
    other = Hand(store)
    for job in (5, 6):
        streak.note(1, job, ended(FAILED))
    assert streak.is_long
    assert sickhosts.judge(store, hand.record, streak, is_asked_for=False)[0] is Verdict.SICK
    assert not streak.is_long
    other.leave()


def test_notes_hold_for_a_day_and_what_cannot_be_read_is_none(hand: Hand) -> None:
    note = other_note(hand.store)
    Path(f"{hand.store.layout.sick}/n9-1-0123abcd.json").write_text('{"host": ')
    assert sickhosts.notes(hand.store) == [note]
    assert sickhosts.notes(hand.store, now=note.time + 86_401) == []


def test_new_allocations_exclude_the_nodes_that_are_noted(lab: Lab, site: Site) -> None:
    lab.submit({"name": "j1", "command": "true"}, slurm_schedulers=[{**SMALL[0], "exclude": "n1"}])
    store = tools.open_workflow(str(lab.spool))
    other_note(store, slurm_node="n7")
    assert allocations.prepare(store, Wish(), ["torc-spool"]).asked["exclude"] == "n1,n7"
    assert "--exclude=n1,n7" in lab.torc("slurm", "schedule-nodes", 1, "--dry-run").stdout
    of_another = other_note(store, host="x1", runner="x1-1-0123abcd", slurm_node="x1", slurm_cluster="small")
    site.command("scontrol", "echo 'ClusterName             = big'")  # it has no node x1
    assert "--exclude=n1,n7\n" in lab.torc("slurm", "schedule-nodes", 1, "--dry-run").stdout
    site.command("scontrol", "exit 1")
    assert "--exclude=n1,n7,x1\n" in lab.torc("slurm", "schedule-nodes", 1, "--dry-run").stdout
    sickhosts.lift(store, of_another.host)
    assert "host n7 is noted as sick by runner n7-1-0123abcd: so it is" in lab.torc("run", 1).stderr
    shown = lab.torc("sick-hosts", "list", 1, "-f", "json").json
    assert [(row["host"], row["slurm_node"]) for row in shown] == [("n7", "n7")]
    assert "sick host n7: so it is" in lab.torc("status", 1).stdout
    lab.torc("sick-hosts", "lift", 1, "n7")
    assert lab.torc("status", 1, "-f", "json").json["sick_hosts"] == []
    assert "has no sick host 'n7'; it has: none" in lab.torc("sick-hosts", "lift", 1, "n7", code=2).sentence()


# -- runners


def test_a_sick_runner_gives_its_jobs_to_the_one_that_is_well(lab: Lab) -> None:
    gate = lab.gate()
    tool = lab.base / "well" / "tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nexit 0\n")
    tool.chmod(0o755)
    lab.submit({"name": "first", "command": gate.wait, "priority": 9}, *(["tool"] * 12))
    path = lab.env["PATH"]
    lab.env["PATH"] = f"{tool.parent}:{path}"
    well = lab.start("run", 1, "-p", 1)
    gate.await_jobs("first")
    lab.env["PATH"] = path
    sick = lab.torc("run", 1, "-p", 1, "--sick-within", 30, code=4)
    assert "5 different jobs in a row failed within 30 s of their start: this runner claims nothing more" in sick.stderr
    assert sorted(lab.states().values()) == ["ready"] * 12 + ["running"]
    assert len(lab.torc("status", 1, "-f", "json").json["sick_hosts"]) == 1
    gate.open()
    well.wait(0)
    assert set(lab.states().values()) == {"completed"}
    lab.check()


def test_one_who_is_alone_goes_on_and_says_so_unless_a_number_is_asked_for(lab: Lab) -> None:
    lab.submit(*(["exit 3"] * 7))
    done = lab.torc("run", 1, "--sick-after", 2, "--sick-within", 30, "-p", 1, "-f", "json", code=4)
    assert "2 different jobs in a row failed" in done.stderr
    assert sorted(lab.states().values()) == ["ready"] * 7
    alone = lab.run(1, "-p", 1, "--sick-within", 30, code=1)
    assert alone.stderr.count("no other runner is there for them, so this one goes on") == 1
    assert set(lab.states().values()) == {"failed"}
    assert json.loads(done.stdout)["recorded"] == {"failed": 2}
    lab.check()
