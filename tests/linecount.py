"""What a call costs, in lines that are executed: no busy machine changes that."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any


def lines(work: Callable[[], object], *modules: ModuleType) -> int:
    """How many lines of these modules a call executes."""
    files = {module.__file__ for module in modules}
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in files:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count
