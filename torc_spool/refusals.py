"""What the filesystem refuses is said, but not over and over."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

AGAIN_S = 60.0


class Refusals:
    """Sentences about what is tried again."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told: dict[str, float] = {}

    def tell(self, text: str) -> None:
        """Say what is wrong, unless that was said a moment ago."""
        now = time.monotonic()
        if now >= self._told.get(text, -math.inf) + AGAIN_S:
            self._told[text] = now
            self._tell(f"{text}; trying again")
