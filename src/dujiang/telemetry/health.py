"""Health: whether this copy lives, and whether it should get traffic."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dujiang.kernel.node import Node

CHECK_S = 1.0


class Health:
    """The checks of one running copy.

    Args:
        node: The running copy.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._status = "starting"
        self._checks: dict[str, Callable[[], Awaitable[None]]] = {}

    def add(self, name: str, check: Callable[[], Awaitable[None]]) -> None:
        """Add a check: it returns when all is well and raises when not."""
        self._checks[name] = check

    def ready_now(self) -> None:
        """From now on this copy wants traffic."""
        self._status = "ready"

    def stopping_now(self) -> None:
        """From now on this copy wants no traffic."""
        self._status = "stopping"

    def live(self) -> tuple[bool, dict[str, Any]]:
        """Alive as long as it can answer at all."""
        return True, {"status": "live", "checks": {}}

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        """Ready when started, not stopping, and every check passes within a second."""
        checks: dict[str, str] = {}
        for name, check in self._checks.items():
            try:
                async with asyncio.timeout(CHECK_S):
                    await check()
            except TimeoutError:
                checks[name] = "no answer within 1 s"
            except DujiangError as error:
                checks[name] = error.code
            else:
                checks[name] = "ok"
        ok = self._status == "ready" and all(state == "ok" for state in checks.values())
        return ok, {"status": self._status if self._status != "ready" or ok else "degraded", "checks": checks}
