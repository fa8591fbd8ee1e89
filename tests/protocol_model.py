"""The protocol of `docs/spool-format.md` as an explicit-state model: every order of steps, with faults anywhere.

A state is the spool's directories and the program counters of its actors; a step is one system call of one actor, as
the document numbers them. Two runners claim, start and finish; a third actor only takes back. Faults: a crash after any
step; a runner that is declared dead while it lives (frozen, or a person was wrong); a renamed directory that its old
owner still reaches by the old path until it is removed (an NFS client); a rename that happened but was answered with
ENOENT (a lost reply). Views are as stale as can be: a runner may try to claim any name that was ever ready.

`Rules` are the laws that can be switched off, one at a time: without each of them some state breaks an invariant.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

RUNNING, PENDING = "R", "P"


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


class Faults(NamedTuple):
    """How many of each may still happen."""

    crashes: int = 0
    declared: int = 0  # runners that are declared dead while they live
    lost_replies: int = 0
    stale_paths: bool = False  # a renamed directory is reached by its old path until it is removed
    retries: int = 0  # results that a failure handler has run again


class File(NamedTuple):
    """One file of a job: where it lies, the attempt in its name, the attempts whose results it holds.

    A result that bears a retry_rule is noted as minus its attempt.
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


class State(NamedTuple):
    """The spool and its actors."""

    files: frozenset[File]
    directories: frozenset[str]  # P1, R1, R2~1 ...
    spares: frozenset[tuple[str, int]]  # (directory, job): a result written aside, before f2
    records: tuple[int, ...]  # of each actor: who has its record; itself while nobody took it
    actors: tuple[Actor, ...]
    ever_ready: frozenset[tuple[int, int]]
    started: frozenset[tuple[int, int, int]]  # (job, attempt, actor) that were executed
    shown: tuple[tuple[int, int], ...]  # (job, attempt) in the order in which they were moved to done/
    faults: Faults


class Broken(Exception):
    """An invariant does not hold."""


class Protocol:
    """Jobs 0 to n-1; job 1 waits for job 0 where `chained`. The last actors only take back."""

    def __init__(
        self, *, jobs: int, runners: int = 2, takers: int = 1, chained: bool, rules: Rules, faults: Faults
    ) -> None:
        self.jobs, self.runners, self.takers, self.chained = jobs, runners, takers, chained
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
            shown=(),
            faults=self.faults,
        )

    # -- steps ----------------------------------------------------------------------------------------------

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """What may happen next, each with its name; faults first."""
        yield from self._faults(state)
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
        if not self.chained or (self.rules.release_waits and not any(job == 0 for job, _ in state.shown)):
            return
        for file in state.files:
            if file.place == "blocked":
                yield f"r1 {who} {file.job}.{file.attempt}", self._move(state, file, "ready")

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
                spares = state.spares | {(directory, job)}
                yield f"f1 {who}", self._go(state._replace(spares=spares), who, "written", job, attempt)
        yield from self._missing(state, who, RUNNING, job, attempt)

    def _put_result(self, state: State, who: int, job: int, attempt: int) -> Iterator[tuple[str, State]]:
        there = [directory for directory in self._reach(state, RUNNING, who) if (directory, job) in state.spares]
        for directory in there:
            recorded = self._record(state, directory, job, attempt, attempt)
            yield f"f2 {who}", self._go(recorded, who, "recorded", job, attempt)
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
                    raise Broken(f"attempt {job}.{attempt} is executed twice")
                if any(result > 0 for result in source.results):
                    raise Broken(f"job {job} has a result and is executed again")
                yield f"t2 {who}", self._go(moved, who, "started", job, attempt)
        yield from self._missing(state, who, PENDING, job, attempt)

    def _missing(self, state: State, who: int, kind: str, job: int, attempt: int) -> Iterator[tuple[str, State]]:
        """ENOENT: the file is in no directory that the actor reaches. It lists its own directory."""
        if not any(self._find(state, job, directory, attempt) for directory in self._reach(state, kind, who)):
            yield f"look {who}", self._looked(state, who, kind, "idle")

    def _looked(self, state: State, who: int, kind: str, found: str) -> State:
        """A fresh listing of the own directory: gone is fenced; there, the job is still in hand."""
        actor = state.actors[who]
        if f"{kind}{who}" not in state.directories:
            return self._put(state, who, actor._replace(at="fenced", job=-1, attempt=0))
        if self._find(state, actor.job, f"{kind}{who}", actor.attempt):
            return self._put(state, who, actor._replace(at=found))
        return self._go(state, who, "idle")

    # -- recovery -------------------------------------------------------------------------------------------

    def _takes(self, state: State, who: int) -> Iterator[tuple[str, State]]:
        if state.records[who] != who:
            return  # runners/T was taken itself, so that there is no runners/T/taken to rename into
        for other, actor in enumerate(state.actors):
            if other == who or state.records[other] != other or (actor.alive and not actor.unfit):
                continue
            family = self._family(state, other)
            records = tuple(who if number == other else holder for number, holder in enumerate(state.records))
            taking = state.actors[who]._replace(at="v5R", taking=family)
            yield f"v3 {who} takes {other}", self._put(state._replace(records=records), who, taking)

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
        arrived = [each for each in state.files if each.place == "done" and each.job == file.job]
        elsewhere = [each for each in state.files if each.job == file.job and each.place not in ("aside", "done")]
        later = self.rules.look_everywhere and any(each.attempt > file.attempt for each in elsewhere)
        if later or (self.rules.look_in_done and any(each.attempt >= file.attempt for each in arrived)):
            return f"v8 {who} aside", self._move(state, file, "aside")
        results = file.results if self.rules.retries_are_given else tuple(map(abs, file.results))
        if self.rules.result_counts and file.place[0] == RUNNING and file.attempt in results:
            return f"v9 {who}", self._show(state, file)
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
        if any(job == file.job for job, _ in state.shown):
            raise Broken(f"job {file.job} has two outcomes")
        if file.attempt not in file.results:
            raise Broken(f"job {file.job} is done without a result")
        return self._move(state, file, "done")._replace(shown=(*state.shown, (file.job, file.attempt)))

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
            if any(len(set(map(abs, file.results))) != len(file.results) for file in files):
                raise Broken(f"I3: job {job} has two results of one attempt")
        waits = self.chained and not any(job == 0 for job, _ in state.shown)
        if waits and any(file.job == 1 and file.place != "blocked" for file in state.files):
            raise Broken("I5: job 1 was released before job 0 was done")
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
        ends = ("done",) if able else ("done", "ready", "blocked")
        for job in range(self.jobs):
            places = [file.place for file in state.files if file.job == job and file.place != "aside"]
            if len(places) != 1 or places[0] not in ends:
                raise Broken(f"the work ends with job {job} in {sorted(places)}")


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
                moved = moved or not name.startswith(("crash", "declare"))
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
