"""Flight: what processes and servers have in hand right now, asked of the primary itself and of the clients.

A fault counts only if its target held something: a request that a client waits for, a claimed event, an open transaction,
an event that is published and not yet arrived. The nemesis picks its moment: it looks every few milliseconds, for at most
a fifth of a second, and strikes when there is something to hit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.app.runtime import Runtime
from dujiang.data.sql import Sql
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.node import Node
from dujiang.settings import Settings
from dujiang.testing.harness import OPEN

if TYPE_CHECKING:
    from collections import Counter
    from typing import Any

    from dujiang.app.declaration import App
    from dujiang.drill.real.load import Load
    from dujiang.drill.real.stage import Stage

LOOK_EVERY_S, PATIENCE_S = 0.005, 0.2

CLAIMED = Sql(
    "real_drill_claimed",
    "SELECT p.holder, count(*) FROM dj_running r JOIN dj_process p ON p.lease = r.lease GROUP BY p.holder",
    "Counts claimed events by the process that holds them.",
)
OPEN_TRANSACTIONS = Sql(
    "real_drill_transactions",
    """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'
       AND state IN ('active', 'idle in transaction') AND pid <> pg_backend_pid()""",
    "Counts transactions that are open on this database, but for this one.",
)
Rows = "Sequence[Sequence[Any]]"


class Flight:
    """Looks at the primary without a proxy; opened anew after a failover.

    Args:
        app: Whose tables.
        stage: Where.
        load: The clients.
    """

    def __init__(self, app: App, stage: Stage, load: Load) -> None:
        self._app = app
        self._stage = stage
        self._load = load
        self._runtime: Runtime | None = None
        self._url = ""

    async def close(self) -> None:
        """End the connection."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            await runtime.database.stop()

    async def rows(self, sql: Sql, *args: Any) -> Any:
        """The rows of a statement on the primary. Raises DujiangError while it does not answer."""
        database = (await self.opened()).database
        return await database.read(lambda connection: connection.fetch(sql, *args))

    async def opened(self) -> Runtime:
        """A copy of the application that does nothing but look: its database is open, no service runs."""
        url = self._stage.direct_url
        if self._runtime is None or url != self._url:
            await self.close()
            settings = Settings(database=url, data=self._stage.folder / "judge", log_level="error", pool_size=4)
            runtime = Runtime(self._app, settings, Node.system("judge"), roles=())
            await runtime.database.start()
            self._runtime, self._url = runtime, url
        return self._runtime

    async def in_hand(self, target: str) -> int:
        """How much a target holds: a process by its name, `database`, `broker`."""
        requests: Counter[str] = self._load.open
        if requests.get(target):
            return requests[target]
        if target == "database" and (waiting := sum(requests.values())):
            return waiting
        try:
            return await self._in_tables(target)
        except DujiangError:
            return 0  # The primary does not answer: nobody knows, so it does not count.

    async def _in_tables(self, target: str) -> int:
        if target == "database":
            return int((await self.rows(OPEN_TRANSACTIONS))[0][0])
        if target == "broker":
            return sum((await self.rows(OPEN, self._stage.clock.now_us()))[0])
        return sum(count for holder, count in await self.rows(CLAIMED) if holder.startswith(f"{target}-"))

    async def moment(self, target: str) -> int:
        """Wait for something in the target's hand, not for long; how much it is."""
        clock = self._stage.clock
        until_s = clock.monotonic() + PATIENCE_S
        while not (found := await self.in_hand(target)) and clock.monotonic() < until_s:
            await clock.sleep(LOOK_EVERY_S)
        return found
