"""Notes of hosts on which jobs fail one after the other, in `sick/`: made, read, lifted. See `docs/spool-format.md`."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from torc_spool import fsops, mend, naming, recovery
from torc_spool.contents import encode
from torc_spool.errors import DamagedFile, NotFound
from torc_spool.mend import Case
from torc_spool.model import OUTCOMES, RunnerRecord, SickHost, Status
from torc_spool.remedies import Remedy
from torc_spool.store import Store
from torc_spool.streak import SICK_WITHIN_S, Failed, Streak, Verdict, failed_at_once, verdict

HOLDS_S = 24 * 3600.0  # by then somebody has mended the host, or a runner there finds it sick once more


def notes(store: Store, *, now: float | None = None) -> list[SickHost]:
    """Those that hold, oldest first. One that cannot be read, or is older than a day, says nothing."""
    now = time.time() if now is None else now
    found = []
    for name in fsops.names(store.layout.sick):
        if not naming.is_runner(name.removesuffix(".json")):
            continue
        try:
            content = fsops.read(f"{store.layout.sick}/{name}")
            note = None if content is None else msgspec.json.decode(content.data, type=SickHost)
        except (DamagedFile, msgspec.DecodeError, UnicodeDecodeError):
            continue
        if note is not None and note.time > now - HOLDS_S:
            found.append(note)
    return sorted(found, key=lambda note: note.time)


def nodes(store: Store, cluster: Callable[[], str | None] = lambda: None) -> list[str]:
    """The sick hosts that are nodes of a cluster, by Slurm's names of them.

    `cluster` is asked only where a note names one; it says None where that is not known: then all are of it.
    """
    found = [note for note in notes(store) if note.slurm_node is not None]
    here = cluster() if any(note.slurm_cluster for note in found) else None
    return sorted({str(note.slurm_node) for note in found if here is None or note.slurm_cluster in (None, here)})


def lift(store: Store, host: str) -> list[str]:
    """A host is well again: its notes hold no more. Returns the runners that had made them. Raises NotFound."""
    mine = [note for note in notes(store) if host in (note.host, note.slurm_node)]
    if not mine:
        has = ", ".join(sorted({note.host for note in notes(store)})) or "none"
        raise NotFound(f"workflow {store.workflow.id} has no sick host {host!r}; it has: {has}")
    _lift(store, mine)
    return [note.runner for note in mine]


def _lift(store: Store, lifted: list[SickHost]) -> None:
    for note in lifted:
        fsops.rename(f"{store.layout.sick}/{note.runner}.json", f"{store.layout.sick}/.{note.runner}.json")


def judge(store: Store, record: RunnerRecord, streak: Streak, *, is_asked_for: bool) -> tuple[Verdict, str]:
    """What a runner's long streak means, and what to say of it, once. Notes that it proves wrong are lifted."""
    others = [note for note in notes(store) if note.host != record.host]
    any_completed = bool(fsops.names(store.layout.outcome(Status.COMPLETED)))
    found = verdict(
        is_asked_for=is_asked_for,
        has_company=record.slurm_node is not None or _is_accompanied(store, record.name),
        others_fail_too=bool(others),
        any_completed=any_completed,
    )
    if found is Verdict.ALONE:
        said = "" if streak.put_off_at else f"{streak}; no other runner is there for them, so this one goes on"
        streak.put_off()
        return found, said
    streak.is_judged = True
    if found is Verdict.SICK:
        return found, f"{streak}: this runner claims nothing more, and notes {record.host} as sick"
    _lift(store, [note for note in others if not note.any_completed])
    where = ", ".join(sorted({note.host for note in others}))
    return found, f"{streak}, as on {where}: it is the jobs, not the hosts; this runner goes on"


def _is_accompanied(store: Store, runner: str) -> bool:
    owners = recovery.scan(store, only_holders=True)
    return any(
        owner.state == "alive" and owner.name != runner and owner.record is not None and owner.record.kind == "runner"
        for owner in owners
    )


def note(store: Store, record: RunnerRecord, streak: Streak) -> list[str]:
    """o1 to o3: say that this host is sick, and give back what failed here, for others. Returns the names of the jobs
    that were given back. Raises StorageError."""
    failed = [each for each in streak.failed if each.workflow == store.workflow.id]
    cases = _cases(store, failed, record.host)
    sick = SickHost(
        host=record.host,
        runner=record.name,
        time=time.time(),
        reason=str(streak),
        slurm_node=record.slurm_node,
        slurm_cluster=record.slurm_cluster,
        jobs=tuple(each.job for each in failed),
        any_completed=bool(fsops.names(store.layout.outcome(Status.COMPLETED))),
    )
    fsops.make_directory(store.layout.sick, store.directory_mode)
    fsops.create(f"{store.layout.sick}/{record.name}.json", encode(sick), store.file_mode)
    mend.apply(store, cases)
    return [case.name for case in cases]


def _cases(store: Store, failed: list[Failed], host: str) -> list[Case]:
    """Those that lie where they failed, and have not failed at once on another host before."""
    cases = []
    for each in failed:
        place = store.locate(each.job)
        if place is None or place.status not in OUTCOMES or place.name.attempt != each.attempt:
            continue
        try:
            content = store.read_job(store.path(place), each.job)
        except DamagedFile:
            continue
        if content is None or place.status is not Status.FAILED:
            continue
        job = content.job
        before = [entry for entry in job.attempts if entry.attempt != each.attempt]
        if any(failed_at_once(entry, SICK_WITHIN_S) and entry.host not in (None, host) for entry in before):
            continue
        remedy = Remedy("sick_host", job.resources, True, "it failed on a sick host")
        cases.append(Case(job.id, job.name, place, job, remedy))
    return cases
