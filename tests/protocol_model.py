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

from protocol_recovery import Recovery
from protocol_state import (
    CANCELED,
    PENDING,
    RUNNING,
    WAITING,
    Actor,
    Broken,
    Faults,
    File,
    Rules,
    State,
    find,
    go,
    move,
    owner_of,
    put,
    reach,
    record,
    replace_file,
)


class Protocol(Recovery):
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
            elif actor.at in ("given", "late"):
                yield self._heed_late_wish(state, who, actor)
            elif actor.at in ("claimed", "cleared", "unsure", "started", "written", "recorded", "to retry"):
                yield from self._runs(state, who, actor)
            elif actor.at != "fenced":
                yield from self._recovers(state, who, actor)

    def _faults(self, state: State) -> Iterator[tuple[str, State]]:
        faults = state.faults
        for who in range(self.runners):
            actor = state.actors[who]
            if actor.alive and faults.crashes:
                after = state._replace(faults=faults._replace(crashes=faults.crashes - 1))
                yield f"crash {who}", put(after, who, actor._replace(alive=False))
            if actor.alive and faults.declared and not actor.unfit and actor.at != "fenced":
                after = state._replace(faults=faults._replace(declared=faults.declared - 1))
                yield f"declare {who} dead", put(after, who, actor._replace(unfit=True))
            if not actor.alive and not self.rules.fresh_names:
                made = state.directories | {f"{PENDING}{who}", f"{RUNNING}{who}"}
                yield f"b5 {who}", put(state._replace(directories=made), who, Actor())

    def _commands(self, state: State) -> Iterator[tuple[str, State]]:
        """What a person does."""
        if state.retried:
            yield from self._wait_anew(state)
        if state.asking is not None:
            yield self._ask(state, *state.asking)
        if state.asking is not None or not state.faults.commands:
            return
        state = state._replace(faults=state.faults._replace(commands=state.faults.commands - 1))
        for file in state.files:
            job = file.job
            if file.place in WAITING:
                yield f"n1 {job}.{file.attempt}", self._cancel(state, file)
            if file.place in ("ready", "blocked"):
                yield f"h1 {job}.{file.attempt} held", move(state, file, "held")
            elif file.place == "held":
                ended = job == 0 or not self.chained or self._ended(state, 0)
                yield f"h1 {job}.{file.attempt} released", move(state, file, "ready" if ended else "blocked")
            elif file.place[0] in "RP":
                yield f"see {job}.{file.attempt}", state._replace(asking=("q1", job, file.attempt))
            elif file.place == "canceled" and not state.retried:
                again = self._give_back(state, file)._replace(shown=state.shown - {job}, retried=self.chained)
                again = again._replace(wishes=frozenset(wish for wish in state.wishes if wish[0] != job))
                yield f"y1 {job}.{file.attempt}", again
        if not self.rules.own_content:  # writes aside what it has read, and renames it over what is there, or not
            for job, attempt in state.ever_ready:
                written = File(job, "ready", attempt)
                yield f"edit {job}.{attempt}", state._replace(files=state.files | {written})

    def _ask(self, state: State, at: str, job: int, attempt: int) -> tuple[str, State]:
        """q1, and a look afterwards: the job may have been given back before its holder could see the wish."""
        if at == "q1":
            asked = state._replace(wishes=state.wishes | {(job, attempt)}, asking=("look", job, attempt))
            return f"q1 {job}.{attempt}", asked
        after = state._replace(asking=None)
        for file in state.files if self.rules.asker_looks else ():
            if file.job == job and file.attempt > attempt and file.place in WAITING:
                return f"late n1 {job}.{file.attempt}", self._cancel(after, file)
            if file.job == job and file.attempt > attempt and file.place[0] in "RP":
                return f"see {job}.{file.attempt}", state._replace(asking=("q1", job, file.attempt))
        return f"look at {job}.{attempt}", after

    @staticmethod
    def _cancel(state: State, file: File) -> State:
        """n1."""
        return move(state, file, "canceled")._replace(shown=state.shown | {file.job})

    def _wait_anew(self, state: State) -> Iterator[tuple[str, State]]:
        """w2, of what waits without being canceled."""
        after = state._replace(retried=False)
        for file in state.files:
            if file.job == 1 and file.place in ("blocked", "held") and self.anyway and self.rules.wait_anew:
                raised = file._replace(attempt=file.attempt + 1)
                yield f"w2 {file.job}.{file.attempt}", replace_file(after, file, raised)
                return
        yield "look at what waits", after

    @staticmethod
    def _ended(state: State, job: int) -> bool:
        return any(file.job == job and file.place in ("done", "canceled") for file in state.files)

    def _claims(self, state: State, who: int) -> Iterator[tuple[str, State]]:
        for job, attempt in state.ever_ready:
            source = find(state, job, "ready", attempt)
            if source is None:
                continue  # ENOENT, and the own directory does not have it: nothing changes
            for target in reach(state, PENDING, who):
                moved = move(state, source, target)
                if not self.rules.own_place:  # the file stays claimable, as if both had renamed to one name
                    moved = moved._replace(files=moved.files | {source})
                yield f"c1 {who} {job}.{attempt}", go(moved, who, "claimed", job, attempt)
                if state.faults.lost_replies:
                    lost = moved._replace(faults=state.faults._replace(lost_replies=state.faults.lost_replies - 1))
                    yield f"c1 {who} {job}.{attempt} (reply lost)", go(lost, who, "unsure", job, attempt)

    def _releases(self, state: State, who: int) -> Iterator[tuple[str, State]]:
        """r1, k1, w1."""
        for file in state.files if self.chained else ():
            name = f"{who} {file.job}.{file.attempt}"
            if file.place == "blocked":
                known = {where for attempt, where in state.seen if attempt in (0, file.attempt)}
                for where in sorted(known if self.rules.release_waits else {"ready"}):
                    if where == "ready" and not state.retried and not self._ended(state, 0):
                        raise Broken("I5: job 1 is released before job 0 has ended")
                    moved = move(state, file, where)
                    if where == "ready":
                        yield f"r1 {name}", moved
                    else:
                        yield f"k1 {name}", moved._replace(shown=moved.shown | {file.job})
            elif file.place.startswith("canceled~") and self._is_stale(state, file) and self.rules.cancel_is_revived:
                raised = file._replace(place="blocked", attempt=file.attempt + 1)
                yield f"w1 {name}", replace_file(state, file, raised)._replace(shown=state.shown - {file.job})

    @staticmethod
    def _is_stale(state: State, file: File) -> bool:
        """Whether a cancellation names an attempt that is not that job's outcome any more."""
        cause = int(file.place.partition("~")[2])
        return not any(each.job == 0 and each.place == "canceled" and each.attempt == cause for each in state.files)

    def _runs(self, state: State, who: int, actor: Actor) -> Iterator[tuple[str, State]]:
        job, attempt, at = actor.job, actor.attempt, actor.at
        if at == "unsure":
            yield f"look {who}", self._looked(state, who, PENDING, "claimed" if self.rules.enoent_looks else "idle")
        elif at == "claimed" and self.rules.start_looks and self._came_back(state, who, job, attempt):
            yield from self._look_before_start(state, who, job, attempt)
        elif at in ("claimed", "cleared"):
            yield from self._start(state, who, job, attempt)
        elif at == "started":
            yield from self._return(state, who, job, attempt)
            yield from self._write(state, who, job, attempt)
        elif at == "written":
            yield from self._put_result(state, who, job, attempt)
        else:
            yield from self._finish(state, who, job, attempt)

    def _return(self, state: State, who: int, job: int, attempt: int) -> Iterator[tuple[str, State]]:
        """Give back: no process could be started."""
        for directory in reach(state, RUNNING, who) if state.faults.returns else ():
            source = find(state, job, directory, attempt)
            if source:
                given = self._give_back(state, source)
                given = given._replace(faults=state.faults._replace(returns=state.faults.returns - 1))
                yield f"give back {who}", go(given, who, "given", job, attempt + 1)

    def _write(self, state: State, who: int, job: int, attempt: int) -> Iterator[tuple[str, State]]:
        """The process has ended; f1."""
        if not self.rules.result_before:
            yield f"skip f1 {who}", go(state, who, "recorded", job, attempt)
            return
        for directory in reach(state, RUNNING, who):
            if find(state, job, directory, attempt):
                if state.actors[who].killed:
                    raise Broken("I15: a death is recorded as a failure")
                spares = state.spares | {(directory, job)}
                yield f"f1 {who}", go(state._replace(spares=spares), who, "written", job, attempt)
        yield from self._missing(state, who, RUNNING, job, attempt)

    def _put_result(self, state: State, who: int, job: int, attempt: int) -> Iterator[tuple[str, State]]:
        there = [directory for directory in reach(state, RUNNING, who) if (directory, job) in state.spares]
        for directory in there:
            recorded = record(state, directory, job, attempt, attempt)
            yield f"f2 {who}", go(recorded, who, "recorded", job, attempt)
            if (job, attempt) in state.wishes:
                recorded = record(state, directory, job, attempt, CANCELED + attempt)
                yield f"f2 {who} canceled", go(recorded, who, "recorded", job, attempt)
            if state.faults.retries:
                recorded = record(state, directory, job, attempt, -attempt)
                recorded = recorded._replace(faults=state.faults._replace(retries=state.faults.retries - 1))
                yield f"f2 {who} to retry", go(recorded, who, "to retry", job, attempt)
        if not there:
            yield f"look {who}", self._looked(state, who, RUNNING, "started")

    def _finish(self, state: State, who: int, job: int, attempt: int) -> Iterator[tuple[str, State]]:
        for directory in reach(state, RUNNING, who):
            source = find(state, job, directory, attempt)
            if source and state.actors[who].at == "to retry":
                yield f"f3' {who}", go(self._give_back(state, source), who, "given", job, attempt + 1)
            elif source:
                yield f"f3 {who}", go(self._show(state, source), who, "idle")
        yield from self._missing(state, who, RUNNING, job, attempt)

    def _heed_late_wish(self, state: State, who: int, actor: Actor) -> tuple[str, State]:
        """After f3' or a give-back: a wish to cancel that attempt, which came too late for its holder."""
        job, attempt = actor.job, actor.attempt
        wish = (job, attempt - 1)
        if actor.at == "given":
            return f"look for wishes {who}", go(
                state, who, *("late", job, attempt) if wish in state.wishes else ("idle",)
            )
        after = go(state._replace(wishes=state.wishes - {wish}), who, "idle")
        given = find(state, job, "ready", attempt)
        if given:
            return f"late n1 {job}.{attempt}", self._cancel(after, given)
        return f"late q1 {job}.{attempt}", after._replace(wishes=after.wishes | {(job, attempt)})

    @staticmethod
    def _came_back(state: State, who: int, job: int, attempt: int) -> set[tuple[int, int]]:
        """The attempts since the last outcome that was shown."""
        files = [file for file in state.files if file[:1] == (job,) and file[2] == attempt and file.place[0] == PENDING]
        return _since_shown(files[0]) if files else set()

    def _look_before_start(self, state: State, who: int, job: int, attempt: int) -> Iterator[tuple[str, State]]:
        """Its giver may have died before he looked for a wish about the attempt before."""
        wishes = self._came_back(state, who, job, attempt) & state.wishes
        if not wishes:
            yield f"look for wishes {who}", go(state, who, "cleared", job, attempt)
            return
        for directory in reach(state, PENDING, who):
            source = find(state, job, directory, attempt)
            if source:
                canceled = self._cancel(state, source)
                yield f"v9 {who} canceled", go(canceled._replace(wishes=state.wishes - wishes), who, "idle")
        yield from self._missing(state, who, PENDING, job, attempt)

    def _start(self, state: State, who: int, job: int, attempt: int) -> Iterator[tuple[str, State]]:
        for directory in reach(state, PENDING, who):
            source = find(state, job, directory, attempt)
            for target in reach(state, RUNNING, who) if source else ():
                assert source is not None
                moved = move(state, source, target)
                moved = moved._replace(started=moved.started | {(job, attempt, who)})
                if (job, attempt) in {(each, number) for each, number, _ in state.started}:
                    raise Broken(f"I9: attempt {job}.{attempt} is executed twice, with one output file")
                if any(0 < result < CANCELED for result in source.results):
                    raise Broken(f"I15: job {job} has a result and is executed again")
                self._check_wish(state, source)
                yield f"t2 {who}", go(moved, who, "started", job, attempt)
        yield from self._missing(state, who, PENDING, job, attempt)

    @staticmethod
    def _check_wish(state: State, file: File) -> None:
        """Who asked and has looked again is through: nothing that he meant starts any more."""
        is_through = state.asking is None and (file.job, file.attempt) not in state.wishes
        for job, attempt in sorted(_since_shown(file) & state.wishes) if is_through else ():
            raise Broken(f"I11: {job}.{attempt} was to be canceled, and runs again")

    def _missing(self, state: State, who: int, kind: str, job: int, attempt: int) -> Iterator[tuple[str, State]]:
        """ENOENT: the file is in no directory that the actor reaches. It lists its own directory."""
        if not any(find(state, job, directory, attempt) for directory in reach(state, kind, who)):
            yield f"look {who}", self._looked(state, who, kind, "idle")

    def _looked(self, state: State, who: int, kind: str, found: str) -> State:
        """A fresh listing of the own directory: gone is fenced; there, the job is still in hand."""
        actor = state.actors[who]
        if f"{kind}{who}" not in state.directories and self.rules.made_once:
            return put(state, who, actor._replace(at="fenced", job=-1, attempt=0))
        if f"{kind}{who}" not in state.directories:  # mkdir -p, and on
            made = state._replace(directories=state.directories | {f"{kind}{who}"})
            if actor.at == "written":
                made = made._replace(spares=made.spares | {(f"{kind}{who}", actor.job)})
                return put(made, who, actor)
            return go(made, who, "idle")
        if find(state, actor.job, f"{kind}{who}", actor.attempt):
            return put(state, who, actor._replace(at=found))
        return go(state, who, "idle")

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
            if given and any(owner_of(name) in actor.taking and name[0] in "PR" for name in state.directories):
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


def _since_shown(file: File) -> set[tuple[int, int]]:
    """A job's attempts since the last whose outcome was shown, before the one in the name."""
    shown = max((result % CANCELED for result in file.results if result > 0), default=0)
    return {(file.job, attempt) for attempt in range(shown + 1, file.attempt)}


_OF_A_PERSON = ("n1", "h1", "see", "y1", "edit")


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
