"""Banned names are found, and the product has none."""

from __future__ import annotations

import pytest

from tests.tidy import bans
from tests.tidy.source import ROOT, Source, product, suite, tell


def of(text: str, module: str = "dujiang.messaging.relay") -> Source:
    """A snippet that pretends to be a module of the package."""
    return Source(module, text)


class TestTheChecker:
    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("import time", "time"),
            ("from time import monotonic", "time"),
            ("def f():\n    import random", "random"),
            ("import secrets as s", "secrets"),
            ("from threading import Thread", "threading"),
            ("from concurrent.futures import Future", "concurrent.futures"),
            ("import concurrent.futures", "concurrent.futures"),
            ("from concurrent import futures", "concurrent.futures"),
            ("import datetime\ndatetime.datetime.now()", "datetime.datetime.now"),
            ("from datetime import datetime as dt\ndt.now(UTC)", "datetime.datetime.now"),
            ("import datetime as d\nd.date.today()", "datetime.date.today"),
            ("import asyncio\nasyncio.sleep(1)", "asyncio.sleep"),
            ("import asyncio as a\na.gather(x)", "asyncio.gather"),
            ("from asyncio import TaskGroup", "asyncio.TaskGroup"),
            ("import asyncio\nasyncio.get_running_loop().create_task(x)", "create_task"),
            ("loop.run_in_executor(None, f)", "run_in_executor"),
            ("import uuid\nField(default_factory=uuid.uuid4)", "uuid.uuid4"),
            ("import os\nos.urandom(4)", "os.urandom"),
        ],
    )
    def test_time_chance_and_tasks_are_found_in_every_disguise(self, text: str, name: str) -> None:
        """A banned name is found through aliases, and the message says what to use."""
        findings = bans.banned(of(text))

        assert len(findings) == 1, findings
        assert f"{name} is banned" in findings[0]
        assert "; use `" in findings[0].replace("use the node's", "use `")

    @pytest.mark.parametrize(
        "text",
        [
            "import asyncio\nasyncio.timeout(1)\nasyncio.Event()\nasyncio.Queue()",
            "from datetime import UTC, datetime\ndatetime(2025, 1, 1, tzinfo=UTC)",
            "from uuid import UUID",
            "self.clock.sleep(1)\nself.random.random()",
            "import os\nos.environ",
        ],
    )
    def test_what_has_no_time_or_chance_in_it_is_free(self, text: str) -> None:
        """Neighbours of banned names are not found."""
        assert bans.banned(of(text)) == []

    def test_the_kernel_may(self) -> None:
        """The kernel is where the seams are made."""
        assert bans.banned(of("import time", "dujiang.kernel.clock")) == []

    def test_drivers_are_found_outside_backends(self) -> None:
        """A driver is free in backends/ and nowhere else, lazily or not."""
        text = "def f():\n    import asyncpg.exceptions"

        assert len(bans.drivers(of(text))) == 1
        assert len(bans.drivers(of("from apsw import Connection"))) == 1
        assert bans.drivers(of(text, "dujiang.backends.postgres.pool")) == []

    @pytest.mark.parametrize(
        "text",
        [
            'X = "SELECT now()"',
            'X = "INSERT INTO t VALUES (CURRENT_TIMESTAMP)"',
            'X = f"UPDATE {table} SET at = clock_timestamp() WHERE a = 1"',
            'X = Sql("other", "SELECT clock_timestamp()", "No.")',
            "X = \"SELECT datetime('now')\"",
            'X = "SELECT * FROM t ORDER BY random () WHERE a"',
            "select(func.now())",
            "select(sa.func.random())",
        ],
    )
    def test_sql_that_asks_the_server_for_time_or_chance_is_found(self, text: str) -> None:
        """The clock and the dice of a database are not ours to replay."""
        assert len(bans.server_clock(of(text))) == 1

    @pytest.mark.parametrize(
        "text",
        [
            'X = Sql("store_clock", "SELECT clock_timestamp()", "Samples the offset.")',
            'X = Sql(\n    "store_clock",\n    "SELECT "\n    "clock_timestamp()",\n    "Samples the offset.",\n)',
            'X = "SELECT now_us FROM t WHERE due_us <= :now"',
            'def f():\n    """SELECT now() is not what we do."""',
            'says("it is known now (and then)")',
            "node.now()",
        ],
    )
    def test_the_one_named_statement_and_prose_are_free(self, text: str) -> None:
        """Sampling the offset has a name; words in docstrings and messages are no SQL."""
        assert bans.server_clock(of(text)) == []

    def test_a_sleep_in_a_test_is_found(self) -> None:
        """A test waits for what it waits for; letting others run is free."""
        assert len(bans.sleeps(of("import asyncio\nawait asyncio.sleep(0.1)"))) == 1
        assert len(bans.sleeps(of("from time import sleep\nsleep(1)"))) == 1
        assert bans.sleeps(of("import asyncio\nawait asyncio.sleep(0)")) == []


class TestTheProduct:
    def test_only_the_kernel_asks_for_time_chance_and_tasks(self) -> None:
        """Everything else takes a node or the context."""
        findings = [finding for source in product() for finding in bans.banned(source)]

        assert not findings, tell(findings)

    def test_only_backends_import_drivers(self) -> None:
        """Driver exceptions cannot travel further than drivers."""
        findings = [finding for source in product() for finding in bans.drivers(source)]

        assert not findings, tell(findings)

    def test_no_statement_asks_the_server_for_time_or_chance(self) -> None:
        """Statements in Python and in .sql files take both as parameters."""
        files = [Source("", f"X = {path.read_text()!r}", str(path)) for path in (ROOT / "src").rglob("*.sql")]
        findings = [finding for source in (*product(), *files) for finding in bans.server_clock(source)]

        assert not findings, tell(findings)

    def test_no_test_sleeps(self) -> None:
        """Tests are as fast as the machine and never wait for luck."""
        findings = [finding for source in suite() for finding in bans.sleeps(source)]

        assert not findings, tell(findings)

    def test_every_exception_is_still_needed(self) -> None:
        """A line of the allowed list that allows nothing is removed."""
        used = {(source.module, name) for source in product() for _, name, _ in bans.banned_uses(source)}
        used |= {(s.module, line.module.partition(".")[0]) for s in product() for line in s.imports}
        stale = [key for key in bans.ALLOWED if key not in used and key[1] != "sleep"]

        assert not stale
        assert all(reason.endswith(".") for reason in bans.ALLOWED.values())
