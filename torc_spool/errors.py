"""Every error that a user can meet: one root, the facts as fields, one sentence, one exit code each."""

from __future__ import annotations

import os

EXIT_OK = 0
EXIT_JOBS_FAILED = 1
EXIT_USAGE = 2
EXIT_JOBS_LEFT = 3
EXIT_STOPPED = 4


class TorcSpoolError(Exception):
    """The root. ``exit_code`` is what a command that ends with this error returns."""

    exit_code = EXIT_USAGE


class SpecError(TorcSpoolError):
    """A workflow specification that cannot be accepted: where (file, job, field), what, and what to do."""

    def __init__(self, message: str, *, source: str | None = None, where: str | None = None) -> None:
        self.message, self.source, self.where = message, source, where
        super().__init__(": ".join(part for part in (source, where, message) if part))


class UsageError(TorcSpoolError):
    """A request that makes no sense as it stands."""


class NotFound(TorcSpoolError):
    """A spool, a workflow, a job or a runner that is not there."""


class BadName(TorcSpoolError):
    """A name that is not one of ours, or that may not become one."""


class UntrustedSpool(TorcSpoolError):
    """Somebody else could have written here, and the owner has not said that this is meant."""

    def __init__(self, path: str, why: str, hint: str) -> None:
        self.path, self.why, self.hint = path, why, hint
        super().__init__(f"{path}: {why}; {hint}")


class DamagedFile(TorcSpoolError):
    """A file of the spool that cannot be understood. It is set aside, never deleted."""

    def __init__(self, path: str, why: str) -> None:
        self.path, self.why = path, why
        super().__init__(f"{path}: {why}")


class FromTheFuture(DamagedFile):
    """A file of a version that this program does not know: it is whole, and nobody guesses at it."""


class Fenced(TorcSpoolError):
    """This process's directories were taken away: others hold its work now, it may record nothing more."""

    exit_code = EXIT_STOPPED

    def __init__(self, runner: str, path: str) -> None:
        self.runner, self.path = runner, path
        super().__init__(
            f"runner {runner}: its directory {path} is gone, so its jobs were given to others; "
            "it stops and records nothing more"
        )


class RunnerLost(TorcSpoolError):
    """A runner in a process of its own ended without saying how. The next one takes its work back."""

    exit_code = EXIT_STOPPED

    def __init__(self, pid: int, return_code: int, last_words: str) -> None:
        self.pid, self.return_code, self.last_words = pid, return_code, last_words
        how = f"was killed by signal {-return_code}" if return_code < 0 else f"ended with code {return_code}"
        said = f"; it said last: {last_words}" if last_words else ""
        super().__init__(
            f"the runner with pid {pid} {how} and reported no result{said}; run again to take its work back"
        )


class StorageError(TorcSpoolError):
    """The filesystem refused a call: full, read-only, over quota, not permitted, or an I/O error."""

    exit_code = EXIT_USAGE

    def __init__(self, operation: str, path: str, errno: int | None) -> None:
        self.operation, self.path, self.errno = operation, path, errno
        text = os.strerror(errno) if errno is not None else "unknown error"
        super().__init__(f"cannot {operation} {path}: {text}")


class SlurmError(TorcSpoolError):
    """Slurm refused, or did not answer: what was called, what it said, and what to do."""

    def __init__(self, command: str, said: str, hint: str | None = None) -> None:
        self.command, self.said, self.hint = command, said, hint
        super().__init__("; ".join(part for part in (f"{command}: {said}", hint) if part))
