"""All that is stopped, by name."""

from __future__ import annotations

import crashactions
import crashjobs
import crashrecovery
from crashtools import SCENARIOS

FROM = (crashjobs, crashrecovery, crashactions)
"""The modules that add to them."""

__all__ = ["FROM", "SCENARIOS"]
