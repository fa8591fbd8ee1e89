"""The part of a job's file name that orders jobs of equal priority, where a specification asks for an order.

Names are sorted as text, the smallest first, so each figure is the complement of what is wanted high.
"""

from __future__ import annotations

from collections.abc import Sequence

from torc_spool.model import Needs

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_WIDTHS = {"gpus": 4, "cpus": 8, "runtime": 8, "memory": 9}  # of the largest that a name can hold, in base 36
_ORDERS = {
    "gpus_runtime_memory": ("gpus", "runtime", "memory"),
    "gpus_memory_runtime": ("gpus", "memory", "runtime"),
    "most_cpus": ("cpus",),
}


def key(method: str | None, needs: Needs) -> str | None:
    """The key of a job for a `jobs_sort_method`; None where jobs stay in the order of their ids."""
    order: Sequence[str] = _ORDERS.get(method or "", ())
    figures = {
        "gpus": needs.num_gpus,
        "cpus": needs.num_cpus * needs.num_nodes,
        "runtime": needs.runtime_s,
        "memory": needs.memory_mib,
    }
    return "".join(_complement(figures[name], _WIDTHS[name]) for name in order) or None


def _complement(figure: int, width: int) -> str:
    left = max(0, 36**width - 1 - figure)
    digits = ""
    for _ in range(width):
        left, digit = divmod(left, 36)
        digits = _DIGITS[digit] + digits
    return digits
