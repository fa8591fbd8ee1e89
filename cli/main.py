"""The entry points, and the one place where errors become text and exit codes."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from typing import Any

import click

from torc_spool.errors import EXIT_STOPPED, EXIT_USAGE, TorcSpoolError

from .common import State, clean, common_options, say

# Loaded when it is called: a command line of few imports starts in a fraction of the time.
COMMANDS = {
    "submit": ("submit", "submit"),
    "submit-slurm": ("submit_slurm", "submit_slurm"),
    "run": ("run", "run"),
    "preview": ("run", "preview"),
    "execution-plan": ("plan", "execution_plan"),
    "schema": ("schema", "schema"),
    "status": ("show", "status"),
    "workflows": ("show", "workflows"),
    "jobs": ("show", "jobs"),
    "results": ("show", "results"),
    "actions": ("actions", "actions"),
    "logs": ("logs", "logs"),
    "user-data": ("userdata", "user_data"),
    "wait": ("wait", "wait"),
    "watch": ("watch", "watch"),
    "cancel": ("change", "cancel"),
    "hold": ("change", "hold"),
    "release": ("change", "release"),
    "retry": ("change", "retry"),
    "reinitialize": ("again", "reinitialize"),
    "reset-status": ("again", "reset_status"),
    "set-priority": ("change", "set_priority"),
    "stop": ("change", "stop"),
    "recover": ("recover", "recover"),
    "sick-hosts": ("sickhosts", "sick_hosts"),
    "fsck": ("fsck", "fsck"),
    "delete": ("change", "delete"),
    "doctor": ("doctor", "doctor"),
    "slurm": ("slurm", "slurm"),
}


_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class LazyGroup(click.Group):
    """Lists all commands, imports the one that is called."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name]
        command = getattr(importlib.import_module(f".{module}", __package__), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(error.message + hint, context) from error


@click.group(cls=LazyGroup, context_settings=_SETTINGS)
@click.version_option(package_name="torc-spool")
@common_options
@click.pass_context
def cli(context: click.Context, /, **options: Any) -> None:
    """Run many commands, with unlike needs, on one machine or many: the queue is a directory.

    Exit codes: 0 all is well (for `run` and `wait`: every job completed); 1 jobs failed, were canceled or terminated;
    2 bad usage or bad input; 3 jobs are left that this runner may not or cannot run; 4 stopped with work left.
    """
    context.obj = State(**options)


def main(arguments: list[str] | None = None) -> None:
    """`torc-spool`."""
    sys.exit(_call(sys.argv[1:] if arguments is None else arguments))


def job_runner() -> None:
    """`torc-spool-job-runner ID …` and `torc-spool-slurm-job-runner ID …`: `run` under the names of Torc's runners."""
    from .run import run

    sys.exit(_call(sys.argv[1:], run, os.path.basename(sys.argv[0])))


def _open_standard_streams() -> None:
    """Whoever started us may have closed some: the next file that is opened would take their place, and our talk."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal of another script cannot show is shown as its number
        sys.stdout.reconfigure(errors="backslashreplace")


def _call(arguments: list[str], command: click.Command = cli, name: str = "torc-spool") -> int:
    _open_standard_streams()
    try:
        code = command.main(arguments, prog_name=name, standalone_mode=False, **_SETTINGS)
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        click.echo(clean(text.getvalue(), keep="\n\t"), nl=False, err=True)  # it may say again what was given
        return error.exit_code
    except click.Abort:
        return EXIT_STOPPED
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except TorcSpoolError as error:
        if os.environ.get("TORC_SPOOL_DEBUG"):
            raise
        say(f"torc-spool: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_STOPPED
    except OSError as error:
        if os.environ.get("TORC_SPOOL_DEBUG"):
            raise
        if error.filename is None and error.errno in _CANNOT_WRITE:
            say(f"torc-spool: cannot write output: {error.strerror}")
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # keep the interpreter from trying again
            return EXIT_USAGE
        say(f"torc-spool: {error.strerror}: {error.filename or 'the current directory, or an open file'}")
        return EXIT_USAGE
    return code if isinstance(code, int) else 0
