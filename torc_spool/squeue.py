"""What Slurm says of allocations: one call for all of them, what it prints, and how often a process may ask."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from torc_spool import naming, slurm
from torc_spool.errors import SlurmError

ASK_TIMEOUT_S = 10.0  # a runner waits for it, and its jobs with it
ASK_AGAIN_S = 60.0
FORGET_S = 5 * ASK_AGAIN_S
GIVE_UP_S = 900.0  # the longest pause after Slurm did not answer

UNKNOWN = "UNKNOWN"  # squeue answered, and knows no such allocation; sacct neither, where there is one
WALLTIME = "TIMEOUT"
# not REVOKED (a copy of it has begun on another cluster), nor COMPLETING (its processes may still run)
_ENDED = "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED TIMEOUT"
ENDED = frozenset(_ENDED.split())

# widths, since a name or a reason may hold any separator; what may be no ASCII comes last
_COLUMNS = (
    ("JobID", 20),
    ("State", 20),
    ("RestartCnt", 12),
    ("StartTime", 24),
    ("EndTime", 24),
    ("TimeLeft", 24),
    ("UserName", 60),
    ("Reason", 60),
    ("NodeList", 400),
    ("Name", 200),
    ("Comment", 400),
)


_HEADING = re.compile(r"CLUSTER: ")  # with --clusters


class Number(NamedTuple):
    """Which allocation: numbers are those of a cluster. None: the one that Slurm's commands talk to by themselves."""

    job_id: str
    cluster: str | None = None


class Seen(NamedTuple):
    """An allocation as Slurm tells of it. What it does not say is None."""

    state: str
    said_by: str
    restarts: int | None = None
    start: float | None = None
    end: float | None = None  # expected, while it runs
    left: str | None = None
    user: str | None = None
    reason: str | None = None
    nodes: str | None = None
    name: str | None = None
    comment: str | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ENDED


