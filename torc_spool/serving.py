"""The workflows that a runner serves: opened, served, left, and with which exit code."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator

from torc_spool import actor as actors
from torc_spool import doctor, errors, evidence, fsops, submission, userdata
from torc_spool.doctor import Settings
from torc_spool.errors import NotFound, StorageError, TorcSpoolError
from torc_spool.executor import Executor
from torc_spool.model import Status
from torc_spool.options import Options
from torc_spool.performers import Performers
from torc_spool.performing import Performer
from torc_spool.select import Offer
from torc_spool.served import Left, Served, serve_directories
from torc_spool.spool import Found, Spool, command
from torc_spool.starter import Starter
from torc_spool.store import Store


class Serving:
    """All workflows in which a runner has a part now; iterating gives them in the order in which they were opened."""

    def __init__(
        self,
        spool: Spool,
        options: Options,
        executor: Executor,
        *,
        runner: str,
        told: Settings | None,
        is_for_all: bool,
        tell: Callable[[str], None],
    ) -> None:
        self.actions = Performers()
        self.left: list[tuple[int, Left]] = []
        self.set_aside: list[str] = []
        self._spool, self._options, self._executor, self._tell = spool, options, executor, tell
        self._runner, self._told = runner, told
        self._is_for_all = is_for_all
        self._served: dict[int, Served] = {}
        self._starters: dict[int, Starter] = {}
        self._skipped: dict[str, str] = {}  # workflows that cannot be served, and why
        self._refused: dict[str, str] = {}  # those that the filesystem would not let us open yet
        self._was_there = False  # whether the spool was
        self._closed: list[tuple[int, int]] = []  # (workflow, exit code) of those that are done with

    def __iter__(self) -> Iterator[Served]:
        return iter(list(self._served.values()))

    def __len__(self) -> int:
        return len(self._served)

    def least_pause_s(self) -> float:
        """How long an idle runner leaves the filesystem alone, at least."""
        return sum(served.least_pause_s() for served in self)

    def leaving_s(self) -> float:
        """How long a runner waits before it leaves where all others may leave as well."""
        return sum(served.leaving_s() for served in self)

    def prepare(self) -> None:
        """A runner that waits for jobs may be there before the first submit."""
        submission.prepare_root(self._spool.path, shared=self._spool.allow_shared)

    def open_new(self) -> Iterator[Served]:
        """All workflows of the spool that are not yet served, one after the other."""
        done = {workflow for workflow, _ in self._closed}
        listed = self._listed()
        roots = {found.root for found in listed}
        self._refused = {root: why for root, why in self._refused.items() if root in roots}
        for found in listed:
            if found.id in self._served or found.id in done or found.root in self._skipped:
                continue
            try:
                served = self.open(found.id)
                self._refused.pop(found.root, None)
                yield served
            except NotFound:
                continue  # deleted meanwhile, or not of our scheduler
            except StorageError as error:
                if self._refused.get(found.root) != str(error):
                    self._refused[found.root] = str(error)
                    self._tell(f"workflow {found.id} is not served yet: {error}; trying again")
            except TorcSpoolError as error:
                self._skipped[found.root] = str(error)
                self._tell(f"workflow {found.id} is not served: {error}")

    def _listed(self) -> list[Found]:
        try:
            found = self._spool.workflows()
        except NotFound as error:
            if self._was_there:  # it is away for a moment
                raise StorageError("list", self._spool.path, errno.ENOENT) from error
            raise
        self._was_there = True
        return found

    def open(self, workflow_id: int) -> Served:
        """Serve this one. Raises NotFound, UntrustedSpool, StorageError and others of the library."""
        store = self._spool.open_to_change(workflow_id)
        options = self._options
        served = self._part_in(store)
        output = os.path.abspath(options.output_dir or store.workflow.output_dir or store.layout.output)
        if output != store.layout.output:
            fsops.make_output_directory(output)
        self._starters[workflow_id] = Starter(
            store.workflow,
            user_data=userdata.paths(store),
            runner=self._runner,
            output_dir=output,
            environ=os.environ,
            spool=self._spool.path,
            gpu_variable=None if options.max_parallel_jobs is not None else options.capacity.gpu_variable,
        )
        if store.workflow.num_actions:
            performer = Performer(
                served,
                self._executor.errands,
                output_dir=output,
                spool=self._spool.path,
                environ=os.environ,
                tell=self._tell,
                has_jobs=lambda: self._executor.serves(served),
            )
            self.actions.add(workflow_id, performer)
        self._served[workflow_id] = served
        return served

    def _part_in(self, store: Store) -> Served:
        options, capacity = self._options, self._options.capacity
        directories = serve_directories(store, options.scheduler, options.any_scheduler)
        record = actors.identity(
            self._runner,
            lease_s=options.lease_s,
            scheduler=options.scheduler,
            any_scheduler=options.any_scheduler,
            **evidence.life(),
            max_parallel_jobs=options.max_parallel_jobs,
            num_cpus=capacity.num_cpus,
            num_gpus=len(capacity.gpus),
            num_nodes=capacity.num_nodes,
            memory_mib=capacity.memory_mib,
        )
        served = Served(
            store, record, directories=directories, calls_per_s=doctor.calls_per_s(options.calls_per_s, self._told)
        )
        if self._told is not None and not self._told.lock:
            served.lock.forgo()
        return served

    def starter(self, served: Served) -> Starter:
        """What starts its jobs."""
        return self._starters[served.id]

    def open_again(self, served: Served) -> Served:
        """A workflow whose jobs have been defined anew; we hold nothing in it."""
        self._let_go(served)
        served.close(None)
        return self.open(served.id)

    def _let_go(self, served: Served) -> None:
        self.actions.remove(served.id)
        self._starters.pop(served.id).close()

    # -- leaving --------------------------------------------------------------------------------------------

    def conclude(self, served: Served, offer: Offer) -> None:
        """Leave one workflow with its exit code, and with what is left of it for who has this to offer."""
        outcomes, left = served.recent_outcomes(), []
        if len(outcomes) < served.store.workflow.num_jobs:
            if not served.store.exists():
                self.leave_deleted(served)
                return
            left = [self._unless_unread(served, each) for each in served.prospects.left(offer, served.actor)]
            outcomes = outcomes if left else served.outcomes()  # the last of them have ended meanwhile
        if len(outcomes) >= served.store.workflow.num_jobs:
            served.sweep_requests()
            completed = all(outcome is Status.COMPLETED for outcome in outcomes.values())
            self._leave(served, errors.EXIT_OK if completed else errors.EXIT_JOBS_FAILED)
        else:
            self.left += [(served.id, each) for each in left]
            is_well = self._options.leave_to_others and all(each.is_others for each in left)
            self._leave(served, errors.EXIT_OK if is_well else errors.EXIT_JOBS_LEFT)

    def _unless_unread(self, served: Served, left: Left) -> Left:
        why = served.unread.get(left.id)
        if why is None:
            return left
        anew = command(self._spool.path, f"fsck {served.id} --repair")
        return left._replace(reason=f"is given back: {why}; if that lasts, make it anew: {anew}", is_others=False)

    def leave_deleted(self, served: Served) -> None:
        """Who serves all workflows has nothing left to do in one that is gone."""
        self._tell(f"workflow {served.id} was deleted")
        self._leave(served, errors.EXIT_OK if self._is_for_all else errors.EXIT_STOPPED)

    def _leave(self, served: Served, exit_code: int) -> None:
        self.set_aside += served.set_aside
        self._closed.append((served.id, exit_code))
        self._served.pop(served.id)
        self._let_go(served)
        served.close(exit_code)

    def abandon(self, *, ended: bool, retire: bool) -> None:
        """Leave every workflow; what could not be recorded stays where a recovery finds it.

        `ended`: the runner's own end may have terminated jobs. Without `retire` it has been fenced.
        """
        for served in self:
            code = self._stopped_code(served, ended=ended)
            self.set_aside += served.set_aside
            self._closed.append((served.id, code))
            self._let_go(served)
            with contextlib.suppress(StorageError):
                served.close(code, retire=retire)
        self._served.clear()

    def _stopped_code(self, served: Served, *, ended: bool) -> int:
        """Stopped with work left is 4; stopped when all was done anyway is not."""
        try:
            outcomes = served.outcomes()
        except StorageError:
            return errors.EXIT_STOPPED
        if len(outcomes) < served.store.workflow.num_jobs:
            deleted = self._is_for_all and not served.store.exists()
            return errors.EXIT_OK if deleted else errors.EXIT_STOPPED
        if all(outcome is Status.COMPLETED for outcome in outcomes.values()):
            return errors.EXIT_OK
        # jobs that this runner's own end terminated are work that is left
        is_left = ended and Status.TERMINATED in self._executor.recorded
        return errors.EXIT_STOPPED if is_left else errors.EXIT_JOBS_FAILED

    def exit_code(self, *, fenced: bool) -> int:
        """Of several workflows the worst: stopped, jobs left, jobs failed, all completed."""
        codes = [code for _, code in self._closed]
        if fenced:
            codes.append(errors.EXIT_STOPPED)
        if self._skipped or self._refused:
            codes.append(errors.EXIT_JOBS_LEFT)
        return max(codes, default=errors.EXIT_OK)
