"""What the runners are given to do: workflows whose end is known beforehand."""

from __future__ import annotations

import random
import shlex
from typing import Any, NamedTuple

RETRIES = 2  # of the failure handler

# One line when an execution begins and one when it ends, each by one write, in a file that only this job appends to.
JOB = r"""
kind=$1 pause=$2
log=$SOAK_LOGS/$TORC_WORKFLOW_ID-$TORC_JOB_ID
echo "start $TORC_ATTEMPT_ID $TORC_RUNNER $EPOCHREALTIME" >> "$log"
echo "attempt $TORC_ATTEMPT_ID"
sleep "$pause"
case $kind in
    fails) code=3 ;;
    never) code=10 ;;
    heals) [ "$(grep -c '^end [0-9]* 10 ' "$log")" -ge 2 ] && code=0 || code=10 ;;
    *) code=0 ;;
esac
echo "end $TORC_ATTEMPT_ID $code $EPOCHREALTIME" >> "$log"
exit "$code"
"""

ACTION = 'echo "$TORC_ACTION $TORC_RUNNER" >> "$SOAK_LOGS/$TORC_WORKFLOW_ID-action-$TORC_ACTION"; sleep 0.4'


class Expected(NamedTuple):
    """How a job has to end."""

    outcome: str
    return_code: int | None
    failures: tuple[int, int]  # recorded attempts with return code 10 that were, or might have been, run again
    after: tuple[str, ...]  # the jobs that it waits for
    keeps_output: bool


class Workload(NamedTuple):
    """A specification, and how each of its jobs has to end."""

    spec: dict[str, Any]
    expected: dict[str, Expected]  # by name, in order of id


def make(count: int, seed: int, script: str, logs: str) -> Workload:
    """A workflow of `count` jobs: most complete, some fail, some are run again; one in three waits for others."""
    choose = random.Random(seed)
    jobs: list[dict[str, Any]] = []
    expected: dict[str, Expected] = {}
    for number in range(1, count + 1):
        kind = choose.choices(("works", "fails", "never", "heals"), (80, 5, 5, 10))[0]
        pause = choose.choice((0, 0.02, 0.1, 0.3, 2)) if number % 7 == 0 else choose.choice((0, 0.05, 0.2))
        name = f"{kind} {number}"
        job: dict[str, Any] = {
            "name": name,
            "command": f"bash {shlex.quote(script)} {kind} {pause}",
            "priority": choose.randrange(3),
            "stdio": choose.choice(("separate", "combined", "none", {"mode": "separate", "delete_on_success": True})),
        }
        if kind in ("never", "heals"):
            job["failure_handler"] = "again"
        if number > 3 and choose.random() < 0.33:
            job["depends_on"] = sorted(choose.sample(list(expected), choose.randint(1, 3)))
            if choose.random() < 0.5:
                job["cancel_on_blocking_job_failure"] = False
        jobs.append(job)
        expected[name] = _expected(kind, job, expected)
    named = [job["name"] for job in choose.sample(jobs, min(3, count))]
    spec = {
        "name": f"soak {seed}",
        "max_runner_deaths": 0,  # what kills runners here is not the jobs
        "env": {"SOAK_LOGS": logs},
        "failure_handlers": [{"name": "again", "rules": [{"exit_codes": [10], "max_retries": RETRIES}]}],
        "jobs": jobs,
        "actions": [
            {"trigger_type": "on_workflow_start", "action_type": "run_commands", "commands": [ACTION]},
            {"trigger_type": "on_jobs_complete", "action_type": "run_commands", "commands": [ACTION], "jobs": named},
            {"trigger_type": "on_workflow_complete", "action_type": "run_commands", "commands": [ACTION]},
        ],
    }
    return Workload(spec, expected)


def _expected(kind: str, job: dict[str, Any], others: dict[str, Expected]) -> Expected:
    after = tuple(job.get("depends_on", ()))
    stdio = job["stdio"]
    strict = job.get("cancel_on_blocking_job_failure", True)
    if strict and any(others[name].outcome != "completed" for name in after):
        return Expected("canceled", None, (0, 0), after, False)
    if kind == "fails":
        return Expected("failed", 3, (0, 0), after, stdio != "none")
    if kind == "never":
        return Expected("failed", 10, (RETRIES + 1, RETRIES + 1), after, stdio != "none")
    # a failure whose runner died before it was recorded counts for the job, and not for its handler
    failures = (0, RETRIES) if kind == "heals" else (0, 0)
    return Expected("completed", 0, failures, after, isinstance(stdio, str) and stdio != "none")