def ask(
    job_ids: Collection[str], cluster: str | None = None, environ: Mapping[str, str] = os.environ
) -> dict[str, Seen]:
    """What Slurm knows of each of these allocations of one cluster. Raises SlurmError.

    `squeue` tells of those that have ended for a while (the controller's MinJobAge, 300 s unless set otherwise); of
    those that it has forgotten `sacct` is asked, which may be absent.
    """
    told = {**environ, "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}
    where = [f"--clusters={cluster}"] if cluster else []
    listed = ",".join(sorted(job_ids, key=int))
    columns = ",".join(f"{name}:{width}" for name, width in _COLUMNS)
    words = ["squeue", "--noheader", "--states=all", *where, f"--jobs={listed}", f"--Format={columns}"]
    try:
        answer = slurm.call(words, environ=told, timeout_s=ASK_TIMEOUT_S)
        found = parse_squeue(answer)
        if not found and (odd := [line for line in answer.split("\n") if line.strip() and not _HEADING.match(line)]):
            raise SlurmError("squeue", f"answered {slurm.quoted(odd[0])}, which is not understood")
    except SlurmError as error:
        if "invalid job id" not in error.said.lower():  # so it says where it was asked about a single one
            raise
        found = {}
    forgotten = sorted(set(job_ids) - set(found), key=int)
    if forgotten:
        words = ["sacct", "--noheader", "--parsable2", "--allocations", *where, f"--jobs={','.join(forgotten)}"]
        try:
            answer = slurm.call([*words, f"--format={_SACCT}"], environ=told, timeout_s=ASK_TIMEOUT_S)
        except SlurmError:
            answer = ""
        found |= dict.fromkeys(forgotten, Seen(UNKNOWN, "squeue")) | parse_sacct(answer)
    return {job_id: seen for job_id, seen in found.items() if job_id in job_ids}


def parse_squeue(answer: str) -> dict[str, Seen]:
    """The lines of `squeue --Format`, by number. A line that is none is left out (`--clusters` adds a heading)."""
    found = {}
    for line in answer.splitlines():
        fields, at = {}, 0
        for name, width in _COLUMNS:
            fields[name], at = line[at : at + width].strip(), at + width
        if naming.is_allocation(fields["JobID"]) and fields["State"]:
            found[fields["JobID"]] = Seen(
                state=fields["State"],
                said_by="squeue",
                restarts=naming.whole(fields["RestartCnt"]),
                start=_time(fields["StartTime"]),
                end=_time(fields["EndTime"]),
                left=_text(fields["TimeLeft"]),
                user=_text(fields["UserName"]),
                reason=_text(fields["Reason"]),
                nodes=_text(fields["NodeList"]),
                name=_text(fields["Name"]),
                comment=_text(fields["Comment"]),
            )
    return found


_SACCT = "JobIDRaw,State,Start,End,User,NodeList"


def parse_sacct(answer: str) -> dict[str, Seen]:
    """The lines of `sacct --parsable2`, by number. `CANCELLED by 1000` is CANCELLED."""
    found = {}
    for line in answer.splitlines():
        fields = line.split("|")
        if len(fields) != 6 or not naming.is_allocation(fields[0]) or not fields[1].strip():
            continue
        job_id, state, start, end, user, nodes = fields
        found[job_id] = Seen(
            state=state.split()[0],
            said_by="sacct",
            start=_time(start),
            end=_time(end),
            user=_text(user),
            nodes=_text(nodes),
        )
    return found


def _time(text: str) -> float | None:
    seconds = naming.whole(text)
    return float(seconds) if seconds else None


def _text(text: str) -> str | None:
    return None if text in ("", "(null)", "N/A", "None", "None assigned", "INVALID") else text


def cluster_here(environ: Mapping[str, str] = os.environ) -> str | None:
    """The cluster that Slurm's commands talk to by themselves. Raises SlurmError."""
    answer = slurm.call(["scontrol", "show", "config"], environ=environ, timeout_s=ASK_TIMEOUT_S)
    match = re.search(r"^ClusterName\s*=\s*(\S+)", answer, re.MULTILINE)
    return match[1] if match else None


Ask = Callable[[Collection[str], str | None], dict[str, Seen]]


class Inquiry:
    """What this process has asked Slurm: at most once a minute, and ever more rarely while it does not answer."""

    def __init__(
        self,
        ask: Ask = ask,
        *,
        cluster: Callable[[], str | None] = cluster_here,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._find_cluster, self._clock = ask, cluster, clock
        self._known: dict[Number, Seen] = {}
        self._wanted: dict[Number, float] = {}  # when somebody last wanted to know; a runner may serve many workflows
        self._again_at = float("-inf")
        self._pause = ASK_AGAIN_S
        self._cluster: str | None = None
        self.trouble: SlurmError | None = None  # why the last call told nothing

    def about(self, numbers: Collection[Number]) -> dict[Number, Seen]:
        """What is known of these allocations, none of it older than the last time when Slurm could be asked."""
        now = self._clock()
        self._wanted |= dict.fromkeys(numbers, now)
        if numbers and now >= self._again_at:
            self._again_at = now + ASK_AGAIN_S
            self._wanted = {number: since for number, since in self._wanted.items() if since > now - FORGET_S}
            try:
                self._known = self._fresh(self._wanted)
                self._pause, self.trouble = ASK_AGAIN_S, None
            except SlurmError as error:
                self._known, self.trouble = {}, error
                self._again_at = self._clock() + self._pause
                self._pause = min(2 * self._pause, GIVE_UP_S)
        return {number: self._known[number] for number in numbers if number in self._known}

    def _fresh(self, numbers: Collection[Number]) -> dict[Number, Seen]:
        if self._cluster is None and any(number.cluster for number in numbers):
            self._cluster = self._find_cluster()
        by_cluster: dict[str | None, list[Number]] = {}
        for number in numbers:
            elsewhere = number.cluster if number.cluster != self._cluster else None
            by_cluster.setdefault(elsewhere, []).append(number)
        found: dict[Number, Seen] = {}
        for cluster, asked in by_cluster.items():
            seen = self._ask({number.job_id for number in asked}, cluster)
            found |= {number: seen[number.job_id] for number in asked if number.job_id in seen}
        return found


INQUIRY = Inquiry()


def cancel(
    job_ids: Sequence[str],
    cluster: str | None = None,
    *,
    only_pending: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """scancel. One that has ended meanwhile is no mistake to Slurm. Raises SlurmError."""
    words = ["scancel", *(["--state=PENDING"] if only_pending else []), *([f"--clusters={cluster}"] if cluster else [])]
    slurm.call([*words, *job_ids], environ=environ, timeout_s=slurm.QUERY_TIMEOUT_S)
