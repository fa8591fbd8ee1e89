"""Whether a failed job is run again, by which rule of its failure handler, and what has to run before: pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torc_spool.model import Attempt, FailureHandler, Status

RETURN_CODE_RUNTIME = 152  # as Torc records a job that ran over its stated runtime


class Script(NamedTuple):
    """A recovery script that has to run before a job's command does."""

    rule: int  # the rule that asks for it, from 1
    text: str
    attempt: int  # the one that failed
    return_code: int


def rule_for(
    handler: FailureHandler, attempts: Sequence[Attempt], outcome: Status, return_code: int | None
) -> int | None:
    """The rule, from 1, by which a job that has just ended is to be run again; None: by none.

    `attempts` are those before. A rule that names the code wins over one that matches all; of each kind the first
    holds, and when its retries are used up no other takes its place.
    """
    if not return_code or not _is_handled(outcome, return_code):
        return None
    number = _matching(handler, return_code)
    if number is None or retries(attempts, number) >= handler.rules[number - 1].max_retries:
        return None
    return number


def _is_handled(outcome: Status, return_code: int) -> bool:
    """A job that was terminated is run again only if it was for its own runtime."""
    return outcome is Status.FAILED or (outcome is Status.TERMINATED and return_code == RETURN_CODE_RUNTIME)


def _matching(handler: FailureHandler, return_code: int) -> int | None:
    rules = list(enumerate(handler.rules, 1))
    named = (number for number, rule in rules if return_code in rule.exit_codes)
    general = (number for number, rule in rules if rule.match_all_exit_codes)
    return next(named, None) or next(general, None)


def retries(attempts: Sequence[Attempt], rule: int) -> int:
    """How often a rule has had a job run again since its last outcome that was shown."""
    return sum(attempt.retry_rule == rule for attempt in _since_shown(attempts))


def _since_shown(attempts: Sequence[Attempt]) -> Iterator[Attempt]:
    """Back to the last attempt whose outcome was shown. Attempts that were lost with their runners are no retries."""
    for attempt in reversed(attempts):
        if attempt.outcome is None:
            continue
        if attempt.retry_rule is None:
            return
        yield attempt


def last_shown(attempts: Sequence[Attempt]) -> int:
    """The number of the last attempt whose outcome was shown; 0: none was."""
    shown = (each.attempt for each in reversed(attempts) if each.outcome is not None and each.retry_rule is None)
    return next(shown, 0)


def last_retried(attempts: Sequence[Attempt]) -> Attempt | None:
    """The attempt because of which a job is run again, where it was a failure handler that wanted it."""
    return next(_since_shown(attempts), None)


def script_before(handler: FailureHandler, attempts: Sequence[Attempt]) -> Script | None:
    """What has to run before the command of a job's next attempt."""
    failed = last_retried(attempts)
    if failed is None or failed.retry_rule is None or not 1 <= failed.retry_rule <= len(handler.rules):
        return None
    text = handler.rules[failed.retry_rule - 1].recovery_script
    if not text or not text.strip():
        return None
    return Script(failed.retry_rule, text, failed.attempt, failed.return_code or 0)
