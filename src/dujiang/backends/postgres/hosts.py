"""Hosts: which of the servers behind one URL is the primary; found anew whenever a connection is made.

    postgresql://a:5432,b:5432/shop      a  primary, timeline 1   ──killed──►  ...   back, timeline 1: refused
                                         b  standby               ──promoted──►  primary, timeline 2: taken

A server is asked what it is by the very connection that would be used: in recovery it is a standby, and one whose
operator set `default_transaction_read_only` is fenced; neither is written to. The host that was right last time is asked
first and alone, with half of the time, so that the usual connection costs what it costs with one host. Only if that
fails, or nothing is known yet, all are asked at once: one that is silent then delays nobody.

A primary that was cut off, replaced and came back does not know it: it takes writes that nobody will ever see. Its
timeline knows: each promotion begins a higher one. Of several primaries the highest timeline is taken, and below the
highest that was ever seen by this process none is. What this cannot see is a replaced primary that is the only one
reachable when a process starts; whoever fails over must fence, this is the second lock and not the first.

`epoch` counts how often another server answered, or the same one after a restart. A standby may lack the last commits of
its primary, so whoever remembers what was committed must look again when it changes (messaging/relay.py).
tests/conformance/test_failover.py kills a primary, promotes a standby, and brings the old one back.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dujiang.data.database import DatabaseRefused, DatabaseUnreachable
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.tasks import outcomes_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dujiang.backends.postgres.link import Link
    from dujiang.backends.postgres.options import Host

logger = logging.getLogger("dujiang.postgres")


class Hosts:
    """The servers behind one URL, and which of them was the primary last.

    Args:
        url: The database, for errors.
        hosts: In the order of the URL.

    Attributes:
        epoch: Changes whenever another server, or the same one after a restart, has taken a connection.
    """

    def __init__(self, url: str, hosts: tuple[Host, ...]) -> None:
        self.epoch = 0
        self._url = url
        self._hosts = hosts
        self._primary: Host | None = None
        self._incarnation = ""
        self._timeline = 0

    def __repr__(self) -> str:
        return (
            f"<Hosts {', '.join(host.shown for host in self._hosts)}; last {self._primary}, timeline {self._timeline}>"
        )

    async def connect(self, make: Callable[[Host, float], Awaitable[Link]], limit_s: float) -> Link:
        """A connection to the primary.

        Args:
            make: Connects to one host within so many seconds.
            limit_s: Seconds in all.

        Raises:
            DatabaseUnreachable: No host is a primary that takes writes; says of each why.
            DatabaseRefused: All that answered refuse us.
        """
        if len(self._hosts) == 1:
            return self._taken(self._hosts[0], await self._fit(self._hosts[0], make, limit_s))
        if self._primary is not None:
            try:
                return self._taken(self._primary, await self._fit(self._primary, make, limit_s / 2))
            except DujiangError:
                limit_s /= 2
        outcomes = await outcomes_of(*(self._fit(host, make, limit_s) for host in self._hosts))
        links = [
            (host, link)
            for host, link in zip(self._hosts, outcomes, strict=True)
            if not isinstance(link, BaseException)
        ]
        if not links:
            raise self._nobody(outcomes)
        best, chosen = max(links, key=lambda pair: pair[1].timeline)
        for _, link in links:
            if link is not chosen:
                await link.close()
        return self._taken(best, chosen)

    async def look(self, make: Callable[[Host, float], Awaitable[Link]], limit_s: float) -> list[dict[str, str]]:
        """What each host is: its name, its state, and why if it cannot be used."""
        outcomes = await outcomes_of(*(self._fit(host, make, limit_s) for host in self._hosts))
        rows = []
        for host, found in zip(self._hosts, outcomes, strict=True):
            if isinstance(found, BaseException):
                rows.append({"host": host.shown, "state": getattr(found, "why", str(found))})
            else:
                rows.append({"host": host.shown, "state": f"primary, timeline {found.timeline}"})
                await found.close()
        return rows

    async def _fit(self, host: Host, make: Callable[[Host, float], Awaitable[Link]], limit_s: float) -> Link:
        """A connection to one host, if it is a primary that takes writes."""
        link = await make(host, limit_s)
        why = ""
        if link.standby:
            why = "it is a standby, which takes no writes"
        elif link.fenced:
            why = "it is set to read only (default_transaction_read_only)"
        elif link.timeline < self._timeline:
            why = f"it is an old primary: its timeline is {link.timeline}, and {self._timeline} was seen"
        if why:
            await link.close()
            raise DatabaseUnreachable(url=self._url, why=why)
        return link

    def _taken(self, host: Host, link: Link) -> Link:
        if self._primary is not None and host is not self._primary:
            logger.warning("the primary is now %s, timeline %d", host.shown, link.timeline)
        self._primary, self._timeline = host, max(self._timeline, link.timeline)
        if link.incarnation != self._incarnation:
            self._incarnation = link.incarnation
            self.epoch += 1
        return link

    def _nobody(self, outcomes: list[Link | BaseException]) -> BaseException:
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        odd = [error for error in errors if not isinstance(error, DatabaseRefused | DatabaseUnreachable)]
        if odd:
            return odd[0]
        if all(isinstance(error, DatabaseRefused) for error in errors):
            return errors[0]
        told = [
            f"{host.shown}: {getattr(error, 'why', error)}" for host, error in zip(self._hosts, errors, strict=True)
        ]
        return DatabaseUnreachable(url=self._url, why=f"no host is a primary that takes writes; {'; '.join(told)}")
