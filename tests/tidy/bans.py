"""Bans: names that may be used in few places, each with what to use instead.

One seed replays a whole cluster only if nothing but the kernel asks the machine for time, chance or tasks. A name
is followed through `import ... as` and `from ... import`, and a mention counts like a call:
`default_factory=uuid4` is one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.tidy.source import Source

# A module whose mere import is banned -> what to use instead.
MODULES = {
    "time": "the node's clock: `clock.now_us()`, `clock.monotonic()`, `clock.sleep()`",
    "random": "the node's entropy: `entropy.random()`, `.uniform()`, `.below()`",
    "secrets": "the node's entropy: `entropy.secret()`; to compare, `hmac.compare_digest`",
    "threading": "`kernel.tasks.Threads`",
    "concurrent.futures": "`kernel.tasks.Threads`",
}

# A member of a module that is otherwise free.
MEMBERS = {
    "datetime.datetime.now": "`kernel.clock.instant(clock.now_us())`, or `tx.now`",
    "datetime.datetime.utcnow": "`kernel.clock.instant(clock.now_us())`, or `tx.now`",
    "datetime.datetime.today": "`kernel.clock.instant(clock.now_us())`, or `tx.now`",
    "datetime.date.today": "`kernel.clock.instant(clock.now_us()).date()`",
    "asyncio.sleep": "`clock.sleep`",
    "asyncio.create_task": "`tasks.spawn`",
    "asyncio.ensure_future": "`tasks.spawn`",
    "asyncio.TaskGroup": "`kernel.tasks.all_of`, or `tasks.spawn`",
    "asyncio.gather": "`kernel.tasks.all_of`, or `outcomes_of`",
    "asyncio.to_thread": "`kernel.tasks.Threads.run`",
    "asyncio.wait_for": "`async with asyncio.timeout(...)`, which starts no task",
    "uuid.uuid1": "`kernel.ids.uuid7`, or `tx.new_id()`",
    "uuid.uuid4": "`kernel.ids.uuid7`, or `tx.new_id()`",
    "uuid.uuid7": "`kernel.ids.uuid7`, or `tx.new_id()`",
    "os.urandom": "`entropy.secret`",
    "os.getrandom": "`entropy.secret`",
}

# A method, whatever object it is called on.
METHODS = {
    "create_task": "`tasks.spawn`",
    "run_in_executor": "`kernel.tasks.Threads.run`",
    "utcnow": "`kernel.clock.instant(clock.now_us())`",
}

# Packages that speak to a server or a file of another program. They end in backends/, and so do their exceptions.
DRIVERS = frozenset(
    "asyncpg psycopg psycopg2 apsw sqlite3 aiosqlite asyncmy aiomysql pymysql redis hiredis aio_pika aiormq pika "
    "aiokafka confluent_kafka pymilvus boto3 aioboto3 botocore kubernetes".split(),
)

# (module, banned name) -> why it may. Short on purpose: most wishes for a line here are wishes for a parameter.
ALLOWED: dict[tuple[str, str], str] = {
    ("dujiang.testing.servers", "time"): "Waits for a real server of another program, before any runtime exists.",
    ("dujiang.testing.rabbit", "time"): "Waits for a real server of another program, before any runtime exists.",
    ("dujiang.testing.redis", "time"): "Waits for a real server of another program, before any runtime exists.",
    ("dujiang.drill.escape", "time"): "Puts a machine's virtual clock in the place of the module's functions.",
    ("dujiang.drill.escape", "random"): "Puts the run's chance in the place of the module's.",
    ("dujiang.drill.escape", "os.urandom"): "As above.",
    ("dujiang.drill.escape", "datetime.datetime.now"): "As above, for code that runs on no machine.",
}

SQL = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|VALUES|DEFAULT|WHERE|CREATE TABLE)\b")
SQL_CALLS = re.compile(
    r"""\b(?: (?:now|clock_timestamp|statement_timestamp|transaction_timestamp|random|randomblob|rand|unixepoch
            |gen_random_uuid|uuid_generate_v4|uuid|sysdate|utc_timestamp|curtime|curdate|timeofday) \s*\(
          | current_timestamp | current_time | current_date | localtimestamp | localtime )
        | '(?:now)'""",
    re.VERBOSE | re.IGNORECASE,
)
# The one statement, by the name it carries, that may look at a server's clock: it measures how far that is from ours.
SQL_CLOCK_NAME = "store_clock"
SQLALCHEMY_CALLS = frozenset("now random current_timestamp current_date current_time localtimestamp sysdate".split())


def banned(source: Source) -> list[str]:
    """Uses of time, chance and tasks that belong to the kernel."""
    if source.module.startswith("dujiang.kernel"):
        return []
    findings = []
    for line, name, instead in sorted(set(banned_uses(source))):
        if (source.module, name) not in ALLOWED:
            findings.append(source.found(line, f"{name} is banned outside dujiang.kernel; use {instead}"))
    return findings


def banned_uses(source: Source) -> Iterator[tuple[int, str, str]]:
    """Line, name and replacement of every use, whoever is allowed to."""
    for line in source.imports:
        for name in (line.module, f"{line.module}.{line.name}"):
            if name in MODULES:
                yield line.line, name, MODULES[name]
            elif name in MEMBERS:
                yield line.line, name, MEMBERS[name]
    names = local_names(source.tree)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute):
            full = full_name(node, names)
            if full in MEMBERS:
                yield node.lineno, full, MEMBERS[full]
            elif node.attr in METHODS and isinstance(node.ctx, ast.Load):
                yield node.lineno, node.attr, METHODS[node.attr]


def local_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name of a file stands for."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                head = alias.name.partition(".")[0]
                names[alias.asname or head] = alias.name if alias.asname else head
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def full_name(node: ast.expr, names: dict[str, str]) -> str:
    """The dotted name behind `a.b.c` when `a` was imported; empty otherwise."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute) and (head := full_name(node.value, names)):
        return f"{head}.{node.attr}"
    return ""


def drivers(source: Source) -> list[str]:
    """Imports of a driver outside backends/."""
    if source.module.startswith("dujiang.backends."):
        return []
    return [
        source.found(line.line, f"{root} is a driver; only backends/ imports one, and translates its exceptions")
        for line in source.imports
        if (root := line.module.partition(".")[0]) in DRIVERS
        if (source.module, root) not in ALLOWED
    ]


def server_clock(source: Source) -> list[str]:
    """SQL, or a SQLAlchemy function, that asks the server for time or chance."""
    named = clock_lines(source.tree)
    findings = [
        source.found(
            line, f"SQL calls {call[0].strip()!r}; pass the value as a parameter, from the clock or the entropy"
        )
        for line, text in source.strings
        if line not in named and SQL.search(text)
        for call in [SQL_CALLS.search(text)]
        if call
    ]
    findings += [
        source.found(node.lineno, f"func.{node.attr}() asks the server; pass the value as a parameter")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and node.attr in SQLALCHEMY_CALLS and is_func(node.value)
    ]
    return findings


def is_func(node: ast.expr) -> bool:
    """Whether this is SQLAlchemy's `func`, as a name or as `sa.func`."""
    return (isinstance(node, ast.Name) and node.id == "func") or (
        isinstance(node, ast.Attribute) and node.attr == "func"
    )


def clock_lines(tree: ast.Module) -> set[int]:
    """The lines of the one statement that may ask."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Sql" and node.args
        if isinstance(node.args[0], ast.Constant) and node.args[0].value == SQL_CLOCK_NAME
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def sleeps(source: Source) -> list[str]:
    """Sleeps in a test. `asyncio.sleep(0)` only lets others run, and is free."""
    names = local_names(source.tree)
    findings = []
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or full_name(node.func, names) not in ("time.sleep", "asyncio.sleep"):
            continue
        argument = node.args[0] if node.args else None
        if not (isinstance(argument, ast.Constant) and argument.value == 0) and (source.module, "sleep") not in ALLOWED:
            findings.append(source.found(node.lineno, "a test never sleeps; wait for the event itself"))
    return findings
