"""The second level of the port `cache`: bytes under a key, for all processes, and a lease so that one of them loads.

An adapter is a place that may be away, full, slow or emptied at any moment, and nothing depends on it: what it gives is
checked (wire.py) and judged by the process that asks (floors.py), and its lease only saves work.

For the next adapter: keep each numbered promise, then run testing/conformance/shared_cache.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dujiang.caching.cache import CacheCapabilities

# What is longer is neither kept nor given.
VALUE_BYTES_MAX = 2**20
LEASE_MS = 5_000


@dataclass
class Condition:
    """How a shared cache is, and what was counted of it.

    Attributes:
        up: Whether it is asked at all.
        why: What went wrong last; empty = nothing yet.
        silent: Calls without an answer in time, or whose connection broke.
        refused: Calls that were answered by an error: full, read only, not allowed.
        skipped: Calls that were not made because it is away.
    """

    up: bool = False
    why: str = ""
    silent: int = 0
    refused: int = 0
    skipped: int = 0


class SharedCache(Protocol):
    """What every adapter promises; testing/conformance/shared_cache.py holds each one to it.

    1. `get` gives the bytes that were put last under the key, whole, or None.
    2. What is put is gone after its time; what is longer than VALUE_BYTES_MAX is not kept, nor is what was there before.
    3. Of all who `claim` a key one gets it, until it is released with its own token or its time is over.
    4. Nothing raises. A call ends within the time that the adapter was given, whatever becomes of the server; where it is
       away, `get` gives None and `claim` None, and it is asked again by itself.
    5. What lies under other prefixes is neither seen nor touched.
    6. A caller that is cancelled harms no other caller.
    """

    capabilities: CacheCapabilities
    condition: Condition
    # Of the first level in front of it.
    first_url: str

    async def start(self) -> None:
        """Begin; a server that is away is no error."""
        ...

    async def stop(self) -> None:
        """End. What lies there stays."""
        ...

    async def get(self, key: bytes) -> bytes | None:
        """The bytes under a key; None = there are none, or they cannot be had."""
        ...

    async def put(self, key: bytes, value: bytes, ttl_ms: int) -> None:
        """Keep bytes under a key for so long, in the place of those before."""
        ...

    async def claim(self, key: bytes, token: bytes) -> bool | None:
        """Whether the caller is the one who should load; None = nobody can say."""
        ...

    async def release(self, key: bytes, token: bytes) -> None:
        """End a claim, if it is still that of this token."""
        ...

    async def look(self) -> Mapping[str, str]:
        """What the server says of itself, for `dujiang doctor`. Raises CacheAway."""
        ...

    async def prove(self) -> str | None:
        """Return if it answers now. Raises CacheAway."""
        ...
