"""Checks a workflow's directory, and mends it: looks, moves what is wrong out of the way, makes anew what is lost.

`docs/spool-format.md` has the steps (p1 to p8). Every round begins with a fresh look, so that a repair that was cut
short is gone on with by saying it again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from torc_spool import changes, fsops, naming, processes, recovery, trust, userdata
from torc_spool.actor import Actor, identity, new_name
from torc_spool.check import check
from torc_spool.contents import encode
from torc_spool.errors import StorageError, UsageError
from torc_spool.findings import (
    Anew,
    AnewAction,
    Close,
    Finding,
    Fix,
    Make,
    Park,
    Rename,
    Restore,
    Resubmit,
    Rewrite,
    TakeBack,
)
from torc_spool.model import RunnerEnd, Status
from torc_spool.naming import ActionName
from torc_spool.recovery import Owner
from torc_spool.restore import LOST_AND_FOUND, workflow_record
from torc_spool.settle import Settler
from torc_spool.spool import Spool, command
from torc_spool.store import Store
from torc_spool.survey import survey

_LOOKS = 3
_ROUNDS = 10


class Mended(NamedTuple):
    """What a repair has found, how much of it is mended, and what is left."""

    findings: list[Finding]
    repaired: int
    left: list[Finding]


def open_anyway(spool: Spool, workflow_id: int) -> Store:
    """A workflow to be checked, also where its `workflow.json` is damaged and something tells what it held.

    Raises NotFound, DamagedFile, StorageError.
    """
    return spool.open(workflow_id, instead=workflow_record)


def look(store: Store) -> list[Finding]:
    """What is wrong. Jobs may be in motion: what is wrong must be so in each of several looks."""
    found = check(survey(store))
    for _ in range(_LOOKS - 1):
        if not found:
            break
        again = {_key(each) for each in check(survey(store))}
        found = [each for each in found if _key(each) in again]
    return found


def _key(finding: Finding) -> tuple[str, str, str]:
    return finding.kind, finding.path, finding.what


def living(store: Store) -> list[str]:
    """The runners that may live and hold directories of the workflow."""
    return [owner.name for owner in recovery.scan(store, only_holders=True) if owner.state in ("alive", "silent")]


def repair(store: Store) -> Mended:
    """Mend what can be mended. Raises UsageError while a runner that may live holds the workflow, UntrustedSpool,
    StorageError: then what was done is done, and the rest is done when it is said again."""
    found = look(store)
    if not found:
        return Mended([], 0, [])
    root = store.layout.root
    for path in (os.path.dirname(root), root):
        trust.check_directory(path, shared=store.shared)
    _refuse_living(store, "")
    for finding in found:
        if isinstance(finding.fix, Make):
            _make(store, finding.fix)
        elif isinstance(finding.fix, Park) and _is_link(f"{root}/{finding.fix.path}"):
            _park(store, finding.fix.path)  # as long as it is there, nothing below it is to be trusted
    store.check_trust()
    actor = Actor.born(store, identity(new_name(), kind="fsck"))
    try:
        _refuse_living(store, actor.name)
        told = _Repair(actor).run(found)
    finally:
        with suppress(StorageError):
            actor.retire()
    if store.exists() and not any(each.kind == "record" and each.fix is None for each in told):
        Settler(store).settle()
    left = look(store)
    still = {_key(each) for each in left}
    return Mended(told, sum(_key(each) not in still for each in told), left)


def _park(store: Store, path: str) -> None:
    """p1, p2."""
    root = store.layout.root
    has = fsops.listed(root)
    if LOST_AND_FOUND in has.files + has.links:
        fsops.rename(f"{root}/{LOST_AND_FOUND}", f"{root}/.{naming.aside_name(LOST_AND_FOUND, '.')}")
    fsops.make_directory(f"{root}/{LOST_AND_FOUND}", store.directory_mode)
    directory, _, name = path.rpartition("/")
    if path != LOST_AND_FOUND:
        target = naming.aside_name(name, directory or ".")
        fsops.rename(f"{root}/{path}", f"{root}/{LOST_AND_FOUND}/{target}")


def _is_link(path: str) -> bool:
    directory, name = os.path.split(path)
    return name in fsops.listed(directory).links


def _make(store: Store, fix: Make) -> None:
    parent, name = os.path.split(f"{store.layout.root}/{fix.path}")
    has = fsops.listed(parent)
    if name in has.links + (has.directories if fix.is_file else has.files):
        _park(store, fix.path)  # a file where a directory must be, or the other way round
    if fix.is_file:
        fsops.create(f"{parent}/{name}", b"", store.file_mode)
    else:
        fsops.make_directory(f"{parent}/{name}", store.directory_mode)


# -- who may live


def _refuse_living(store: Store, mine: str) -> None:
    owners = [owner for owner in recovery.scan(store, only_holders=True) if owner.name != mine]
    dead = {owner.name for owner in recovery.dead(owners)}
    taken = {owner.name: owner.directory for owner in recovery.taken_owners(store)}
    alive = [owner.name for owner in owners if owner.state in ("alive", "silent") and not _is_gone(owner, taken, dead)]
    if alive:
        spool, number = os.path.dirname(store.layout.root), store.workflow.id
        raise UsageError(
            f"workflow {number} has runners that may live: {', '.join(alive)}; wait until they have ended, stop them "
            f"({command(spool, f'stop {number} RUNNER')}), or, when you know that one is dead: "
            f"{command(spool, f'recover {number} --dead RUNNER')}"
        )


def _is_gone(owner: Owner, taken: dict[str, str], dead: Iterable[str]) -> bool:
    """Whether an owner without a record of its own is known to be gone: its taker is dead, or it was of this host."""
    if owner.record is not None:
        return False
    directory = taken.get(owner.name)
    if directory is not None and any(f"/{name}/taken/" in directory for name in dead):
        return True
    host, pid, _ = owner.name.rsplit("-", 2)
    here = naming.new_runner_name(processes.host_name(), 0).rsplit("-", 2)[0]
    return host == here and processes.start_time(int(pid)) is None


# -- doing


class _Repair:
    """Round after round: what can be moved out of the way, then what the dead hold, then what is lost."""

    def __init__(self, actor: Actor) -> None:
        self._actor, self._store = actor, actor.store
        self._root = actor.store.layout.root

    def run(self, found: list[Finding]) -> list[Finding]:
        """Returns all that was found on the way: mending one thing may show another."""
        told = {_key(each): each for each in found}
        for _ in range(_ROUNDS):
            found = check(survey(self._store))
            told = {_key(each): each for each in found} | told
            fixes = [each.fix for each in found if each.fix is not None]
            if not fixes and not self._recovery_due():
                break
            self._apply(fixes)
        return list(told.values())

    def _recovery_due(self) -> bool:
        others = recovery.scan(self._store, only_holders=True)
        return bool(recovery.dead(others))

    def _apply(self, fixes: list[Fix]) -> None:
        """The records first, since all else is held against them. Then what lies in the way, then what the dead hold;
        what is lost only when there was nothing else."""
        records = [fix for fix in fixes if isinstance(fix, Restore)]
        for record in records:
            self._restore(record)
        if records:
            return
        lost = [fix for fix in fixes if isinstance(fix, Anew | AnewAction)]
        others = [fix for fix in fixes if not isinstance(fix, Anew | AnewAction)]
        for fix in others:
            self._one(fix)
        recovered = self._recover({fix.owner for fix in others if isinstance(fix, TakeBack)})
        if not others and not recovered:
            _refuse_living(self._store, self._actor.name)
            for each in lost:
                self._one(each)

    def _one(self, fix: Fix) -> None:
        if isinstance(fix, Park):
            _park(self._store, fix.path)
        elif isinstance(fix, Rename):
            self._rename(fix)
        elif isinstance(fix, Make):
            _make(self._store, fix)
        elif isinstance(fix, Resubmit):
            self._resubmit(fix.path)
        elif isinstance(fix, Anew):
            self._anew(fix)
        elif isinstance(fix, AnewAction):
            self._anew_action(fix)
        elif isinstance(fix, Close):
            self._close(fix)
        elif isinstance(fix, Rewrite):
            self._rewrite(fix)

    def _restore(self, fix: Restore) -> None:
        """p8."""
        _park(self._store, fix.path)
        directory, name = os.path.split(f"{self._root}/{fix.path}")
        fsops.replace(directory, name, fix.data, self._store.file_mode)

    def _rename(self, fix: Rename) -> None:
        """p3: no move of the table, since what is put right is what no move has made."""
        directory, _, name = fix.target.rpartition("/")
        if name in fsops.names(f"{self._root}/{directory}"):
            _park(self._store, fix.path)
        else:
            fsops.rename(f"{self._root}/{fix.path}", f"{self._root}/{fix.target}")

    def _anew(self, fix: Anew) -> None:
        """p4, p5."""
        if self._store.locate(fix.job) is None:
            changes.make_anew(self._actor, self._store.record(fix.job), max(1, fix.attempt), Status.BLOCKED)

    def _anew_action(self, fix: AnewAction) -> None:
        action = self._store.action_records()[fix.number - 1]
        layout, mode = self._store.layout, self._store.file_mode
        if action.is_of_each_runner:
            name = str(ActionName(action.number, action.trigger))
            fsops.replace(layout.actions_persistent, name, encode(action), mode)
        else:
            name = str(ActionName(action.number, action.trigger, fix.performance))
            fsops.replace(layout.actions_waiting, name, encode(action), mode)

    def _resubmit(self, path: str) -> None:
        for datum in userdata.known(self._store):
            if path == f"user_data/{datum.file}":
                _park(self._store, path)
                fsops.make_directory(self._store.layout.user_data, self._store.directory_mode)
                userdata.update(self._store, datum, bytes(datum.data))

    def _close(self, fix: Close) -> None:
        end = RunnerEnd(state="dead", time=time.time(), evidence="its record is lost", recovered_by=self._actor.name)
        for name in fix.left:
            _park(self._store, f"{fix.path}/{name}")
        fsops.make_directory(f"{self._root}/{fix.path}", self._store.directory_mode)
        fsops.replace(f"{self._root}/{fix.path}", "end.json", encode(end), self._store.file_mode)

    def _rewrite(self, fix: Rewrite) -> None:
        _park(self._store, fix.path)
        lines = [
            {"event": each.event, "id": each.job, "attempt": each.attempt, "outcome": each.outcome}
            for each in fix.events
        ]
        fsops.create(f"{self._root}/{fix.path}", b"".join(map(encode, lines)), self._store.file_mode)

    def _recover(self, unknown: set[str]) -> bool:
        """What the dead hold, and those of whom nothing is known but that they are not here any more."""
        owners = [owner for owner in recovery.scan(self._store, only_holders=True) if owner.name != self._actor.name]
        taken = False
        for owner in owners:
            if owner.evidence is None and owner.name in unknown:
                owner = owner._replace(evidence="it has no record, and a repair was asked for")
            if owner.evidence is not None:
                taken = recovery.take_back(self._actor, owner) is not None or taken
        return taken
