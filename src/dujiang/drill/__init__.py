"""Drill: the user's own handlers in a deterministic simulation of a cluster, killed at every await point.

`from dujiang.drill import drill` is the function; nothing is loaded before it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dujiang.drill.calling import drill
    from dujiang.drill.drilling import Report

__all__ = ["Report", "drill"]


def __getattr__(name: str) -> Any:
    if name == "drill":
        from dujiang.drill.calling import drill  # noqa: PLC0415  (see above)

        return drill
    if name == "Report":
        from dujiang.drill.drilling import Report  # noqa: PLC0415  (see above)

        return Report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
