"""Recovery, of the model of the protocol: v3 to v11."""

from __future__ import annotations

from collections.abc import Iterator

from protocol_state import (
    CANCELED,
    PENDING,
    RUNNING,
    Actor,
    Broken,
    File,
    Rules,
    State,
    move,
    owner_of,
    put,
    reach,
    rename_directory,
    replace_file,
)


class Recovery:
    """What an actor does with the work of the dead."""

    rules: Rules

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
            after = put(state._replace(records=records), who, taking)
            if not self.rules.kill_after_fence and actor.at == "started":
                after = put(after, other, actor._replace(killed=True))
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
            name, after = self._give(state, who, actor)
            yield name, after
            if name == f"v9 {who} canceled" and state.faults.crashes:
                yield self._give_blindly(state, who, actor)

    def _rename_directories(self, state: State, who: int, actor: Actor) -> Iterator[tuple[str, State]]:
        kind = actor.at[2]
        for directory in sorted(state.directories):
            owner = owner_of(directory)
            target = f"{kind}{who}~{owner}"
            if directory[0] == kind and owner in actor.taking and directory != target and owner != who:
                if target in state.directories:
                    continue  # a rename over a directory that is not empty is refused
                if directory == f"{kind}{owner}" and state.actors[owner].alive and not state.actors[owner].unfit:
                    raise Broken(f"I7: {directory} is moved while its owner may live")
                yield f"v5 {who} {directory}", rename_directory(state, directory, target)
                return
        yield f"v5 {who} done", put(state, who, actor._replace(at=f"v6{kind}"))

    def _collect(self, state: State, who: int, actor: Actor) -> Iterator[tuple[str, State]]:
        kind = actor.at[2]
        for owner in actor.taking:
            held = f"{kind}{who}~{owner}"
            if held not in state.directories:
                continue
            spares = [spare for spare in state.spares if spare[0] == held]
            files = [file for file in state.files if file.place == held]
            own = reach(state, kind, who)
            for spare in spares:
                yield f"v6 {who} spare", state._replace(spares=state.spares - {spare})
            for file in files:
                for target in own:
                    yield f"v6 {who} {file.job}", move(state, file, target)
            if files and not own:
                yield f"look {who}", put(state, who, actor._replace(at="fenced", taking=()))
            if spares or files:
                return
            if self.rules.fence:
                yield f"v7 {who} {held}", state._replace(directories=state.directories - {held})
                return
        if f"{kind}{who}" not in state.directories:
            yield f"look {who}", put(state, who, actor._replace(at="fenced", taking=()))
            return
        left = {name for name in state.directories if name[0] == kind and owner_of(name) in actor.taking}
        if left and self.rules.fence and self.rules.looks_again:
            yield f"v5 {who} again", put(state, who, actor._replace(at=f"v5{kind}"))
            return
        after = "v8" if kind == PENDING or not self.rules.both_first else "v5P"
        yield f"v7 {who} done", put(state, who, actor._replace(at=after))

    def _give(self, state: State, who: int, actor: Actor) -> tuple[str, State]:
        """One of the files in hand: aside, to its outcome, or back to ready as the next attempt."""
        mine = [file for file in sorted(state.files) if file.place in (f"{RUNNING}{who}", f"{PENDING}{who}")]
        if not mine:
            if not self.rules.both_first and any(
                directory[0] == PENDING and owner_of(directory) in actor.taking for directory in state.directories
            ):
                return f"v5 {who}", put(state, who, actor._replace(at="v5P"))
            return f"v11 {who}", put(state, who, actor._replace(at="idle", taking=()))
        file = mine[0]
        others = [each for each in state.files if each.job == file.job and each.place != "aside"]
        arrived = [each for each in others if each.place.partition("~")[0] in ("done", "canceled")]
        elsewhere = [each for each in others if each not in arrived]
        later = self.rules.look_everywhere and any(each.attempt > file.attempt for each in elsewhere)
        if later or (self.rules.look_in_done and any(each.attempt >= file.attempt for each in arrived)):
            return f"v8 {who} aside", move(state, file, "aside")
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
            return f"v9 {who} canceled", self._show(replace_file(state, file, noted), noted)
        if is_wanted:
            raise Broken(f"I11: {file.job}.{file.attempt} runs again, which was to be canceled")
        return f"v10 {who}", self._give_back(state, file)

    def _give_blindly(self, state: State, who: int, actor: Actor) -> tuple[str, State]:
        """v10 by one who had listed the wishes before this one was made, and dies before he looks again."""
        file = min(file for file in state.files if file.place in (f"{RUNNING}{who}", f"{PENDING}{who}"))
        given = self._give_back(state, file)
        given = given._replace(faults=state.faults._replace(crashes=state.faults.crashes - 1))
        return f"v10 {who} and crash", put(given, who, actor._replace(alive=False))

    def _give_back(self, state: State, file: File) -> State:
        """v10, f3'."""
        raised = file._replace(place="ready", attempt=file.attempt + (1 if self.rules.new_attempt else 0))
        return replace_file(state, file, raised)

    def _show(self, state: State, file: File) -> State:
        """f3, v9."""
        if file.job in state.shown:
            raise Broken(f"I2: job {file.job} has two outcomes")
        canceled = CANCELED + file.attempt in file.results
        if file.attempt not in file.results and not canceled:
            raise Broken(f"I15: job {file.job} is done without a result")
        return move(state, file, "canceled" if canceled else "done")._replace(shown=state.shown | {file.job})
