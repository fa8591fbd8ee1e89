"""The entry points of the console scripts. They import nothing before Ctrl-C is seen to."""

from __future__ import annotations


def main() -> int:
    """`torc-spool`."""
    return _call("main")


def job_runner() -> int:
    """`torc-spool-job-runner` and `torc-spool-slurm-job-runner`."""
    return _call("job_runner")


def _call(name: str) -> int:
    try:
        from . import main as program

        getattr(program, name)()
    except KeyboardInterrupt:  # while modules are loaded; later ones are seen to where they come
        return 4  # as errors.EXIT_STOPPED
    return 0
