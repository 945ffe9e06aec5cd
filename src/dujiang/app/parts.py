"""Parts: small pieces of which a running copy is put together."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from dujiang.backends.table import adapter, load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dujiang.settings import Settings

POOLS = ("pool_size", "reader_pool_size")


def made(port: str, url: str, *parts: Any) -> Any:
    """The adapter of a port that serves `url`, made of it and of what such adapters take. Raises as `load` does."""
    return load(port, url)(url, *parts)


@cache
def product() -> str:
    """The version of Dujiang that runs."""
    return version("dujiang")


def sized(settings: Settings) -> str:
    """The URL of the database with the setting `pool_size`, unless the URL says it or its adapter has no pools."""
    url = settings.database
    row = adapter("database", url.partition(":")[0])
    said = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))
    wanted = [name for name in POOLS if row is not None and name in row.options and name not in said]
    query = "&".join(f"{name}={settings.pool_size}" for name in wanted)
    return f"{url}{'&' if '?' in url else '?'}{query}" if query else url


class Step:
    """A service made of one or two functions."""

    def __init__(self, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]] | None = None) -> None:
        self._start = start
        self._stop = stop

    async def start(self) -> None:
        """Run the first function."""
        await self._start()

    async def stop(self) -> None:
        """Run the second one, if there is one."""
        if self._stop is not None:
            await self._stop()
