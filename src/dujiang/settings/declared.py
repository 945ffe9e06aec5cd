"""Declared: the one list of settings; docs/reference/settings.md is generated from it.

A setting stands here only if a user can have an opinion on it. Each row says, in this order: what it means, its special
values, what follows from changing it. The attribute that holds a value ends with its unit (`grace` -> `grace_s`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.settings.kinds import Choice, Flag, Folder, Host, Hosts, Kind, Name, Size, Span, Url, Whole

if TYPE_CHECKING:
    from collections.abc import Sequence

DAY_S = 86400.0

# Read by other parts of the program, not by people who run it; so they are no settings, and no unknown names either.
OPERATIONAL = {
    "DUJIANG_CRASH_AT": "ends the process at the n-th passing of a named crash point (`name:n`); for tests",
    "DUJIANG_REQUIRE_SERVICES": "makes a test fail instead of being skipped when its server is missing; for CI",
}


@dataclass(frozen=True, kw_only=True)
class Declared:
    """One setting.

    Attributes:
        name: The key in dujiang.toml; `DUJIANG_<NAME>` in the environment.
        kind: How it is written.
        default: As it would stand in dujiang.toml; None = it follows from other settings, as `special` says.
        means: What it is.
        special: Special values; empty = none.
        follows: What changes with it.
    """

    name: str
    kind: Kind
    default: Any
    means: str
    special: str = ""
    follows: str

    @property
    def attribute(self) -> str:
        """The attribute of Settings that holds the value."""
        return f"{self.name}_{self.kind.unit}" if self.kind.unit else self.name

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"DUJIANG_{self.name.upper()}"


SETTINGS: Sequence[Declared] = (
    Declared(
        name="profile",
        kind=Choice(("demo", "production")),
        default="demo",
        means="What the installation is for.",
        follows="`demo` fills an empty store with the examples' data. `production` does not, and refuses to start on a"
        " database that acknowledges a commit before it is on disk.",
    ),
    Declared(
        name="data",
        kind=Folder(),
        default="var",
        means="The folder of everything that this process keeps: the embedded store, the operator's token.",
        follows="Must be on a local disk; on a network file system the embedded store loses its guarantees.",
    ),
    Declared(
        name="database",
        kind=Url("database"),
        default=None,
        means="Where everything durable lives.",
        special="Not given: the file `app.db` in the folder `data`, in the embedded store."
        " `postgresql://a:5432,b:5432/name` is a primary and its standbys; the one that takes writes is used.",
        follows="`sqlite:` is one process with nothing to install; `postgresql:` takes any number of processes.",
    ),
    Declared(
        name="broker",
        kind=Url("broker"),
        default="database:",
        means="What carries committed events to their reactions.",
        special="`database:` uses the database itself. `amqp://user:password@host:5672/vhost` is RabbitMQ, `amqps:` with TLS.",
        follows="Retries, delays and dead letters live in the database on every broker; a broker that is away delays"
        " events and stops no write. Let the events in flight be handled before changing it.",
    ),
    Declared(
        name="cache",
        kind=Url("cache"),
        default="memory:?max_mib=64",
        means="Where the answers of cached reads lie.",
        special="`memory:?max_mib=64` is each process's own memory, 64 MiB at most; `max_mib=0` keeps nothing."
        " `redis://user:password@host:6379/0` shares answers among processes below that, `rediss:` with TLS.",
        follows="More room means fewer loads. What is invalidated is not given, whatever lies there. A Redis that is away"
        " costs loads and fails no request.",
    ),
    Declared(
        name="host",
        kind=Host(),
        default="127.0.0.1",
        means="The address to listen on.",
        follows="Until identity exists only loopback addresses are accepted.",
    ),
    Declared(
        name="port",
        kind=Whole(1, 65535),
        default=8000,
        means="The TCP port to listen on.",
        follows="Ports below 1024 need rights that a server should not have; put a proxy before it.",
    ),
    Declared(
        name="workers",
        kind=Whole(1, 64),
        default=1,
        means="Processes that serve on the port.",
        follows="Each has its own pool of `pool_size` connections. More than one needs a database that takes many"
        " writers.",
    ),
    Declared(
        name="instance",
        kind=Name(),
        default="",
        means="The name of this copy among others on the same database.",
        special="Empty: host name and process id; then a crashed copy's work is taken over when its lease ends (20 s).",
        follows="A copy that starts under the name of a dead one takes its work over at once. Two living copies may not"
        " share a name.",
    ),
    Declared(
        name="allowed_hosts",
        kind=Hosts(),
        default=["localhost", "127.0.0.1", "[::1]"],
        means="The names under which clients may address the server.",
        special="`*` accepts every name.",
        follows="A request with another `Host` is refused with 421; that stops DNS rebinding.",
    ),
    Declared(
        name="body_limit",
        kind=Size(1024, 2**30),
        default="1MiB",
        means="The largest request body.",
        follows="A larger one is refused with 413 before it is read. Bodies are held in memory.",
    ),
    Declared(
        name="request_timeout",
        kind=Span(0.1, 3600.0),
        default="30s",
        means="The time after which nobody waits for an answer.",
        follows="Work that has not begun by then is refused with 504; a transaction that commits is never cut off.",
    ),
    Declared(
        name="pool_size",
        kind=Whole(1, 1000),
        default=10,
        means="Connections to a database server that write, and as many that read, for each process.",
        follows="workers x (2 x pool_size + 2) must stay below the server's limit. The embedded store has no use for it.",
    ),
    Declared(
        name="grace",
        kind=Span(0.1, 600.0),
        default="10s",
        means="How long a stopping process lets running requests and reactions end.",
        follows="What has not ended by then is cancelled and rolled back. The supervisor that kills must wait longer.",
    ),
    Declared(
        name="idempotency_ttl",
        kind=Span(60.0, 365 * DAY_S),
        default="24h",
        means="How long the answer under an idempotency key is kept.",
        follows="A retry that comes later runs again, so it must exceed the time for which clients retry.",
    ),
    Declared(
        name="outbox_limit",
        kind=Whole(100, 1_000_000_000),
        default=1_000_000,
        means="Events, in rows, that may wait to be published.",
        follows="Beyond it writes that publish are refused with 503 until the backlog has shrunk.",
    ),
    Declared(
        name="outbox_retention",
        kind=Span(3600.0, 365 * DAY_S),
        default="7d",
        means="How long published events are kept for replay.",
        follows="Costs disk in proportion; what is older cannot be replayed.",
    ),
    Declared(
        name="crash_limit",
        kind=Whole(1, 100),
        default=2,
        means="How many processes may die while they run a message, before it is run alone.",
        follows="Alone means: in a child process, one message at a time. If that dies too, the message becomes a dead letter"
        " with the reason `crash_loop`. Lower costs innocent messages time, higher costs processes.",
    ),
    Declared(
        name="crash_memory",
        kind=Size(16 * 2**20, 2**50),
        default="1GiB",
        means="How much memory a message that is run alone may take beyond what the loaded application has.",
        follows="One that takes more counts as one that ended its process. It must be less than the machine has to spare.",
    ),
    Declared(
        name="log_level",
        kind=Choice(("debug", "info", "warning", "error")),
        default="info",
        means="The least important kind of log line that is written.",
        follows="`debug` writes several lines for each request.",
    ),
    Declared(
        name="log_format",
        kind=Choice(("auto", "text", "json")),
        default="auto",
        means="The form of log lines, on stderr.",
        special="`auto`: text on a terminal, otherwise JSON.",
        follows="JSON holds one object for each line, with the trace id.",
    ),
    Declared(
        name="access_log",
        kind=Flag(),
        default=False,
        means="Whether each request writes a log line.",
        follows="Costs throughput; metrics count requests and their latency anyway.",
    ),
)
BY_NAME = {row.name: row for row in SETTINGS}
BY_VARIABLE = {row.variable: row for row in SETTINGS}
