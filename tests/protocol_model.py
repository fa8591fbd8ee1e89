"""The protocol of `docs/spool-format.md` as an explicit-state model: every order of steps, with faults anywhere.

A state is the spool's directories and the program counters of its actors; a step is one system call of one actor, as
the document numbers them. Two runners claim, start, finish and settle; a third actor only takes back; a person cancels,
holds, releases and retries. There is no lock: it only orders. Faults: a crash after any step; a runner that is declared
dead while it lives (frozen beyond its lease, or a person was wrong); a renamed directory that its old owner still
reaches by the old path until it is removed (an NFS client); a rename that happened but was answered with ENOENT (a lost
reply). Views are as stale as can be: a runner may try to claim any name that was ever ready, and release or cancel by
any listing that there ever was.

`Rules` are the laws that can be switched off, one at a time: without each of them some state breaks an invariant. To
which law of the design each belongs stands in `test_protocol_model.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

RUNNING, PENDING = "R", "P"
CANCELED = 100
WAITING = ("ready", "blocked", "held")


class Rules(NamedTuple):
    """What the protocol relies on. All True is the protocol; each False is a mutation that must be found out."""

    fence: bool = True  # v7: give nothing away before the old directories are removed
    both_first: bool = True  # running and pending are fenced before anything is given
    new_attempt: bool = True  # I4: a return raises the attempt in the name
    own_place: bool = True  # c1: a claim goes to a place of the claimer's own
    result_counts: bool = True  # v9: a file that holds its attempt's result is moved to its outcome
    look_in_done: bool = True  # v8: what arrived in done/ counts
    enoent_looks: bool = True  # after ENOENT the own directory is listed
    release_waits: bool = True  # r1: only when what is awaited is in done/
    result_before: bool = True  # f2 before f3: the result is in the file before it is shown
    looks_again: bool = True  # v7: a taker that was overruled may have renamed a directory meanwhile
    look_everywhere: bool = True  # v8: a later attempt that arrived in ready/ (f3') counts
    retries_are_given: bool = True  # v9: a result that bears retry_rule is not shown, but the job given back
    own_content: bool = True  # nobody writes over a job's file that is not in his own directory
    takes_family: bool = True  # v3: what the dead had taken themselves is taken back with them
    made_once: bool = True  # nobody makes a missing directory again: who finds his gone is fenced
    fresh_names: bool = True  # a runner's name is never used again
    unknown_is_alive: bool = True  # v1: nobody is taken back without evidence
    kill_after_fence: bool = True  # v4: processes of the dead are killed when they cannot record that any more
    blocked_first: bool = True  # r1: the names that wait are listed before the outcomes
    wait_anew: bool = True  # w2: what waits for what is run again gets a new name
    cancel_is_revived: bool = True  # w1: a cancellation holds only while the attempt that it names does
    wish_passes_on: bool = True  # who takes over the work of the dead obeys what was wished of them


class Faults(NamedTuple):
    """How many of each may still happen."""

    crashes: int = 0
    declared: int = 0  # runners that are declared dead while they live
    lost_replies: int = 0
    stale_paths: bool = False  # a renamed directory is reached by its old path until it is removed
    retries: int = 0  # results that a failure handler has run again
    commands: int = 0  # of a person: cancel, hold, release, retry


class File(NamedTuple):
    """One file of a job: where it lies, the attempt in its name, the attempts whose results it holds.

    A result that bears a retry_rule is noted as minus its attempt, one that is canceled as CANCELED more than it.
    """

    job: int
    place: str
    attempt: int
    results: tuple[int, ...] = ()


class Actor(NamedTuple):
    """A process: where it is in its program, and what it has in hand."""

    at: str = "idle"
    job: int = -1
    attempt: int = 0
    taking: tuple[int, ...] = ()  # whose work it takes back
    alive: bool = True
    unfit: bool = False  # was declared dead while alive: may be taken
    killed: bool = False  # the process of its job was


class State(NamedTuple):
    """The spool and its actors."""

    files: frozenset[File]
    directories: frozenset[str]  # P1, R1, R2~1 ...
    spares: frozenset[tuple[str, int]]  # (directory, job): a result written aside, before f2
    records: tuple[int, ...]  # of each actor: who has its record; itself while nobody took it
    actors: tuple[Actor, ...]
    ever_ready: frozenset[tuple[int, int]]
    started: frozenset[tuple[int, int, int]]  # (job, attempt, actor) that were executed
    shown: frozenset[int]  # jobs with an outcome that nobody has taken back
    faults: Faults
    seen: frozenset[tuple[int, str]] = frozenset()  # what listings said of a name in blocked/: its attempt, where to
    wishes: frozenset[tuple[int, int]] = frozenset()  # (job, attempt) that are to be canceled
    retried: bool = False  # a person is between y1 and w2


class Broken(Exception):
    """An invariant does not hold."""


class Protocol:
    """Jobs 0 to n-1; job 1 waits for job 0 where `chained`, and runs `anyway` or is canceled with it. The last actors
    only take back."""

    def __init__(
        self,
        *,
        jobs: int,
        runners: int = 2,
        takers: int = 1,
        chained: bool,
        rules: Rules,
        faults: Faults,
        anyway: bool = False,
    ) -> None:
        self.jobs, self.runners, self.takers, self.chained, self.anyway = jobs, runners, takers, chained, anyway
        self.rules, self.faults = rules, faults

    def initial(self) -> State:
        waits = {1} if self.chained else set()
        files = frozenset(File(job, "blocked" if job in waits else "ready", 1) for job in range(self.jobs))
        actors = range(self.runners + self.takers)
        return State(
            files=files,
            directories=frozenset(f"{kind}{actor}" for kind in (PENDING, RUNNING) for actor in actors),
            spares=frozenset(),
            records=tuple(actors),
            actors=tuple(Actor() for _ in actors),
            ever_ready=frozenset((file.job, file.attempt) for file in files if file.place == "ready"),
            started=frozenset(),
            shown=frozenset(),
            faults=self.faults,
        )

    # -- steps ----------------------------------------------------------------------------------------------

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """What may happen next, each with its name; faults first."""
        for name, after in self._steps(state):
            yield name, self._remembered(after) if self.chained else after

    def _remembered(self, state: State) -> State:
        """What a listing would say now of the job that waits: it may be acted on at any time."""
        ended = next((file for file in state.files if file.job == 0 and file.place in ("done", "canceled")), None)
        if ended is None:
            return state
        where = "ready" if self.anyway or ended.place == "done" else f"canceled~{ended.attempt}"
        names = [file.attempt for file in state.files if file.job == 1 and file.place == "blocked"]
        seen = {(attempt, where) for attempt in names} if self.rules.blocked_first else {(0, where)}
        return state if seen <= state.seen else state._replace(seen=state.seen | seen)

    def _steps(self, state: State) -> Iterator[tuple[str, State]]:
        yield from self._faults(state)
        yield from self._commands(state)
        for who, actor in enumerate(state.actors):
            if not actor.alive:
                continue
            if actor.at == "idle":
                if who < self.runners:
                    yield from self._claims(state, who)
                    yield from self._releases(state, who)
                yield from self._takes(state, who)
            elif actor.at in ("claimed", "unsure", "started", "written", "recorded", "to retry"):
                yield from self._runs(state, who, actor)
            elif actor.at != "fenced":
                yield from self._recovers(state, who, actor)

    def _faults(self, state: State) -> Iterator[tuple[str, State]]:
        faults = state.faults
        for who in range(self.runners):
            actor = state.actors[who]
            if actor.alive and faults.crashes:
                after = state._replace(faults=faults._replace(crashes=faults.crashes - 1))
                yield f"crash {who}", self._put(after, who, actor._replace(alive=False))
            if actor.alive and faults.declared and not actor.unfit and actor.at != "fenced":
                after = state._replace(faults=faults._replace(declared=faults.declared - 1))
                yield f"declare {who} dead", self._put(after, who, actor._replace(unfit=True))
            if not actor.alive and not self.rules.fresh_names:
                made = state.directories | {f"{PENDING}{who}", f"{RUNNING}{who}"}
                yield f"b5 {who}", self._put(state._replace(directories=made), who, Actor())

    def _commands(self, state: State) -> Iterator[tuple[str, State]]:
        """What a person does."""
        if state.retried:
            yield from self._wait_anew(state)
        if not state.faults.commands:
            return
        state = state._replace(faults=state.faults._replace(commands=state.faults.commands - 1))
        for file in state.files:
            job = file.job
            if file.place in WAITING:
                canceled = self._move(state, file, "canceled")
                yield f"n1 {job}.{file.attempt}", canceled._replace(shown=state.shown | {job})
            if file.place in ("ready", "blocked"):
                yield f"h1 {job}.{file.attempt} held", self._move(state, file, "held")
            elif file.place == "held":
                ended = job == 0 or not self.chained or self._ended(state, 0)
                yield f"h1 {job}.{file.attempt} released", self._move(state, file, "ready" if ended else "blocked")
            elif file.place[0] in "RP":
                yield f"q1 {job}.{file.attempt}", state._replace(wishes=state.wishes | {(job, file.attempt)})
            elif file.place == "canceled" and not state.retried:
                again = self._give_back(state, file)._replace(shown=state.shown - {job}, retried=self.chained)
                yield f"y1 {job}.{file.attempt}", again
        if not self.rules.own_content:  # writes aside what it has read, and renames it over what is there, or not
            for job, attempt in state.ever_ready:
                written = File(job, "ready", attempt)
                yield f"edit {job}.{attempt}", state._replace(files=state.files | {written})

    def _wait_anew(self, state: State) -> Iterator[tuple[str, State]]:
        """w2, of what waits without being canceled."""
        after = state._replace(retried=False)
        for file in state.files:
            if file.job == 1 and file.place in ("blocked", "held") and self.anyway and self.rules.wait_anew:
                raised = file._replace(attempt=file.attempt + 1)
                yield f"w2 {file.job}.{file.attempt}", self._replace_file(after, file, raised)
                return
        yield "look at what waits", after

    @staticmethod
    def _ended(state: State, job: int) -> bool:
        return any(file.job == job and file.place in ("done", "canceled") for file in state.files)

    def _claims(self, state: State, who: int) -> Iterator[tuple[str, State]]:
        for job, attempt in state.ever_ready:
            source = self._find(state, job, "ready", attempt)
            if source is None:
                continue  # ENOENT, and the own directory does not have it: nothing changes
            for target in self._reach(state, PENDING, who):
                moved = self._move(state, source, target)
                if not self.rules.own_place:  # the file stays claimable, as if both had renamed to one name
                    moved = moved._replace(files=moved.files | {source})
                yield f"c1 {who} {job}.{attempt}", self._go(moved, who, "claimed", job, attempt)
                if state.faults.lost_replies:
                    lost = moved._replace(faults=state.faults._replace(lost_replies=state.faults.lost_replies - 1))
                    yield f"c1 {who} {job}.{attempt} (reply lost)", self._go(lost, who, "unsure", job, attempt)

    def _releases(self, state: State, who: int) -> Iterator[tuple[str, State]]:
        """r1, k1, w1."""
        for file in state.files if self.chained else ():
            name = f"{who} {file.job}.{file.attempt}"
            if file.place == "blocked":
                known = {where for attempt, where in state.seen if attempt in (0, file.attempt)}
                for where in sorted(known if self.rules.release_waits else {"ready"}):
                    if where == "ready" and not state.retried and not self._ended(state, 0):
                        raise Broken("I5: job 1 is released before job 0 has ended")
                    moved = self._move(state, file, where)
                    if where == "ready":
                        yield f"r1 {name}", moved
                    else:
                        yield f"k1 {name}", moved._replace(shown=moved.shown | {file.job})
            elif file.place.startswith("canceled~") and self._is_stale(state, file) and self.rules.cancel_is_revived:
                raised = file._replace(place="blocked", attempt=file.attempt + 1)
                yield f"w1 {name}", self._replace_file(state, file, raised)._replace(shown=state.shown - {file.job})

    @staticmethod
    def _is_stale(state: State, file: File) -> bool:
        """Whether a cancellation names an attempt that is not that job's outcome any more."""
        cause = int(file.place.partition("~")[2])
        return not any(each.job == 0 and each.place == "canceled" and each.attempt == cause for each in state.files)

    def _runs(self, state: State, who: int, actor: Actor) -> Iterator[tuple[str, State]]:
        job, attempt, at = actor.job, actor.attempt, actor.at
        if at == "unsure":
            yield f"look {who}", self._looked(state, who, PENDING, "claimed" if self.rules.enoent_looks else "idle")
        elif at == "claimed":
            yield from self._start(state, who, job, attempt)
        elif at == "started":
            yield from self._write(state, who, job, attempt)
        elif at == "written":
            yield from self._put_result(state, who, job, attempt)
        else:
            yield from self._finish(state, who, job, attempt)

    def _write(self, state: State, who: int, job: int, attempt: int) -> Iterator[tuple[str, State]]:
        """The process has ended; f1."""
        if not self.rules.result_before:
            yield f"skip f1 {who}", self._go(state, who, "recorded", job, attempt)
            return
        for directory in self._reach(state, RUNNING, who):
            if self._find(state, job, directory, attempt):
                if state.actors[who].killed:
                    raise Broken("I15: a death is recorded as a failure")
                spares = state.spares | {(directory, job)}
                yield f"f1 {who}", self._go(state._replace(spares=spares), who, "written", job, attempt)
        yield from self._missing(state, who, RUNNING, job, attempt)

    def _put_result(self, state: State, who: int, job: int, attempt: int) -> Iterator[tuple[str, State]]:
        there = [directory for directory in self._reach(state, RUNNING, who) if (directory, job) in state.spares]
        for directory in there:
            recorded = self._record(state, directory, job, attempt, attempt)
            yield f"f2 {who}", self._go(recorded, who, "recorded", job, attempt)
            if (job, attempt) in state.wishes:
                recorded = self._record(state, directory, job, attempt, CANCELED + attempt)
                yield f"f2 {who} canceled", self._go(recorded, who, "recorded", job, attempt)
            if state.faults.retries:
                recorded = self._record(state, directory, job, attempt, -attempt)
                recorded = recorded._replace(faults=state.faults._replace(retries=state.faults.retries - 1))
                yield f"f2 {who} to retry", self._go(recorded, who, "to retry", job, attempt)
        if not there:
            yield f"look {who}", self._looked(state, who, RUNNING, "started")

    def _finish(self, state: State, who: int, job: int, attempt: int) -> Iterator[tuple[str, State]]:
        for directory in self._reach(state, RUNNING, who):
            source = self._find(state, job, directory, attempt)
            if source and state.actors[who].at == "to retry":
                yield f"f3' {who}", self._go(self._give_back(state, source), who, "idle")
            elif source:
                yield f"f3 {who}", self._go(self._show(state, source), who, "idle")
        yield from self._missing(state, who, RUNNING, job, attempt)

    def _start(self, state: State, who: int, job: int, attempt: int) -> Iterator[tuple[str, State]]:
        for directory in self._reach(state, PENDING, who):
            source = self._find(state, job, directory, attempt)
            for target in self._reach(state, RUNNING, who) if source else ():
                assert source is not None
                moved = self._move(state, source, target)
                moved = moved._replace(started=moved.started | {(job, attempt, who)})
                if (job, attempt) in {(each, number) for each, number, _ in state.started}:
                    raise Broken(f"I9: attempt {job}.{attempt} is executed twice, with one output file")
                if any(0 < result < CANCELED for result in source.results):
                    raise Broken(f"I15: job {job} has a result and is executed again")
                yield f"t2 {who}", self._go(moved, who, "started", job, attempt)
        yield from self._missing(state, who, PENDING, job, attempt)

    def _missing(self, state: State, who: int, kind: str, job: int, attempt: int) -> Iterator[tuple[str, State]]:
        """ENOENT: the file is in no directory that the actor reaches. It lists its own directory."""
        if not any(self._find(state, job, directory, attempt) for directory in self._reach(state, kind, who)):
            yield f"look {who}", self._looked(state, who, kind, "idle")

    def _looked(self, state: State, who: int, kind: str, found: str) -> State:
        """A fresh listing of the own directory: gone is fenced; there, the job is still in hand."""
        actor = state.actors[who]
        if f"{kind}{who}" not in state.directories and self.rules.made_once:
            return self._put(state, who, actor._replace(at="fenced", job=-1, attempt=0))
        if f"{kind}{who}" not in state.directories:  # mkdir -p, and on
            made = state._replace(directories=state.directories | {f"{kind}{who}"})
            if actor.at == "written":
                made = made._replace(spares=made.spares | {(f"{kind}{who}", actor.job)})
                return self._put(made, who, actor)
            return self._go(made, who, "idle")
        if self._find(state, actor.job, f"{kind}{who}", actor.attempt):
            return self._put(state, who, actor._replace(at=found))
        return self._go(state, who, "idle")

    # -- recovery -------------------------------------------------------------------------------------------

    def _takes(self, state: State, who: int) -> Iterator[tuple[str, State]]:
        if state.records[who] != who:
            return  # runners/T was taken itself, so that there is no runners/T/taken to rename into
        for other, actor in enumerate(state.actors):
            may_live = actor.alive and not actor.unfit
            if other == who or state.records[other] != other or (may_live and self.rules.unknown_is_alive):
                continue
            family = self._family(state, other) if self.rules.takes_family else (other,)
            records = tuple(who if number == other else holder for number, holder in enumerate(state.records))
            taking = state.actors[who]._replace(at="v5R", taking=family)
            after = self._put(state._replace(records=records), who, taking)
            if not self.rules.kill_after_fence and actor.at == "started":
                after = self._put(after, other, actor._replace(killed=True))
            yield f"v3 {who} takes {other}", after

    def _family(self, state: State, owner: int) -> tuple[int, ...]:
        """The owner, and all whose records it has."""
        found = [owner]
        for number in found:
            found += [each for each, holder in enumerate(state.records) if holder == number and each not in found]
        return tuple(sorted(found))

    def _recovers(self, state: State, who: int, actor: Actor) -> Iterator[tuple[str, State]]:
        if actor.at.startswith("v5"):
            yield from self._rename_directories(state, who, actor)
        elif actor.at.startswith("v6"):
            yield from self._collect(state, who, actor)
        elif actor.at == "v8":
            yield self._give(state, who, actor)

    def _rename_directories(self, state: State, who: int, actor: Actor) -> Iterator[tuple[str, State]]:
        kind = actor.at[2]
        for directory in sorted(state.directories):
            owner = self._owner(directory)
            target = f"{kind}{who}~{owner}"
            if directory[0] == kind and owner in actor.taking and directory != target and owner != who:
                if target in state.directories:
                    continue  # a rename over a directory that is not empty is refused
                if directory == f"{kind}{owner}" and state.actors[owner].alive and not state.actors[owner].unfit:
                    raise Broken(f"I7: {directory} is moved while its owner may live")
                yield f"v5 {who} {directory}", self._rename_directory(state, directory, target)
                return
        yield f"v5 {who} done", self._put(state, who, actor._replace(at=f"v6{kind}"))

    def _collect(self, state: State, who: int, actor: Actor) -> Iterator[tuple[str, State]]:
        kind = actor.at[2]
        for owner in actor.taking:
            held = f"{kind}{who}~{owner}"
            if held not in state.directories:
                continue
            spares = [spare for spare in state.spares if spare[0] == held]
            files = [file for file in state.files if file.place == held]
            own = self._reach(state, kind, who)
            for spare in spares:
                yield f"v6 {who} spare", state._replace(spares=state.spares - {spare})
            for file in files:
                for target in own:
                    yield f"v6 {who} {file.job}", self._move(state, file, target)
            if files and not own:
                yield f"look {who}", self._put(state, who, actor._replace(at="fenced", taking=()))
            if spares or files:
                return
            if self.rules.fence:
                yield f"v7 {who} {held}", state._replace(directories=state.directories - {held})
                return
        if f"{kind}{who}" not in state.directories:
            yield f"look {who}", self._put(state, who, actor._replace(at="fenced", taking=()))
            return
        left = {name for name in state.directories if name[0] == kind and self._owner(name) in actor.taking}
        if left and self.rules.fence and self.rules.looks_again:
            yield f"v5 {who} again", self._put(state, who, actor._replace(at=f"v5{kind}"))
            return
        after = "v8" if kind == PENDING or not self.rules.both_first else "v5P"
        yield f"v7 {who} done", self._put(state, who, actor._replace(at=after))

    def _give(self, state: State, who: int, actor: Actor) -> tuple[str, State]:
        """One of the files in hand: aside, to its outcome, or back to ready as the next attempt."""
        mine = [file for file in sorted(state.files) if file.place in (f"{RUNNING}{who}", f"{PENDING}{who}")]
        if not mine:
            if not self.rules.both_first and any(
                directory[0] == PENDING and self._owner(directory) in actor.taking for directory in state.directories
            ):
                return f"v5 {who}", self._put(state, who, actor._replace(at="v5P"))
            return f"v11 {who}", self._put(state, who, actor._replace(at="idle", taking=()))
        file = mine[0]
        others = [each for each in state.files if each.job == file.job and each.place != "aside"]
        arrived = [each for each in others if each.place.partition("~")[0] in ("done", "canceled")]
        elsewhere = [each for each in others if each not in arrived]
        later = self.rules.look_everywhere and any(each.attempt > file.attempt for each in elsewhere)
        if later or (self.rules.look_in_done and any(each.attempt >= file.attempt for each in arrived)):
            return f"v8 {who} aside", self._move(state, file, "aside")
        results = file.results if self.rules.retries_are_given else tuple(map(abs, file.results))
        if (
            self.rules.result_counts
            and file.place[0] == RUNNING
            and {file.attempt, CANCELED + file.attempt} & {*results}
        ):
            return f"v9 {who}", self._show(state, file)
        is_wanted = (file.job, file.attempt) in state.wishes and -file.attempt not in results
        if is_wanted and self.rules.wish_passes_on:
            noted = file._replace(results=(*file.results, CANCELED + file.attempt))
            return f"v9 {who} canceled", self._show(self._replace_file(state, file, noted), noted)
        if is_wanted:
            raise Broken(f"I11: {file.job}.{file.attempt} runs again, which was to be canceled")
        return f"v10 {who}", self._give_back(state, file)

    def _give_back(self, state: State, file: File) -> State:
        """v10, f3'."""
        raised = file._replace(place="ready", attempt=file.attempt + (1 if self.rules.new_attempt else 0))
        return self._replace_file(state, file, raised)

    # -- the filesystem -------------------------------------------------------------------------------------

    def _reach(self, state: State, kind: str, who: int) -> list[str]:
        """The directories that an owner's path leads to: its own, or where a renamed one is now (a stale client)."""
        own = f"{kind}{who}"
        if own in state.directories:
            return [own]
        if not state.faults.stale_paths:
            return []
        return [name for name in state.directories if name[0] == kind and "~" in name and self._owner(name) == who]

    @staticmethod
    def _owner(directory: str) -> int:
        return int(directory[1:].rpartition("~")[2])

    @staticmethod
    def _find(state: State, job: int, place: str, attempt: int) -> File | None:
        return next((file for file in state.files if file[:3] == (job, place, attempt)), None)

    def _move(self, state: State, file: File, place: str) -> State:
        return self._replace_file(state, file, file._replace(place=place))

    @staticmethod
    def _replace_file(state: State, old: File, new: File) -> State:
        """A rename: it replaces what has the new name."""
        files = {each for each in state.files if each != old and each[:3] != new[:3]} | {new}
        ready = state.ever_ready | ({(new.job, new.attempt)} if new.place == "ready" else set())
        return state._replace(files=frozenset(files), ever_ready=ready)

    @staticmethod
    def _record(state: State, directory: str, job: int, attempt: int, result: int) -> State:
        """f2: the file that was written aside takes the job's name, whether that is still there or not."""
        there = Protocol._find(state, job, directory, attempt)
        results = (*(there.results if there else ()), result)
        files = (state.files - {there}) if there else state.files
        return state._replace(
            files=files | {File(job, directory, attempt, results)}, spares=state.spares - {(directory, job)}
        )

    def _show(self, state: State, file: File) -> State:
        """f3, v9."""
        if file.job in state.shown:
            raise Broken(f"I2: job {file.job} has two outcomes")
        canceled = CANCELED + file.attempt in file.results
        if file.attempt not in file.results and not canceled:
            raise Broken(f"I15: job {file.job} is done without a result")
        return self._move(state, file, "canceled" if canceled else "done")._replace(shown=state.shown | {file.job})

    @staticmethod
    def _rename_directory(state: State, old: str, new: str) -> State:
        return state._replace(
            directories=(state.directories - {old}) | {new},
            files=frozenset(file._replace(place=new) if file.place == old else file for file in state.files),
            spares=frozenset((new, job) if place == old else (place, job) for place, job in state.spares),
        )

    @staticmethod
    def _put(state: State, who: int, actor: Actor) -> State:
        return state._replace(actors=(*state.actors[:who], actor, *state.actors[who + 1 :]))

    def _go(self, state: State, who: int, at: str, job: int = -1, attempt: int = 0) -> State:
        return self._put(state, who, state.actors[who]._replace(at=at, job=job, attempt=attempt))

    # -- invariants -----------------------------------------------------------------------------------------

    def check(self, state: State) -> None:
        """The document's invariants, in any state. Raises Broken."""
        for job in range(self.jobs):
            files = [file for file in state.files if file.job == job and file.place != "aside"]
            if not files:
                raise Broken(f"I1: job {job} is lost")
            if any(len({abs(result) % CANCELED for result in file.results}) != len(file.results) for file in files):
                raise Broken(f"I3: job {job} has two results of one attempt")
            if sum(file.place[0] not in "RP" for file in files) > 1:
                raise Broken(f"I1: job {job} lies in {sorted(file.place for file in files)}")
        for holder, actor in enumerate(state.actors):
            given = actor.at == "v8"
            if given and any(self._owner(name) in actor.taking and name[0] in "PR" for name in state.directories):
                raise Broken(f"I8: actor {holder} gives away before the fence")

    def check_end(self, state: State) -> None:
        """A state in which nothing but a fault can happen. Raises Broken.

        Where no runner is left, a job may wait for the next one that comes.
        """
        runners = range(self.runners)
        able = any(state.actors[who].alive and f"{PENDING}{who}" in state.directories for who in runners)
        ends = ("done", "canceled", "held") if able else ("done", "canceled", "held", "ready", "blocked")
        held = any(file.place == "held" for file in state.files)
        for job in range(self.jobs):
            files = [file for file in state.files if file.job == job and file.place != "aside"]
            places = [file.place.partition("~")[0] for file in files]
            waits = job == 1 and held and places == ["blocked"]
            if len(places) != 1 or not (places[0] in ends or waits):
                raise Broken(f"I11: the work ends with job {job} in {sorted(places)}")
            if able and files[0].place.startswith("canceled~") and self._is_stale(state, files[0]):
                raise Broken(f"I11: the work ends with job {job} canceled because of what does not hold")


_OF_A_PERSON = ("n1", "h1", "q1", "y1", "edit")


def explore(protocol: Protocol) -> int:
    """Visit every state that can be reached; returns how many there are. Raises Broken with the way there."""
    start = protocol.initial()
    came: dict[State, tuple[State, str] | None] = {start: None}
    queue = [start]
    while queue:
        state = queue.pop()
        try:
            protocol.check(state)
            moved = False
            for name, after in protocol.steps(state):
                moved = moved or not name.startswith(("crash", "declare", *_OF_A_PERSON))
                if after not in came:
                    came[after] = (state, name)
                    queue.append(after)
            if not moved:
                protocol.check_end(state)
        except Broken as broken:
            raise Broken(f"{broken}: {' | '.join(_way(came, state))}") from None
    return len(came)


def _way(came: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    steps: list[str] = []
    while (before := came[state]) is not None:
        state, name = before
        steps.append(name)
    return steps[::-1]
