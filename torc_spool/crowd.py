"""How many runners share one filesystem without being a burden to it: whom each watches, how often each looks.

What runners of one workflow ask of the filesystem beyond the steps of their jobs shall stay within a budget of calls a
second, however many they are. Each knows the others from a listing that it makes anyway.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping

CALLS_PER_S = 2000  # of all runners of a workflow together, unless said otherwise
BEGIN_CALLS = 75  # of a runner, from its start to the first looks while its first job runs
MARK_CALLS = 3  # to leave a mark, and to list those of a crowd
END_CALLS = 50  # to leave: what is left, in whose hands, and its own directories
SHARE = 0.65  # of the budget, for those that begin or end; the rest is for those that are at work
CROWD = 1000  # so many may come at one moment
HANDFUL = 8  # so few are no crowd
MARKING_S = 5.0  # no longer does one that may be alone wait for a crowd
RUNNER_VARIABLE = "TORC_RUNNER"  # in the environment of every process of a job
LOOK_CALLS = 45  # of an idle runner that looks whether there is something to do, and finds it
LOOKED_AT = 8  # so many others one looks at closely, to say what they do
WATCHED = 3  # so many others that live each runner watches


def ring(names: Collection[str], own: str) -> list[str]:
    """The others, in the order in which a runner watches them: those that follow its own name, and round about."""
    others = sorted(set(names) - {own})
    after = [name for name in others if name > own]
    return after + others[: len(others) - len(after)]


def rank(environ: Mapping[str, str]) -> int:
    """Which one a runner is of those that Slurm starts in one step at once, from 0; 0 where it is none of such."""
    said = environ.get("SLURM_PROCID", "")
    if RUNNER_VARIABLE in environ or not re.fullmatch("[0-9]{1,7}", said):
        return 0  # what a job starts is no task of the step
    return int(said)


def turn_s(before: int, calls_per_s: float) -> float:
    """How long a runner waits before it begins, where so many begin before it."""
    return before * BEGIN_CALLS / (SHARE * calls_per_s)


def marking_s(calls_per_s: float) -> float:
    """In how long a crowd that nobody has told of itself leaves its marks."""
    return min(MARKING_S, CROWD * MARK_CALLS / (SHARE * calls_per_s))


def leaving_s(others: int, calls_per_s: float) -> float:
    """How long a runner waits before it ends, where what it has learned a crowd of others learns as well."""
    return 0.0 if others < HANDFUL else random.uniform(0.0, others * END_CALLS / (SHARE * calls_per_s))


def least_pause_s(others: int, calls_per_s: float) -> float:
    """The shortest time between two looks of an idle runner; never the same, lest all look at one moment."""
    return random.uniform(0.8, 1.2) * others * LOOK_CALLS / calls_per_s
