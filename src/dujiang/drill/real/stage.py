"""Stage: everything that a real drill runs on: servers, processes, and a proxy between each two of them.

Each process has links of its own, so a fault can meet one process while the others work on. The stage owns what it has
started: at its end every process is dead and every folder gone.

Failover loses nothing here, for it is done as an operator does it who may lose nothing: the replica is made synchronous,
and once it has everything the primary is killed and the replica promoted. From then on the drill goes on with the new
primary and a new replica of it, and the links lead there, as an address does that moves with the primary.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dujiang.drill.network import NoAnswer
from dujiang.drill.real.http import Http
from dujiang.drill.real.process import Process
from dujiang.kernel.clock import SystemClock
from dujiang.kernel.tasks import Tasks, Threads
from dujiang.testing.processes import ServerFailed, free_port
from dujiang.testing.proxy import Proxy
from dujiang.testing.rabbit import RabbitServer
from dujiang.testing.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import TypeVar

    T = TypeVar("T")

DATABASE = "drilled"
READY_S_MAX = 60.0
CONNECTIONS = 150
FREE_PORTS_AFTER = 40
SUPERVISE_EVERY_S = 0.1
STANDBY = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"


class Stage:
    """The stage; a context manager that starts and ends everything.

    Args:
        app: The application, as module:attribute.
        roles: The roles of each process, by its name.
        logs: Where the processes' logs are left.
        broker: Whether events travel through RabbitMQ, or through the database.
        here: The folder from which the application is loaded.
        said: Told what is being done.

    Attributes:
        processes: By name.
        links: The proxies before the servers, by process and by server (`database`, `broker`).
        primary: The PostgreSQL that takes writes.
        standby: Its streaming replica.
        rabbit: RabbitMQ, or None.

    Raises:
        BinaryMissing: A server is not installed; says which package has it.
        ServerFailed: Something did not start; the end of its log is in the message.
    """

    def __init__(
        self, app: str, roles: Mapping[str, str], *, broker: bool, here: Path, logs: Path, said: Callable[[str], None]
    ) -> None:
        self.app = app
        self.clock = SystemClock()
        self.tasks = Tasks("stage")
        self.threads = Threads(4, name="stage")
        self.folder = Path(tempfile.mkdtemp(prefix="dujiang-stage-"))
        self.processes: dict[str, Process] = {}
        self.links: dict[str, dict[str, Proxy]] = {}
        self.primary = PostgresServer(fsync=True, max_connections=CONNECTIONS)
        self.standby: PostgresServer | None = None
        self.rabbit = RabbitServer() if broker else None
        self.failovers = 0
        self._roles = roles
        self._here = here
        self._logs = logs
        self._said = said
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._set()
        except BaseException:
            await self._strike()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._strike()

    @property
    def direct_url(self) -> str:
        """The primary's URL without a proxy, for who judges."""
        return self.primary.url(DATABASE)

    async def aside(self, call: Callable[..., T], *args: Any) -> T:
        """Run something that blocks beside the loop."""
        return await self.threads.run(call, *args)

    # Begin and end ----------------------------------------------------------------------------------------------------

    async def _set(self) -> None:
        self._said("starting PostgreSQL" + (", its replica and RabbitMQ" if self.rabbit else " and its replica"))
        await self.aside(self.primary.start)
        await self.aside(self.primary.create_database, DATABASE)
        await self.aside(self._follow)
        if self.rabbit is not None:  # Not at the same time: both look for free ports.
            await self.aside(self.rabbit.start)
        self._logs.mkdir(parents=True, exist_ok=True)
        for place, name in enumerate(self._roles):
            await self._connect(name)
            self.processes[name] = self._process(name, free_port(skip=FREE_PORTS_AFTER + place))
        await self._migrate()
        self._said(f"starting {', '.join(self._roles)}")
        self.tasks.spawn(self.supervise(), name="supervisor")
        for process in self.processes.values():
            process.start()
            await self.wait_ready(process)  # The first one fills the store; the others find it filled.

    def _follow(self) -> None:
        self.standby = self.primary.replica()

    async def _connect(self, name: str) -> None:
        links = {"database": Proxy("127.0.0.1", self.primary.port)}
        if self.rabbit is not None:
            links["broker"] = Proxy("127.0.0.1", self.rabbit.port)
        self.links[name] = {kind: await self._stack.enter_async_context(proxy) for kind, proxy in links.items()}

    def _process(self, name: str, port: int) -> Process:
        links, folder = self.links[name], self.folder / name
        user = self.primary.url().partition("//")[2].partition("@")[0]
        settings = {
            "database": f"postgresql://{user}@127.0.0.1:{links['database'].port}/{DATABASE}",
            "data": str(folder),
            "instance": name,
            "log_format": "text",
            "log_level": "warning",
        }
        if self.rabbit is not None:
            settings["broker"] = self.rabbit.url("drilled", port=links["broker"].port)
        words = ("run", self._roles[name], self.app, "--port", str(port))
        log = self._logs / f"{name}.log"
        return Process(
            name,
            answers="gateway" in self._roles[name],
            words=words,
            port=port,
            settings=settings,
            folder=folder,
            here=self._here,
            log=log,
        )

    async def _migrate(self) -> None:
        settings = {"database": self.direct_url, "data": str(self.folder / "migrate")}
        folder = self.folder / "migrate"
        done = Process(
            "migrate",
            answers=False,
            words=("migrate", self.app),
            port=0,
            settings=settings,
            folder=folder,
            here=self._here,
            log=self._logs / "migrate.log",
        )
        done.start()
        until_s = self.clock.monotonic() + READY_S_MAX
        while done.running and self.clock.monotonic() < until_s:
            await self.clock.sleep(0.05)
        if done.running or done.code:
            done.kill()
            raise ServerFailed(what=f"the migrations of {self.app} failed", log=done.last_words)

    async def _strike(self) -> None:
        await self.tasks.close()
        for process in self.processes.values():
            process.kill()
        await self._stack.aclose()
        for server in (self.standby, self.primary, self.rabbit):
            if server is not None:
                await self.aside(server.close)
        self.threads.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # What faults do ---------------------------------------------------------------------------------------------------

    async def supervise(self) -> None:
        """Start again what has ended by itself, and ask who has not answered yet, for ever; as an orchestrator does."""
        while True:
            for process in self.processes.values():
                if process.wanted and not process.running:
                    process.ended.append(process.code)
                    process.start()
                elif process.wanted and not process.ready and not process.frozen:
                    process.ready = await ready(process.port)
            await self.clock.sleep(SUPERVISE_EVERY_S)

    async def wait_ready(self, process: Process) -> None:
        """Return once it answers. Raises ServerFailed when it does not in time."""
        until_s = self.clock.monotonic() + READY_S_MAX
        while not process.ready:
            if self.clock.monotonic() > until_s:
                raise ServerFailed(what=f"{process.name} did not become ready", log=process.last_words)
            await self.clock.sleep(0.02)

    async def fail_over(self) -> None:
        """Kill the primary once its replica has everything, promote the replica, and give it a replica of its own."""
        assert self.standby is not None
        await self.aside(self._follow_closely)
        await self.aside(self.primary.kill)
        await self.aside(self.standby.promote)
        await self.aside(self.standby.execute, "ALTER SYSTEM RESET synchronous_standby_names")
        await self.aside(self.standby.execute, "SELECT pg_reload_conf()")
        gone, self.primary = self.primary, self.standby
        await self.aside(gone.close)
        await self.aside(self._follow)
        self.failovers += 1
        for links in self.links.values():
            links["database"].target = ("127.0.0.1", self.primary.port)

    def _follow_closely(self) -> None:
        """Let no commit be acknowledged any more that the replica does not have, and wait until it has all others."""
        assert self.standby is not None
        name = self.standby.settings["cluster_name"]
        self.primary.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        self.primary.execute("SELECT pg_reload_conf()")
        until_s = self.clock.monotonic() + READY_S_MAX
        while self.primary.execute(STANDBY) != "1":
            if self.clock.monotonic() > until_s:
                raise ServerFailed(what="the replica did not become synchronous", log=self.standby.log())
        self.standby.wait_replayed()


async def ready(port: int) -> bool:
    """Whether the process on a port says that it takes requests."""
    async with Http(port, within_s=2.0) as http:
        try:
            return (await http.send("GET", "/health/ready")).status == 200
        except NoAnswer:
            return False
