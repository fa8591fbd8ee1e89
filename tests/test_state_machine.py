"""Several runners and a person, in any order, against a plain model in memory: model and directories agree.

Every rule is an operation of the library (or a move by hand that the format allows) and the same on the model. After
each, every job's state, attempt, priority, scheduler, cause and attempts are compared, and the invariants (I1 to I12)
checked. What an operation may do or leave undone (a settling from memory, a recovery that is cut short, two operations
at the same time) is read from the directories after it was found to be allowed.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
import pytest
import spooltools as tools
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from spooltools import OWNED, Hand, Seen, Tree, Wanted, check_invariants
from statemodel import (
    BY_HAND,
    CHOICE,
    ENDS,
    FIRST_PID,
    GPU,
    Crew,
    Died,
    Model,
    ModelJob,
    expected_claims,
    graphs,
    one_of,
)

from torc_spool import changes, fsops, naming, processes
from torc_spool.actor import Actor, identity, new_name
from torc_spool.errors import Fenced, NotFound
from torc_spool.model import MAX_PRIORITY, OUTCOMES, UNSUCCESSFUL, RunnerRecord, Status
from torc_spool.naming import Cause
from torc_spool.select import Entry
from torc_spool.settle import Settler
from torc_spool.store import Store


class Spools(RuleBasedStateMachine):
    """One workflow, and all who have to do with it."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        otherwise = Path(tempfile.gettempdir())
        self._base = self._stack.enter_context(tools.directory_in_memory(otherwise))
        self.spool = tempfile.mkdtemp(dir=self._base)
        self._stack.callback(shutil.rmtree, self.spool)
        self._stack.enter_context(tools.without_syncs_and_searches())
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        self.alive: set[int] = set()
        self._next_pid = FIRST_PID
        self._born: list[Actor] = []
        patch.setattr(processes, "is_same_process", lambda pid, _start: pid in self.alive)
        patch.setattr(changes, "identity", self._identity)
        patch.setattr(Actor, "born", self._bear(Actor.born))
        self._patch = patch
        self.crews: list[Crew] = []
        self.tree: Tree | None = None
        self.deaths = 0

    def _identity(self, name: str, **what: Any) -> RunnerRecord:
        """A process of its own for everybody who says who he is."""
        self._next_pid += 1
        self.alive.add(self._next_pid)
        return msgspec.structs.replace(identity(name, **what), pid=self._next_pid, pid_start="1")

    def _bear(self, born: Callable[[Store, RunnerRecord], Actor]) -> Callable[[Store, RunnerRecord], Actor]:
        def remembered(store: Store, record: RunnerRecord) -> Actor:
            actor = born(store, record)
            self._born.append(actor)
            return actor

        return remembered

    @initialize(jobs=graphs())
    def submit(self, jobs: dict[str, Wanted]) -> None:
        tools.submit(self.spool, tools.workflow(jobs, schedulers=[GPU]))
        self.root = f"{self.spool}/1-test"
        self.store = tools.open_workflow(self.spool)
        self.model = Model(jobs)
        self.birth("any")
        self.birth(None)

    # -- runners --------------------------------------------------------------------------------------------

    @property
    def working(self) -> list[Crew]:
        return [crew for crew in self.crews if crew.alive and not crew.fenced]

    @property
    def dead(self) -> list[Crew]:
        return [crew for crew in self.crews if not crew.alive]

    @property
    def claimed(self) -> list[tuple[Crew, ModelJob]]:
        return [(crew, self.model.jobs[job]) for crew in self.working for job in crew.claimed]

    @property
    def running(self) -> list[tuple[Crew, ModelJob]]:
        return [(crew, self.model.jobs[job]) for crew in self.working for job in crew.hand.running]

    @property
    def unrecorded(self) -> list[tuple[Crew, ModelJob]]:
        return [(crew, job) for crew, job in self.running if job.recorded is None]

    @property
    def claimable(self) -> list[tuple[Crew, ModelJob]]:
        return [
            (crew, job)
            for crew in self.working
            for job in self.model.where(Status.READY)
            if crew.serves is None or job.detail in crew.serves
        ]

    @precondition(lambda self: len(self.working) < 3)
    @rule(kind=st.sampled_from(["any", None, GPU]))
    def birth(self, kind: str | None) -> None:
        record = self._identity(new_name(), scheduler=GPU if kind == GPU else None, any_scheduler=kind == "any")
        hand = Hand(self.store, scheduler=record.scheduler, any_scheduler=record.any_scheduler, record=record)
        serves = {None: ["any"], GPU: ["any", GPU], "any": None}[kind]
        self.crews.append(Crew(hand, serves))

    @precondition(lambda self: self.claimable)
    @rule(number=CHOICE, slots=st.integers(1, 3), fresh=st.booleans(), start=st.booleans())
    def claim(self, number: int, slots: int, fresh: bool, start: bool) -> None:
        """From a fresh view or from an old one: in order, what is there, and nothing else. Perhaps start it too."""
        crew, _ = one_of(self.claimable, number)
        served = crew.hand.served
        served.due = lambda _now: False  # type: ignore[method-assign]
        if fresh:
            served.refresh()
        ready = {(self.filename(job), job.detail): job for job in self.model.where(Status.READY)}
        view = [(entry.name, entry.directory) for entry in served._queue]
        mine = [key for key in ready if crew.serves is None or key[1] in crew.serves]
        if fresh:
            assert view == sorted(mine)
        expected = [ready[key] for key in expected_claims(view, sorted(mine), slots, looks_again=served.others > 0)]
        claimed = served.claim(tools.offer(slots))
        assert [one.name.id for one in claimed] == [job.id for job in expected if not job.damaged]
        for job in expected:
            if job.damaged:
                job.status = None
                continue
            if naming.scheduler_directory(job.bound) != job.detail:
                job.bound = GPU if job.detail == GPU else None
            job.go(Status.PENDING, crew.hand.name, cause=job.cause)
        crew.claimed.update({one.name.id: one for one in claimed})
        for job in expected if start else ():
            if not job.damaged:
                self.start_one(crew, job)

    def filename(self, job: ModelJob) -> str:
        """Its whole name as the model has it."""
        needs = "c1g0n1m1t0"
        cause = f"~{job.cause.id:09d}.{job.cause.attempt}" if job.cause else ""
        return f"{MAX_PRIORITY - job.priority:06d}-{job.id:09d}.{job.attempt}-{needs}-{job.name}{cause}.json"

    @precondition(lambda self: self.claimable)
    @rule(number=CHOICE)
    def die_between_claim_and_start(self, number: int) -> None:
        """c1 is done, and nobody has looked into the file."""
        crew, job = one_of(self.claimable, number)
        assert crew.hand.actor.claim(Entry(self.filename(job), job.detail or ""))
        job.go(Status.PENDING, crew.hand.name, cause=job.cause)
        self.kill(crew)

    @precondition(lambda self: self.claimed)
    @rule(number=CHOICE)
    def start(self, number: int) -> None:
        self.start_one(*one_of(self.claimed, number))

    def start_one(self, crew: Crew, job: ModelJob) -> None:
        assert crew.hand.start(crew.claimed.pop(job.id))
        if job.attempts and job.attempts[-1][0] >= job.attempt:
            job.attempt = job.attempts[-1][0] + 1
        job.go(Status.RUNNING, crew.hand.name)

    @precondition(lambda self: self.unrecorded)
    @rule(number=CHOICE, outcome=ENDS)
    def record(self, number: int, outcome: Status) -> None:
        """f2, and the outcome is not shown yet."""
        crew, job = one_of(self.unrecorded, number)
        assert crew.hand.record_result(job.id, outcome)
        job.attempts.append((job.attempt, outcome))

    @precondition(lambda self: self.running)
    @rule(number=CHOICE, outcome=ENDS)
    def finish(self, number: int, outcome: Status) -> None:
        """To the end, and what follows by what this runner remembers: it may know too little, never do wrong."""
        crew, job = one_of(self.running, number)
        outcome = Status(job.recorded) if job.recorded else outcome
        if job.recorded is None:
            job.attempts.append((job.attempt, outcome))
        crew.hand.finish(job.id, outcome)
        job.go(outcome)
        if outcome is Status.CANCELED:
            self.model.wishes.discard(Cause(job.id, job.attempt))
        self.adopt_settling()

    @precondition(lambda self: self.unrecorded and self.model.wishes)
    @rule(number=CHOICE)
    def obey(self, number: int) -> None:
        """A runner looks at the wishes."""
        crew, _ = one_of(self.unrecorded, number)
        wishes = crew.hand.served.wishes()[0]
        assert wishes == self.model.wishes
        for job in [job for other, job in self.unrecorded if other is crew]:
            if Cause(job.id, job.attempt) in wishes:
                crew.hand.finish(job.id, Status.CANCELED)
                job.attempts.append((job.attempt, Status.CANCELED))
                job.go(Status.CANCELED)
                self.model.wishes.discard(Cause(job.id, job.attempt))
                self.adopt_settling()

    @precondition(lambda self: self.unrecorded)
    @rule(number=CHOICE)
    def give_back(self, number: int) -> None:
        crew, job = one_of(self.unrecorded, number)
        filename, name, claimed = crew.hand.running.pop(job.id)
        assert crew.hand.actor.give(filename, name, claimed.content.job, Status.RUNNING)
        job.back()

    @rule(number=CHOICE)
    def settle(self, number: int) -> None:
        """By a runner that has done it before, or by anybody."""
        if number % 2 and self.working:
            one_of(self.working, number).hand.served.settle()
        else:
            Settler(self.store).settle()
        self.model.settle()

    @precondition(lambda self: any(not crew.holds for crew in self.working))
    @rule(number=CHOICE)
    def leave(self, number: int) -> None:
        crew = one_of([crew for crew in self.working if not crew.holds], number)
        crew.hand.leave()
        self.crews.remove(crew)

    # -- the dead -------------------------------------------------------------------------------------------

    def kill(self, crew: Crew) -> None:
        crew.alive = False
        self.alive.discard(crew.hand.record.pid)

    @precondition(lambda self: any(crew.holds for crew in self.working))
    @rule(number=CHOICE)
    def die(self, number: int) -> None:
        self.kill(one_of([crew for crew in self.working if crew.holds], number))

    def in_dead_hands(self) -> list[ModelJob]:
        living = {crew.hand.name for crew in self.working}
        return [job for job in self.model.where(*OWNED) if job.detail not in living]

    def take_all_back(self) -> None:
        for job in self.in_dead_hands():
            self.model.take_back(job)
        self.crews = [crew for crew in self.crews if crew.alive]

    @precondition(lambda self: self.dead or self.in_dead_hands())
    @rule(number=CHOICE)
    def recover(self, number: int) -> None:
        if number % 2 and self.working:
            one_of(self.working, number).hand.served.recover()
            self.take_all_back()
        else:
            changes.recover(self.store)
            self.take_all_back()
            self.model.settle()

    @precondition(lambda self: any(crew.holds for crew in self.working))
    @rule(number=CHOICE)
    def say_dead(self, number: int) -> None:
        """A person declares a runner dead that is only frozen."""
        crew = one_of([crew for crew in self.working if crew.holds], number)
        crew.fenced = True
        changes.recover(self.store, said_dead=[crew.hand.name])
        self.take_all_back()
        self.model.settle()

    @precondition(lambda self: any(crew.fenced for crew in self.crews))
    @rule(number=CHOICE, which=CHOICE)
    def wake(self, number: int, which: int) -> None:
        """A frozen runner wakes after it was fenced: it can do nothing that only an owner may."""
        crew = one_of([crew for crew in self.crews if crew.fenced], number)
        steps = ["settle", "beat", "claim"]
        steps += ["start"] * bool(crew.claimed) + ["record", "show"] * bool(crew.hand.running)
        step = one_of(steps, which // 7)
        if step == "settle":
            crew.hand.served.settle()  # that anybody may
            self.model.settle()
            return
        before = tools.read(self.root)
        with contextlib.suppress(Fenced):
            if self.act_as_owner(crew, which, step):
                pytest.fail(f"a fenced owner could {step}")
        after = tools.read(self.root)
        damaged = {job.id for job in self.model.jobs.values() if job.damaged}
        assert {job: seen for job, seen in after.jobs.items() if job not in damaged} == {
            job: seen for job, seen in before.jobs.items() if job not in damaged
        }

    def act_as_owner(self, crew: Crew, which: int, step: str) -> bool:
        """A step that only an owner may take; False when there was nothing to do."""
        hand = crew.hand
        job = one_of(list(hand.running), which) if hand.running else None
        if step == "claim":
            ready = self.store.ready_entries(hand.served.ready_directories())
            return bool(ready) and bool([entry for entry in ready if hand.actor.claim(entry)])
        if step == "start" and crew.claimed:
            return hand.start(one_of(list(crew.claimed.values()), which))
        if step == "record" and job:
            return hand.record_result(job, Status.COMPLETED)
        if step == "show" and job:
            return hand.actor.show(hand.running[job][0], Status.COMPLETED)
        if step == "beat":
            hand.actor.beat()
            return True
        return False

    @precondition(lambda self: self.in_dead_hands())
    @rule(n=st.integers(1, 60), number=CHOICE, by_runner=st.booleans())
    def recover_and_die(self, n: int, number: int, by_runner: bool) -> None:
        """A taker that dies before its n-th call: all is as it was, or as it will be, or on the way."""
        crew = one_of(self.working, number) if by_runner and self.working else None
        pids = set(self.alive)
        before = {job.id: job for job in self.in_dead_hands()}
        died = self.until_death(n, crew.hand.served.recover if crew else lambda: changes.recover(self.store))
        if not died:
            self.take_all_back()
            if crew is None:
                self.model.settle()
            return
        self.deaths += 1
        if crew:
            self.kill(crew)
        self.alive &= pids
        self.adopt_taking(before)
        self.adopt_settling()

    def until_death(self, n: int, act: Callable[[], object]) -> bool:
        calls = 0

        def count(_operation: str, _path: str) -> None:
            nonlocal calls
            calls += 1
            if calls == n:
                raise Died

        self._patch.setattr(fsops, "fault", count)
        try:
            act()
        except Died:
            return True
        finally:
            self._patch.setattr(fsops, "fault", None)
        return False

    # -- a person -------------------------------------------------------------------------------------------

    def named(self, numbers: list[int]) -> list[ModelJob]:
        return [self.model.jobs[id_] for id_ in sorted({number % len(self.model.jobs) + 1 for number in numbers})]

    @rule(
        command=st.sampled_from(["cancel", "hold", "release", "release", "retry", "retry", "set_priority"]),
        numbers=st.lists(CHOICE, min_size=1, max_size=4),
        priority=st.integers(0, 3),
    )
    def person(self, command: str, numbers: list[int], priority: int) -> None:
        if command == "retry":
            self.retry(numbers)
        elif command == "set_priority":
            self.set_priority(self.named(numbers), priority)
        else:
            do: Callable[[list[ModelJob]], None] = getattr(self, command)
            do(self.named(numbers))

    def cancel(self, jobs: list[ModelJob]) -> None:
        changes.cancel(self.store, [job.name for job in jobs])
        for job in jobs:
            if job.status in tools.WAITING:
                job.go(Status.CANCELED)
            elif job.status in OWNED:
                self.model.wishes.add(Cause(job.id, job.attempt))
        self.model.settle()

    def hold(self, jobs: list[ModelJob]) -> None:
        changes.hold(self.store, [job.name for job in jobs])
        for job in jobs:
            if job.status in (Status.BLOCKED, Status.READY):
                job.go(Status.HELD)

    def release(self, jobs: list[ModelJob]) -> None:
        changes.release(self.store, [job.name for job in jobs])
        self.model.settle()
        for job in jobs:
            if job.status is Status.HELD:
                self._return(job, again=False)
        self.model.settle()

    def _return(self, job: ModelJob, *, again: bool, but: Collection[int] = ()) -> None:
        if self.model.may_run(job, but):
            bound = job.submitted_to if job.damaged else job.bound
            job.go(Status.READY, naming.scheduler_directory(bound), again=again)
        else:
            job.go(Status.BLOCKED, again=again)

    def retry(self, numbers: list[int]) -> None:
        """Of some jobs, or of all that have failed."""
        named = len(numbers) > 1
        self.settle_where_any_may_be_the_cause()
        jobs = self.named(numbers) if named else self.model.where(Status.FAILED, Status.TERMINATED)
        changes.retry(self.store, [job.name for job in jobs] if named else [])
        self.model.settle()
        roots = {job.id: self.model.root(job) for job in self.model.where(*UNSUCCESSFUL)}
        asked = {job.id for job in jobs}
        returning = {job for job, root in roots.items() if (root or job) in asked}
        back = []
        for job in jobs:
            if job.status in UNSUCCESSFUL and roots[job.id] is None:
                self._return(job, again=True, but=returning)
                back.append(job)
            elif job.status is None:
                self._make_anew(job, returning)
        self.model.settle(back)

    def settle_where_any_may_be_the_cause(self) -> None:
        """A retry settles first. Of several causes of a cancellation it may take another one than the model, and then
        it depends on that choice whether the job comes back: let it be made, and seen, beforehand."""
        trial = copy.deepcopy(self.model)
        trial.settle()
        canceled = [job for job in trial.where(Status.CANCELED) if job != self.model.jobs[job.id]]
        if any(len(trial.spoilers(job)) > 1 for job in canceled):
            Settler(self.store).settle()
            self.model.settle()
            self.agree()

    def _make_anew(self, job: ModelJob, but: Collection[int]) -> None:
        """From the record: as it was submitted."""
        job.damaged, job.attempts, job.bound = False, [], job.submitted_to
        job.priority = self.submitted_priority(job)
        self._return(job, again=True, but=but)

    def submitted_priority(self, job: ModelJob) -> int:
        return self.store.record(job.id).priority

    def set_priority(self, jobs: list[ModelJob], priority: int) -> None:
        changes.set_priority(self.store, [job.name for job in jobs], priority)
        for job in jobs:
            if job.status in tools.WAITING:
                job.priority, job.cause = priority, None

    # -- by hand --------------------------------------------------------------------------------------------

    def path(self, job: ModelJob) -> str:
        assert job.status is not None
        return f"{self.directory(job.status, job.detail)}/{self.filename(job)}"

    def directory(self, status: Status, detail: str | None) -> str:
        if status in OUTCOMES:
            return f"{self.root}/done/{status}"
        return f"{self.root}/{status}/{detail}" if detail else f"{self.root}/{status}"

    @property
    def movable(self) -> list[tuple[ModelJob, str]]:
        return [
            (job, to)
            for job in self.model.jobs.values()
            for to in BY_HAND.get(job.status, ())
            if job.status and to != job.detail
        ]

    @rule(number=CHOICE, raised=st.booleans(), damage=st.sampled_from([False, False, False, True]))
    def move_by_hand(self, number: int, raised: bool, damage: bool) -> None:
        """One of the moves that the format allows, by `mv`; or a power loss has cut a file short."""
        whole = [job for job in self.model.where(*tools.WAITING) if not job.damaged]
        if damage and whole:
            tools.damage(self.path(one_of(whole, number)))
            one_of(whole, number).damaged = True
        elif self.movable:
            self.move_one(*one_of(self.movable, number), raised)

    def move_one(self, job: ModelJob, to: str, raised: bool) -> None:
        source, was = self.path(job), job.status
        cause = job.cause
        if to == "rank":
            job.priority = (job.priority + 1) % 4
        elif to in ("any", GPU):
            job.go(Status.READY, to, again=raised and was in OUTCOMES, cause=cause)
        else:
            job.go(Status(to), again=raised and was in OUTCOMES, cause=cause)
        job.by_hand = job.early = True
        if was in OUTCOMES:
            for other in self.model.waiting_for(job):
                other.early = other.loose = True
        os.rename(source, self.path(job))
        note(f"{source} -> {self.path(job)}")

    # -- two at the same time -------------------------------------------------------------------------------

    @rule(n=st.integers(1, 50), numbers=st.tuples(CHOICE, CHOICE, CHOICE, CHOICE))
    def two_at_once(self, n: int, numbers: tuple[int, int, int, int]) -> None:
        """One operation, and before its n-th call another from beginning to end. The invariants hold."""
        what, first = one_of(self.operations(numbers[1]), numbers[0])
        inner, second = one_of(self.operations(numbers[3]), numbers[2])
        if " by " in what and what.partition(" by ")[2] == inner.partition(" by ")[2]:
            return  # no runner does two things at once
        note(f"{what}, and in it before call {n}: {inner}")
        may_come_back = {job.id for job in self.model.where(Status.CANCELED) if job.cause}
        calls = 0

        def interrupt(_operation: str, _path: str) -> None:
            nonlocal calls
            calls += 1
            if calls == n:
                with contextlib.suppress(Fenced):
                    second()

        self._patch.setattr(fsops, "fault", interrupt)
        try:
            with contextlib.suppress(Fenced):
                first()
        finally:
            self._patch.setattr(fsops, "fault", None)
        self.adopt_everything()
        for one, other in ((what, inner), (inner, what)) if calls >= n else ():
            self.check_that_wishes_are_kept(one, other, may_come_back)

    def check_that_wishes_are_kept(self, one: str, other: str, but: Collection[int]) -> None:
        """Whatever happened at the same time: who was canceled has ended, or somebody is asked to cancel him."""
        for job in self.model.jobs.values():
            spoiled = job.by_hand or other.startswith("retry") or job.status is None or job.id in but
            if one == f"cancel {job.name}" and not spoiled:
                assert job.ended or Cause(job.id, job.attempt) in self.model.wishes, f"{one} came to nothing: {job}"

    def operations(self, number: int) -> list[tuple[str, Callable[[], object]]]:
        """What there is to do now, so that two can be mixed."""
        store, job = self.store, one_of(list(self.model.jobs.values()), number)
        found: list[tuple[str, Callable[[], object]]] = [
            ("settle", lambda: Settler(store).settle()),
            (f"cancel {job.name}", lambda: changes.cancel(store, [job.name])),
            (f"set priority {job.name}", lambda: changes.set_priority(store, [job.name], number % 4)),
        ]
        if job.status in (Status.BLOCKED, Status.READY):
            found.append((f"hold {job.name}", lambda: changes.hold(store, [job.name])))
        if held := self.model.where(Status.HELD):
            one = one_of(held, number).name
            found.append((f"release {one}", lambda: changes.release(store, [one])))
        if failed := [other.name for other in self.model.jobs.values() if other.status in (*UNSUCCESSFUL, None)]:
            found.append((f"retry {one_of(failed, number)}", lambda: changes.retry(store, [one_of(failed, number)])))
        if self.dead or self.in_dead_hands():
            found += [("recover", lambda: changes.recover(store))] * 2
        for crew in self.working:
            found += [(f"{what} by {crew.hand.name}", do) for what, do in self.by_a_runner(crew, number)]
        return found

    def by_a_runner(self, crew: Crew, number: int) -> list[tuple[str, Callable[[], object]]]:
        found: list[tuple[str, Callable[[], object]]] = [
            ("claim", lambda: crew.claimed.update({one.name.id: one for one in crew.hand.claim(2)})),
            ("settle", crew.hand.served.settle),
        ]
        if self.dead:
            found.append(("recover", crew.hand.served.recover))
        if crew.claimed:
            found.append(("start", lambda: self.act_as_owner(crew, number, "start")))
        unrecorded = [job.id for other, job in self.unrecorded if other is crew]
        if unrecorded:
            job = one_of(unrecorded, number)
            outcome = Status.FAILED if number % 2 else Status.COMPLETED
            found.append((f"finish {job}", lambda: crew.hand.finish(job, outcome)))
            found.append((f"record {job}", lambda: crew.hand.record_result(job, outcome)))
        if crew.holds:
            found.append(("say dead", lambda: self._declare(crew)))
        return found

    def _declare(self, crew: Crew) -> None:
        crew.fenced = True
        with contextlib.suppress(NotFound):  # somebody else has said so already
            changes.recover(self.store, said_dead=[crew.hand.name])

    # -- model and directories ------------------------------------------------------------------------------

    def adopt_settling(self) -> None:
        """Take over releases and cancellations that may have been done, if they are right."""
        real = tools.read(self.root).jobs
        moved = True
        while moved:
            moved = False
            for job in self.model.where(Status.BLOCKED):
                (seen,) = real[job.id]
                if seen.status is Status.BLOCKED or seen.name.attempt != job.attempt:
                    continue
                if seen.status is Status.CANCELED and seen.name.cause in self.model.spoilers(job):
                    job.go(Status.CANCELED, cause=seen.name.cause)
                elif seen.status is Status.READY and (self.model.may_run(job) or job.loose):
                    job.go(Status.READY, naming.scheduler_directory(job.submitted_to))
                moved = moved or job.status is not Status.BLOCKED

    def adopt_taking(self, before: dict[int, ModelJob]) -> None:
        """Take over what a recovery has done that was cut short: each job is on its way, or at its end."""
        tree = tools.read(self.root)
        for job in before.values():
            seen = tree.jobs.get(job.id, [None])[0]
            if seen is None or seen.status not in OWNED:
                self.model.take_back(job)  # to be compared
                continue
            assert (seen.status, seen.name.attempt) == (job.status, job.attempt)
            job.detail = seen.detail
            if not job.damaged and seen.attempts != job.attempts:
                wished = Cause(job.id, job.attempt) in self.model.wishes
                lost = Status.FAILED if self.model.has_killed_too_many(job) else None
                assert seen.attempts == [*job.attempts, (job.attempt, Status.CANCELED if wished else lost)]
                job.attempts = seen.attempts
        done = {Cause(job.id, job.attempt) for job in before.values() if job.status is Status.CANCELED}
        left = {request.job for name in tree.requests if (request := naming.parse_request(name)) and request.job}
        self.model.wishes |= left & done
        self.crews = [crew for crew in self.crews if crew.alive]

    def adopt_everything(self) -> None:
        """The invariants hold: take over what there is."""
        tree = self.check(self.tree)
        for job in self.model.jobs.values():
            found = tree.jobs.get(job.id)
            if not found:
                job.status = None
                continue
            (seen,) = found
            job.go(seen.status, seen.detail, cause=seen.name.cause)
            job.attempt, job.priority, job.loose = seen.name.attempt, seen.name.priority, True
            if not job.damaged or _is_whole(seen):
                job.damaged, job.attempts = False, seen.attempts
                job.bound = seen.content.get("scheduler")
        self.model.wishes = {
            request.job for name in tree.requests if (request := naming.parse_request(name)) and request.job
        }
        for crew in self.crews:
            if not crew.fenced:
                hand, name = crew.hand, crew.hand.name
                mine = {job.id: job.status for job in self.model.jobs.values() if job.detail == name}
                hand.running = {job: has for job, has in hand.running.items() if mine.get(job) is Status.RUNNING}
                crew.claimed = {job: has for job, has in crew.claimed.items() if mine.get(job) is Status.PENDING}
        self.crews = [crew for crew in self.crews if crew.alive or self._owns_directories(crew, tree)]

    @staticmethod
    def _owns_directories(crew: Crew, tree: Tree) -> bool:
        return bool(tools.owned_by(tree, crew.hand.name))

    def check(self, before: Tree | None) -> Tree:
        jobs = self.model.jobs.values()
        return check_invariants(
            self.root,
            before,
            by_hand={job.id for job in jobs if job.by_hand},
            early={job.id for job in jobs if job.early},
            damaged={job.id for job in jobs if job.damaged},
        )

    @invariant()
    def agree(self) -> None:
        """Every job is where the model has it, and as it has it."""
        if not hasattr(self, "model"):
            return
        tree = self.check(self.tree)
        for job in self.model.jobs.values():
            found = tree.jobs.get(job.id)
            if not found:
                assert job.status is None, f"{job} is set aside"
                assert job.id in tree.evidence
                continue
            (seen,) = found
            self._agree_on_cause(job, seen)
            real = (seen.status, seen.detail, seen.filename)
            assert real == (job.status, job.detail, self.filename(job)), job
            if not job.damaged:
                assert seen.attempts == job.attempts
                assert seen.content.get("scheduler") == job.bound
        wishes = {request.job for name in tree.requests if (request := naming.parse_request(name)) and request.job}
        assert wishes == self.model.wishes
        self.tree = tree

    def _agree_on_cause(self, job: ModelJob, seen: Seen) -> None:
        """Of several jobs that did not complete any may be the cause."""
        both = job.status is seen.status is Status.CANCELED and job.cause and seen.name.cause
        if both and seen.name.cause in self.model.spoilers(job) and job.cause in self.model.spoilers(job):
            job.cause = seen.name.cause

    def teardown(self) -> None:
        try:
            if hasattr(self, "model") and sys.exc_info()[0] is None:
                self.end_well()
        finally:
            for actor in self._born:
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/self/fd/{actor._journal}").endswith(f"/{actor.name}/journal"):
                        os.close(actor._journal)
            for crew in self.crews:
                crew.hand.served.lock.close()
            self._stack.close()

    def end_well(self) -> None:
        """I11: when all have died, the next runner brings the workflow to its end."""
        for crew in self.crews:
            self.kill(crew)
        self.alive.clear()
        last = Hand(self.store, any_scheduler=True, record=self._identity(new_name(), any_scheduler=True))
        last.work()
        changes.release(self.store)
        last.work()
        while aside := [job.name for job in self.model.jobs.values() if job.id not in tools.read(self.root).jobs]:
            changes.retry(self.store, aside)
            assert {job.id for job in self.model.jobs.values()} == set(tools.read(self.root).jobs)
            last.work()
        last.leave()
        damaged = {job.id for job in self.model.jobs.values() if job.damaged}
        tree = check_invariants(self.root, self.tree, by_hand=self.model.jobs, damaged=damaged)
        assert {seen.status for (seen,) in tree.jobs.values()} <= {*OUTCOMES}
        assert len(tree.jobs) == len(self.model.jobs)
        assert not tree.owned


def _is_whole(seen: Seen) -> bool:
    try:
        return bool(seen.content)
    except ValueError:
        return False


FEW = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_runners_and_a_person_in_any_order_agree_with_the_model() -> None:
    run_state_machine_as_test(Spools, settings=FEW)


@pytest.mark.slow
def test_runners_and_a_person_in_any_order_agree_with_the_model_at_length() -> None:
    """Other examples each time, but the same ones in CI: by hypothesis' own profile for it."""
    run_state_machine_as_test(Spools, settings=settings(FEW, max_examples=400, derandomize=settings().derandomize))
