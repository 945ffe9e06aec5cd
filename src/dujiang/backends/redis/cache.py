"""Redis as the second level of the port `cache`: bytes for all processes, and a lease.

How each promise of caching/shared.py is kept:
  1. whole        one SET, one GETRANGE that reads at most what may be kept
  2. time         SET ... PX; a value that is too long deletes the key instead
  3. claim        SET lease NX PX with the caller's token; it is released by a script that compares the token
  4. never raises each command has `timeout` seconds in all, 50 ms unless the URL says otherwise. The first that gets no
                  answer in time opens the breaker: nobody waits for this server again before it has answered a PING, which
                  is asked in the background. A refusal (full, read only, not allowed) is counted, and costs a load
  5. prefix       every key begins with it
  6. cancel       link.py: a caller's reply is read whether the caller is there or not

A flush, an eviction, a restart without data, a fail-over to a replica that lags: an answer that is there says itself from
when it is and is judged (caching/floors.py), and one that is not there is loaded.

Not promised: secrecy from whoever can read this Redis, truth from whoever can write to it. Give it a password and a network
of its own. Cluster and Sentinel are not spoken to; a proxy or a service name that follows the primary is enough here.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hiredis import ReplyError

from dujiang.backends.redis.link import Link, LinkLost, connected
from dujiang.backends.redis.options import options_of
from dujiang.caching.cache import CacheCapabilities
from dujiang.caching.shared import LEASE_MS, VALUE_BYTES_MAX, Condition
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.tasks import ended

if TYPE_CHECKING:
    from dujiang.backends.redis.link import Word
    from dujiang.kernel.node import Node

logger = logging.getLogger("dujiang.redis")

RELEASE = b"if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
PROBE_S = 1.0
PAUSE_S, PAUSE_S_MAX = 0.1, 5.0


@dataclass(eq=False, kw_only=True)
class CacheAway(DujiangError):
    """The shared cache does not answer; answers are loaded from the database."""

    code = "cache_away"
    move = "wait"
    says = "no answer from {url}: {why}"
    cure = "check that Redis runs, that the setting `cache` names it, and that its password is right"

    url: str
    why: str


class RedisCache:
    """The shared cache in Redis.

    Args:
        url: `redis://user:password@host:6379/0`, or `rediss:`; see `options_of`.
        node: The running copy.

    Raises:
        RedisOption: When an option of the URL means nothing.
    """

    capabilities = CacheCapabilities(shared=True)

    def __init__(self, url: str, node: Node) -> None:
        self._options = options_of(url)
        self._node = node
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._trouble = asyncio.Event()
        self.condition = Condition(why="it was not asked yet")
        self.first_url = f"memory:?max_mib={self._options.first_mib}"

    def __repr__(self) -> str:
        return f"<RedisCache {self._options.shown}, {'up' if self.condition.up else self.condition.why}>"

    async def start(self) -> None:
        """Connect, once and then for ever in the background; a server that is away is no error."""
        await self._connect()
        self._task = self._node.tasks.spawn(self._watch(), name="redis")

    async def stop(self) -> None:
        """Close."""
        if self._task is not None:
            self._task.cancel()
            await ended(self._task)
        self._drop("it was stopped")

    # What the port promises -------------------------------------------------------------------------------------------

    async def get(self, key: bytes) -> bytes | None:
        """The bytes under a key; None = there are none, or they cannot be had."""
        found = await self._ask("GETRANGE", self._key(key), 0, VALUE_BYTES_MAX)
        return found if isinstance(found, bytes) and 0 < len(found) <= VALUE_BYTES_MAX else None

    async def put(self, key: bytes, value: bytes, ttl_ms: int) -> None:
        """Keep bytes under a key for so long, in the place of those before."""
        if len(value) > VALUE_BYTES_MAX or ttl_ms <= 0:
            await self._ask("DEL", self._key(key))
        else:
            await self._ask("SET", self._key(key), value, "PX", ttl_ms)

    async def claim(self, key: bytes, token: bytes) -> bool | None:
        """Whether the caller is the one who should load; None = nobody can say."""
        said = await self._ask("SET", self._lease(key), token, "NX", "PX", LEASE_MS, otherwise=False)
        return None if said is False else said is not None

    async def release(self, key: bytes, token: bytes) -> None:
        """End a claim, if it is still that of this token."""
        await self._ask("EVAL", RELEASE, 1, self._lease(key), token)

    async def look(self) -> dict[str, str]:
        """What the server says of itself. Raises CacheAway."""
        link = await self._made()
        try:
            with self._node.limits.within(PROBE_S):
                told = {**lines(await link.ask("INFO", "server")), **lines(await link.ask("INFO", "memory"))}
                told |= lines(await link.ask("INFO", "persistence"))
                told["keys"] = str(await link.ask("DBSIZE"))
        except (LinkLost, ReplyError, TimeoutError) as error:
            raise CacheAway(url=self._options.shown, why=str(error) or "it is silent") from None
        finally:
            link.close("it was looked at")
        names = (
            "redis_version",
            "maxmemory",
            "maxmemory_policy",
            "used_memory",
            "keys",
            "aof_enabled",
            "rdb_changes_since_last_save",
        )
        return {name: told[name] for name in names if name in told}

    async def prove(self) -> str | None:
        """Return if it answers now. Raises CacheAway."""
        if not self.condition.up:
            raise CacheAway(url=self._options.shown, why=self.condition.why)
        return None

    # The connection ---------------------------------------------------------------------------------------------------

    def _key(self, key: bytes) -> bytes:
        return b"%s:c:%s" % (self._options.prefix.encode(), key)

    def _lease(self, key: bytes) -> bytes:
        return b"%s:l:%s" % (self._options.prefix.encode(), key)

    async def _ask(self, *words: Word, otherwise: Any = None) -> Any:
        """The reply to a command; `otherwise` if there is none in time, or a refusal."""
        link, condition = self._link, self.condition
        if link is None or not condition.up:
            condition.skipped += 1
            return otherwise
        try:
            with self._node.limits.within(self._options.timeout_s):
                return await link.ask(*words)
        except TimeoutError:
            condition.silent += 1
            self._doubt(link, f"no answer within {self._options.timeout_s * 1000:.0f} ms")
        except LinkLost as error:
            condition.silent += 1
            self._doubt(link, str(error))
        except ReplyError as error:
            condition.refused += 1
            condition.why = str(error)
        return otherwise

    def _doubt(self, link: Link, why: str) -> None:
        """Open the breaker; `_watch` closes it when the server has answered."""
        if self._link is link and self.condition.up:
            self.condition.up, self.condition.why = False, why
            self._trouble.set()
            logger.warning("%s is not asked until it answers again: %s", self._options.shown, why)

    def _drop(self, why: str) -> None:
        self.condition.up, self.condition.why = False, why
        link, self._link = self._link, None
        if link is not None:
            link.close(why)

    async def _made(self) -> Link:
        """A connection on which we are known. Raises CacheAway."""
        options, link = self._options, None
        try:
            with self._node.limits.within(options.connect_timeout_s):
                link = await connected(options.host, options.port, options.tls, self._trouble.set)
                if options.password:
                    await link.ask("AUTH", *([options.user] if options.user else []), options.password)
                if options.number:
                    await link.ask("SELECT", options.number)
                await link.ask("PING")
        except (LinkLost, ReplyError, OSError, TimeoutError) as error:
            if link is not None:
                link.close("it does not take us")
            raise CacheAway(url=options.shown, why=str(error) or "it is silent") from None
        return link

    async def _connect(self) -> bool:
        try:
            link = await self._made()
        except CacheAway as error:
            if self.condition.why != error.why:
                logger.warning("answers are not shared: %s", error)
            self.condition.why = error.why
            return False
        if self.condition.silent or self.condition.why:
            logger.info("%s answers", self._options.shown)
        self._link, self.condition.up, self.condition.why = link, True, ""
        return True

    async def _watch(self) -> None:
        """Look after the connection: ask whether it is alive while it is in doubt, make a new one when it is gone."""
        clock, pause_s = self._node.clock, PAUSE_S
        while True:
            if self.condition.up and self._link is not None and self._link.open:
                pause_s = PAUSE_S
                await self._trouble.wait()
            self._trouble.clear()
            if await self._answers() or await self._connect():
                continue
            await clock.sleep(pause_s * self._node.entropy.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, PAUSE_S_MAX)

    async def _answers(self) -> bool:
        """Whether the connection that was in doubt is alive; else it is dropped."""
        link = self._link
        if link is None or not link.open:
            self._drop(self.condition.why or "the connection is gone")
            return False
        try:
            with self._node.limits.within(PROBE_S):
                await link.ask("PING")
        except (LinkLost, ReplyError, TimeoutError) as error:
            self._drop(str(error) or self.condition.why)
            return False
        self.condition.up, self.condition.why = True, ""
        logger.info("%s answers again", self._options.shown)
        return True


def lines(reply: Any) -> dict[str, str]:
    """The fields of an INFO."""
    pairs = (line.partition(":") for line in reply.decode(errors="replace").splitlines() if ":" in line)
    return {name: value.strip() for name, _, value in pairs}
