"""Our side of `http`: how to start it. The application is parrot.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.environments import home
from bench.ours.command import up

if TYPE_CHECKING:
    from bench.processes import Command


def serve(port: int) -> Command:
    """One server process on an embedded store that the echo does not touch."""
    folder = home() / "data" / "echo"
    folder.mkdir(parents=True, exist_ok=True)
    return up("bench.ours.parrot:app", port, str(folder / "echo.db"))
