"""Parts: small pieces of which a running copy is put together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from dujiang.backends.table import adapter, load
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dujiang.caching.cache import Cache
    from dujiang.caching.shared import SharedCache
    from dujiang.data.database import Database
    from dujiang.kernel.node import Node
    from dujiang.settings import Settings


@dataclass(eq=False, kw_only=True)
class CacheAlone(DujiangError):
    """A cache that processes share is set, and the database has one process."""

    code = "cache_alone"
    move = "fix"
    says = "the setting `cache` names a {cache}: that processes share, and {database} belongs to one process"
    cure = "set `cache` to memory:, or `database` to a server that several processes use"

    cache: str
    database: str


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


def levels(settings: Settings, node: Node, database: Database) -> tuple[Cache, SharedCache | None]:
    """The cache in the process, and the one that processes share, if the setting `cache` names one. Raises CacheAlone."""
    found = made("cache", settings.cache, node)
    if not found.capabilities.shared:
        return found, None
    if not database.capabilities.many_writers:
        raise CacheAlone(cache=settings.cache.partition(":")[0], database=database.url)
    return made("cache", found.first_url, node), found


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
