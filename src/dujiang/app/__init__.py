"""App: the composition. `declaration` is what a user writes, `runtime` one running copy of it.

`composition` holds what follows from the declarations alone, `schema` brings the tables in order, `upkeep` cleans and
counts, `attach` lives inside an application that is already there. Names load when first used: a declaration needs no
FastAPI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dujiang.app.declaration import App

if TYPE_CHECKING:
    from dujiang.app.runtime import Runtime

__all__ = ["App", "Runtime"]


def __getattr__(name: str) -> Any:
    """Load the runtime when it is first asked for."""
    if name == "Runtime":
        from dujiang.app.runtime import Runtime  # noqa: PLC0415

        return Runtime
    raise AttributeError(f"dujiang.app has no {name!r}")
