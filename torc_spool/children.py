"""What a process is to its children: who reaps them, what they inherit, and whether they outlive it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
PR_SET_PDEATHSIG = 1


def dying_with_parent() -> Callable[[], None] | None:
    """What a child calls before its program, to be killed when its parent dies; None where that is not possible."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    try:
        prctl = ctypes.CDLL(None).prctl
    except (AttributeError, OSError):
        return None
    arguments = tuple(ctypes.c_ulong(value) for value in (signal.SIGKILL, 0, 0, 0))
    option, parent = ctypes.c_int(PR_SET_PDEATHSIG), os.getpid()

    def die_with_parent() -> None:
        prctl(option, *arguments)
        if os.getppid() != parent:
            os._exit(1)  # it has died already

    return die_with_parent


def set_subreaper() -> bool:
    """Become the parent of orphaned descendants in place of init, PR_SET_CHILD_SUBREAPER(2const).

    False where that is not possible.
    """
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (AttributeError, OSError):
        return False
    arguments = (ctypes.c_ulong(value) for value in (1, 0, 0, 0))
    return bool(prctl(ctypes.c_int(PR_SET_CHILD_SUBREAPER), *arguments) == 0)


def close_on_exec_from(fd: int = 3) -> None:
    """Mark every open descriptor from ``fd`` on, so that no command that is started inherits it."""
    for number in _open_descriptors():
        if number >= fd:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself is closed by now
                os.set_inheritable(number, False)


def _open_descriptors() -> Iterable[int]:
    for directory in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return [int(name) for name in os.listdir(directory) if name.isdigit()]
    return range(os.sysconf("SC_OPEN_MAX"))
