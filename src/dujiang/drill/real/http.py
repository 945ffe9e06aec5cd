"""Http: a client of one process that says, when there is no answer, no more than that there was none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import httpx

from dujiang.drill.network import NoAnswer
from dujiang.testing.harness import Response

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

CONNECTIONS = 200


class Http:
    """Calls one process over kept connections.

    Args:
        port: Where it listens on the loopback.
        within_s: Seconds for an answer, connecting included.
    """

    def __init__(self, port: int, *, within_s: float) -> None:
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        self._client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=within_s, limits=limits, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send one request. Raises NoAnswer: it may have been executed, or not."""
        try:
            answer = await self._client.request(method, path, content=body, headers=headers)
        except httpx.TransportError as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        return Response(answer.status_code, dict(answer.headers), answer.content)
