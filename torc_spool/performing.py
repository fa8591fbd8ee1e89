"""A runner's part in the actions of one workflow: when it performs them, and when it claims no jobs because of them.

A runner performs the actions of a workflow one after the other. `docs/actions.md` says what users may rely on.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterable, Mapping

from torc_spool import actions, allocations, fsops, naming, scheduling, slurm, triggers
from torc_spool.actions import Lying
from torc_spool.errands import CODE_CANNOT_START, Errand, Errands
from torc_spool.errors import DamagedFile, StorageError
from torc_spool.execution import TASK_VARIABLE
from torc_spool.model import Action, Status, Trigger
from torc_spool.naming import ActionName
from torc_spool.processes import ALLOCATION_VARIABLE
from torc_spool.served import FINISHED_AGE_S, LISTING_SHARE, Served
from torc_spool.spawn import Environment

_AGAIN_S = 1.0  # so long a runner waits before it looks again at what others perform
_OWN_VARIABLES = ("TORC_ACTION", "TORC_ACTION_TRIGGER", TASK_VARIABLE)
_NOT_FOR_ACTIONS = ("TORC_JOB_ID", "TORC_JOB_NAME", "TORC_ATTEMPT_ID", "TORC_RETURN_CODE")


class Performer:
    """What one runner does for the actions of one workflow that has any."""

    def __init__(
        self,
        served: Served,
        errands: Errands,
        *,
        output_dir: str,
        spool: str,
        environ: Mapping[str, str],
        tell: Callable[[str], None],
        has_jobs: Callable[[], bool],
    ) -> None:
        workflow, runner = served.store.workflow, served.record.name
        self._served, self._store, self._errands, self._tell = served, served.store, errands, tell
        self._has_jobs = has_jobs  # whether jobs of the workflow are in this runner's hands
        self._runner, self._output_dir = runner, output_dir
        fixed = {
            "TORC_WORKFLOW_ID": str(workflow.id),
            "TORC_OUTPUT_DIR": output_dir,
            "TORC_SPOOL_DIR": spool,
            "TORC_RUNNER": runner,
            ALLOCATION_VARIABLE: environ.get("SLURM_JOB_ID", ""),
        }
        hidden = {*_OWN_VARIABLES, *_NOT_FOR_ACTIONS, *fixed}
        inherited, given = (
            {name: value for name, value in variables.items() if name not in hidden}
            for variables in (environ, workflow.env)
        )
        self._environment = Environment({**inherited, **fixed}, given)
        self.watch = triggers.Watch()
        served.settler.watch = self.watch
        self._current: tuple[Action, ActionName, Errand] | None = None
        self._resumed: ActionName | None = None  # what is performed now, when another had begun it
        self._known: dict[str, Action] = {}  # contents by file name
        self._own: dict[int, tuple[Action, ActionName]] | None = None  # of each runner, and not yet performed by us
        self._begun = False  # whether the actions of the start are behind us; a finished workflow may start again
        self._entered = False  # whether they ever were: this runner has served the workflow, and takes its leave
        self._leaving = False
        self._unsure = False  # whether an action may be ours without our knowing
        self._sick = False  # this node can start no command: actions are left to others
        self._environ = environ
        self._spool = spool
        self.waits = False  # for another runner, who performs an action of the start
        self._said: set[ActionName] = set()
        self._asked = False  # whether it was ever looked what others have left undone
        self._unable: set[int] = set()  # actions that this node cannot perform, once that is said
        self._looked = -math.inf
        self._cost = 0.0
        self.stale = True  # whether actions may have been put back to waiting

    # -- when jobs may be claimed ---------------------------------------------------------------------------

    @property
    def holds_back(self) -> bool:
        """Whether jobs may not be claimed now, as far as was last seen."""
        return self.waits or self._leaving or self._is_before_jobs()

    def may_claim(self) -> bool:
        """Whether jobs may be claimed now; begins what has to be performed before. Raises StorageError."""
        if self._current is not None or self._leaving:
            return not self.holds_back
        if self._is_finished():
            self._begun = self.waits = False
            return False
        if not self._begun and not self._begin_start():
            return False
        maybe_over = self.watch.ended_some and not self._has_jobs()
        if self.watch.urgent or ((self.watch.due or self.stale or maybe_over) and self._is_affordable()):
            self.look()
        return not self._is_before_jobs()

    def _is_before_jobs(self) -> bool:
        """Nodes that jobs want to have need not be there before others of them run."""
        if self._current is None:
            return False
        action = self._current[0]
        is_for_more = action.kind == actions.SCHEDULE_NODES and action.trigger is Trigger.JOBS_READY
        return action.trigger in triggers.BEFORE_JOBS and not is_for_more

    def _is_finished(self) -> bool:
        if self._served.finished and self._served.due(time.monotonic()):
            self._served.refresh()
        return self._served.finished

    def _is_affordable(self) -> bool:
        return time.monotonic() - self._looked >= LISTING_SHARE * self._cost

    def _begin_start(self) -> bool:
        """Actions of the start: those of the workflow, by us or by others, then our own. True when all are done."""
        if self.waits and not self.stale and time.monotonic() < self._looked + _AGAIN_S:
            return False
        self._looked, self.stale = time.monotonic(), False
        if self._begin_unsure():
            return False
        for name in self._listed("waiting").values():
            if name.trigger is Trigger.WORKFLOW_START and self._claim_and_begin(name):
                return False
        running = self._listed("running").values()
        alive = actions.living(self._store) if running else {}
        if self._resume(running, alive):
            return False
        self.waits = self._others_start(running, alive)
        if self.waits:
            return False
        for action, name in list(self._of_ours().values()):
            if action.trigger in triggers.AT_START and self._begin_own(action, name):
                return False
        self._begun = self._entered = self.watch.due = True
        return True

    def _others_start(self, running: Iterable[ActionName], alive: Mapping[str, str]) -> bool:
        """Whether a living runner performs an action of the workflow's start. One that is silent is not waited for."""
        starting = [name for name in running if name.trigger is Trigger.WORKFLOW_START]
        if not starting:
            return False
        self._tell_interrupted(running, alive)
        for name in starting:
            if alive.get(name.runner or "") == "silent" and name not in self._said:
                self._said.add(name)
                self._tell(f"{_title(name)}: runner {name.runner}, which performs it, is silent; going on without it")
        return any(alive.get(name.runner or "") == "alive" for name in starting)

    def _resume(self, running: Iterable[ActionName], alive: Mapping[str, str]) -> bool:
        """Go on with what a dead performer has begun, where that can be done; True when one was begun."""
        for name in actions.interrupted(running, alive):
            action = self._load("running", name)
            if action is None or action.kind != actions.SCHEDULE_NODES or not self._can_perform(action):
                continue
            scheduling.bury(self._store, name)
            owner = self._served.owner()
            try:
                mine = actions.take_over(self._store, name, owner.name)
            except StorageError:
                self._unsure = self.stale = True
                raise
            if mine is not None:
                self._tell(f"{_title(name)} was interrupted: runner {name.runner} is gone; going on with it")
                self._begin(action, mine, again=True)
                return True
        return False

    def _can_perform(self, action: Action) -> bool:
        """Whether this node can; says once when it cannot."""
        if self._sick or action.kind != actions.SCHEDULE_NODES:
            return not self._sick
        is_here = slurm.is_here(self._environ)
        if not is_here and action.number not in self._unable:
            self._unable.add(action.number)
            words = f"slurm schedule-nodes {self._served.id} --actions"
            self._tell(
                f"action {action.number} ({action.trigger}) waits: sbatch is not installed here; "
                f"where it is: torc-spool {words}"
            )
        return is_here

    def _tell_interrupted(self, running: Iterable[ActionName], alive: Mapping[str, str]) -> None:
        """Say once what nobody performs any more."""
        for name in actions.interrupted(running, alive):
            if name in self._said:
                continue
            self._said.add(name)
            words = f"actions repeat {self._served.id} {name.number}"
            self._tell(
                f"{_title(name)} was interrupted: runner {name.runner} is gone; "
                f"if it is to be performed again: torc-spool {words}"
            )

    # -- looking --------------------------------------------------------------------------------------------

    def look(self) -> bool:
        """Look what is due, by fresh listings, and begin the first; True when that was so. Raises StorageError."""
        if self._current is not None or self._sick:
            return False
        started = time.monotonic()
        self.stale = False
        if self._begin_unsure():
            return True
        files: dict[int, tuple[Action, ActionName]] = {}
        for number, name in self._listed("waiting").items():
            # one of the start may have been put back when others had begun
            is_due = self._begun or name.trigger is not Trigger.WORKFLOW_START
            if is_due and (action := self._load("waiting", name)) is not None:
                files[number] = (action, name)
        if self._entered:
            files |= self._of_ours()
        waiting = {number: action for number, (action, _) in files.items()}
        with_ready = any(action.trigger is Trigger.JOBS_READY for action in waiting.values())
        now = actions.view(self._store, with_ready=with_ready) if waiting else triggers.View((), (), 1)
        held = self.watch.look(waiting, now)
        self._looked = time.monotonic()
        self._cost = self._looked - started
        for number in held:
            action, name = files[number]
            begun = self._begin_own(action, name) if action.is_of_each_runner else self._claim_and_begin(name)
            if begun:
                self.watch.due = True  # for those behind it
                return True
        return False

    def look_idly(self) -> bool:
        """The same for who has nothing else to do; says what others have left undone. Rarely once all is finished."""
        news = self.stale or self.watch.due or self.watch.ended_some
        is_fresh = self._asked and not news and time.monotonic() < self._looked + FINISHED_AGE_S
        if self.waits or self._current is not None or (self._served.finished and is_fresh):
            return False
        self._asked = True
        running = self._listed("running").values()
        if running:
            alive = actions.living(self._store)
            if self._resume(running, alive):
                return True
            self._tell_interrupted(running, alive)
        return self.look()

    def _listed(self, where: str) -> dict[int, ActionName]:
        found, foreign = actions.listed(self._store, where)
        for filename in foreign:
            self._served.set_aside_file(actions.directory(self._store, where), filename, "is no action's file")
        return dict(sorted(found.items()))

    def _load(self, where: str, name: ActionName) -> Action | None:
        filename = str(name)
        if filename not in self._known:
            try:
                action = self._store.read_action(Lying(where, name).path(self._store), name.number)
            except DamagedFile as damage:
                directory = actions.directory(self._store, where)
                self._served.set_aside_file(directory, filename, damage.why)
                return None
            if action is None:
                return None
            self._known[filename] = action
        return self._known[filename]

    def _of_ours(self) -> dict[int, tuple[Action, ActionName]]:
        """The actions of each runner that this one has not performed yet."""
        if self._own is None:
            self._own = {}
            for number, name in self._listed("persistent").items():
                action = self._load("persistent", name)
                if action is not None:
                    self._own[number] = (action, name)
        return self._own

    # -- performing -----------------------------------------------------------------------------------------

    def _claim_and_begin(self, name: ActionName) -> bool:
        action = self._load("waiting", name)
        if action is None or not self._can_perform(action):
            return False
        runner = self._served.owner().name
        try:
            mine = actions.claim(self._store, name, runner)
        except StorageError:
            self._unsure = self.stale = True
            raise
        if mine is None:
            return False
        self._begin(action, mine)
        return True

    def _begin_unsure(self) -> bool:
        """Begin what is ours although its claim was refused: nobody else ever would."""
        if not self._unsure or self._sick:
            return False
        for name in self._listed("running").values():
            action = self._load("running", name) if name.runner == self._runner else None
            if action is not None:
                self._begin(action, name, again=action.kind == actions.SCHEDULE_NODES)
                return True
        self._unsure = False
        return False

    def _begin_own(self, action: Action, name: ActionName) -> bool:
        self._of_ours().pop(name.number, None)
        if not self._can_perform(action):
            return False
        self._begin(action, name._replace(runner=self._served.owner().name))
        return True

    def _commands(self, action: Action, name: ActionName, again: bool) -> tuple[str, ...]:
        if action.kind != actions.SCHEDULE_NODES:
            return action.commands
        words = [*allocations.program(), "--spool", self._spool, *(["--allow-shared"] if self._store.shared else [])]
        words += ["slurm", "schedule-nodes", str(self._served.id), "--performing", str(name.number)]
        words += ["--key", scheduling.key(self._store, name)]
        return (shlex.join(words + (["--again"] if again else [])),)

    def _begin(self, action: Action, name: ActionName, *, again: bool = False) -> None:
        out, err = naming.action_output_names(self._served.id, name, self._runner)
        task = f"{self._runner}/{self._served.id}/action-{name.number}.{name.performance or 0}"
        errand = Errand(
            self._commands(action, name, again),
            task=(TASK_VARIABLE, task),
            environment=self._environment,
            own={"TORC_ACTION": str(action.number), "TORC_ACTION_TRIGGER": str(action.trigger)},
            cwd=self._store.workflow.cwd,
            outputs=(f"{self._output_dir}/{out}", f"{self._output_dir}/{err}"),
        )
        self._current = (action, name, errand)
        self._resumed = name if again else None
        self._note("action_start", name)
        self._errands.begin(errand, self._over)

    def _note(self, event: str, name: ActionName, **what: object) -> None:
        line = {"event": event, "action": name.number, "performance": name.performance, "time": time.time(), **what}
        self._served.owner().note(line)

    def _over(self, errand: Errand) -> None:
        """The commands have ended: x2, or what else follows. Raises StorageError, and is then called again; Fenced."""
        assert self._current is not None
        if errand.code and self._served.actor is not None:
            self._served.actor.check_owned(Status.RUNNING)  # what a taker has killed did not fail
        action, name, _ = self._current
        never = not errand.begun and (errand.notice or errand.trouble is not None)
        self._sick = self._sick or errand.trouble is not None
        cut_short = errand.code is None or (errand.notice and errand.code != 0)
        if name.performance is not None and never and name != self._resumed:
            actions.put_back(self._store, Lying("running", name))
        elif name.performance is None or cut_short or never:
            pass  # nothing is kept of it, or it stays where it lies: interrupted
        elif not actions.finish(self._store, name, errand.code or 0):
            self._tell(f"{_title(name)} was put back to be performed again; what it did here is not recorded")
        self._note("action_end", name, return_code=None if cut_short else errand.code)
        self._current = None
        self.watch.due = True
        if cut_short and not never:
            self._tell(f"{_title(name)} was cut short; stderr: {errand.stderr}")
        elif errand.code and action.kind == actions.SCHEDULE_NODES:
            self._tell(f"{_title(name)} failed: {errand.trouble or _last_words(errand)}")
        elif errand.code:
            command = errand.commands[errand.at]
            why = errand.trouble or f"returned {errand.code}"
            where = "" if errand.code == CODE_CANNOT_START and errand.trouble else f"; stderr: {errand.stderr}"
            self._tell(f"{_title(name)} failed: command {errand.at + 1} ({shlex.quote(command)}) {why}{where}")

    # -- the end --------------------------------------------------------------------------------------------

    def leave(self, *, within_s: float = math.inf) -> bool:
        """The runner is about to leave: what it has to perform before. True while that has not ended."""
        if self._current is not None:
            return True
        if not self._entered:
            return False
        self._leaving = True
        for action, name in list(self._of_ours().values()):
            if action.trigger is Trigger.WORKER_COMPLETE and self._begin_own(action, name):
                if within_s < math.inf and self._current is not None:
                    self._current[2].end_at = time.monotonic() + within_s
                return True
        return False

    def watched(self) -> list[str]:
        """Directories in which an arrival concerns this runner."""
        layout = self._store.layout
        return [layout.actions_waiting, *([layout.actions_done] if self.waits else [])]

    def close(self) -> None:
        """The workflow was left: what still runs of it is killed, and stays interrupted."""
        if self._current is not None:
            self._errands.drop(self._current[2])
            self._current = None


def _last_words(errand: Errand) -> str:
    """The last line that a command has written to its stderr."""
    content = fsops.read(errand.stderr)
    lines = content.data.decode(errors="replace").split("\n") if content else []
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("torc-spool: ") if said else f"returned {errand.code}; stderr: {errand.stderr}"


def _title(name: ActionName) -> str:
    performance = f", performance {name.performance}" if name.performance and name.performance > 1 else ""
    return f"action {name.number} ({name.trigger}{performance})"
