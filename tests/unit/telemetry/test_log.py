"""Logs: one line per fact, with the trace, without secrets, and nothing in a value that a terminal obeys."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from dujiang.kernel.context import Context, entered
from dujiang.kernel.node import Node
from dujiang.telemetry.log import OurHandler, configure, escaped, masked, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dujiang.telemetry.log import Format

HOSTILE = "a\x1b[2Jb\r\nforged line\x00\x7f\x9b\u2028\u202e"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the lines go; the loggers are as before afterwards."""
    root = logging.getLogger()
    kept = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:], root.level = kept
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """The JSON lines."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class TestLines:
    def test_a_line_has_time_level_event_and_fields(self, stream: io.StringIO) -> None:
        """Fields given to structlog are members of one JSON object."""
        configure(stream=stream, log_format="json")

        structlog.get_logger("shop").info("order placed", order_id=7, items=["a", {"n": 1}], late=None)

        (line,) = lines(stream)
        assert line["time"].endswith("Z")
        assert line | {"time": ""} == {
            "time": "",
            "level": "info",
            "event": "order placed",
            "logger": "shop",
            "order_id": 7,
            "items": ["a", {"n": 1}],
            "late": None,
        }

    def test_every_line_carries_trace_tenant_and_node(self, stream: io.StringIO) -> None:
        """Inside a call the line says whose it is, for structlog and for the standard library alike."""
        configure(stream=stream, log_format="json")
        node = Node.system("one")

        with entered(Context(node=node, trace_id="ab" * 16, tenant="acme")):
            structlog.get_logger("shop").info("ours")
            logging.getLogger("library").warning("theirs")
        logging.getLogger("library").warning("outside")

        ours, theirs, outside = lines(stream)
        for line in (ours, theirs):
            assert (line["trace_id"], line["tenant"], line["node"]) == ("ab" * 16, "acme", node.name)
        assert not {"trace_id", "tenant", "node"} & outside.keys()

    @pytest.mark.parametrize("name", ["library", "uvicorn", "uvicorn.error", "uvicorn.access"])
    def test_the_standard_library_comes_here_too(self, stream: io.StringIO, name: str) -> None:
        """A record of any logger, uvicorn's with its own handlers too, is one line of ours with its extra fields."""
        own = io.StringIO()
        if name != "library":  # As uvicorn's own configuration leaves them.
            logging.getLogger(name).addHandler(logging.StreamHandler(own))
            logging.getLogger(name).propagate = False
        configure(stream=stream, log_format="json")

        logging.getLogger(name).error("failed %s of %d", "one", 3, extra={"order_id": 7})

        (line,) = lines(stream)
        assert (line["event"], line["level"], line["logger"], line["order_id"]) == ("failed one of 3", "error", name, 7)
        assert own.getvalue() == ""

    def test_the_level_holds_for_all(self, stream: io.StringIO) -> None:
        """Below the level nothing is written, by whichever logger."""
        configure("warning", "json", stream=stream)

        structlog.get_logger("shop").info("no")
        logging.getLogger("library").info("no")
        structlog.get_logger("shop").warning("yes")
        logging.getLogger("library").warning("yes")

        assert [line["event"] for line in lines(stream)] == ["yes", "yes"]

    def test_configuring_twice_writes_once(self, stream: io.StringIO) -> None:
        """The second call replaces the first one's handler and leaves foreign ones alone."""
        foreign = logging.NullHandler()
        logging.getLogger().addHandler(foreign)

        configure(stream=io.StringIO(), log_format="json")
        configure(stream=stream, log_format="json")
        logging.getLogger("library").warning("once")

        assert len(lines(stream)) == 1
        handlers = logging.getLogger().handlers
        assert foreign in handlers
        assert sum(isinstance(handler, OurHandler) for handler in handlers) == 1

    def test_auto_is_text_on_a_terminal_and_json_elsewhere(self, stream: io.StringIO) -> None:
        """A person reads text, a machine JSON."""

        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        terminal = Terminal()
        configure(stream=terminal)
        logging.getLogger("library").warning("seen", extra={"order_id": 7})
        configure(stream=stream)
        logging.getLogger("library").warning("seen")

        assert terminal.getvalue().rstrip().endswith("[library] order_id=7")
        assert not terminal.getvalue().startswith("{")
        assert lines(stream)[0]["event"] == "seen"

    def test_a_field_named_like_ours_does_not_replace_it(self, stream: io.StringIO) -> None:
        """A caller's `time` and `node` are kept beside ours."""
        configure(stream=stream, log_format="json")

        structlog.get_logger("shop").info("x", time="never", trace_id="forged")

        (line,) = lines(stream)
        assert line["time"] != "never"
        assert line["time_"] == "never"

    @pytest.mark.parametrize("log_format", ["json", "text"])
    def test_an_exception_is_whole_and_on_lines_of_its_own(self, stream: io.StringIO, log_format: Format) -> None:
        """The traceback is there, for both kinds of logger, and none of its lines can pass for a line of the log."""
        configure(stream=stream, log_format=log_format)

        for logger in (structlog.get_logger("shop"), logging.getLogger("library")):
            try:
                raise ValueError("bad\n2026-11-21T00:00:00.000Z info forged")
            except ValueError:
                logger.exception("failed")

        text = stream.getvalue()
        assert text.count("Traceback (most recent call last)") == 2
        if log_format == "json":
            assert [line["event"] for line in lines(stream)] == ["failed", "failed"]
            assert all("ValueError: bad" in line["exception"] for line in lines(stream))
        else:
            heads = [line for line in text.splitlines() if not line.startswith("  ")]
            assert len(heads) == 2
            assert all("failed" in head for head in heads)


class TestHostileValues:
    @pytest.mark.parametrize("log_format", ["json", "text"])
    def test_nothing_that_a_terminal_obeys_is_written(self, stream: io.StringIO, log_format: Format) -> None:
        """Escape sequences, line ends and text direction are shown as escapes, in event, key, value and exception."""
        configure(stream=stream, log_format=log_format)

        try:
            raise ValueError(HOSTILE)
        except ValueError:
            structlog.get_logger("shop").exception(HOSTILE, value=HOSTILE, deep=[{HOSTILE: HOSTILE}], **{HOSTILE: 1})

        text = stream.getvalue()
        assert set(text) & set("\x1b\r\x00\x7f\x9b\u2028\u202e") == set()
        assert len([line for line in text.split("\n") if line and not line.startswith("  ")]) == 1
        assert "\\x1b[2J" in text.replace("\\\\", "\\")

    @given(st.text())
    def test_any_text_becomes_one_line(self, text: str) -> None:
        """Whatever the text, it splits into no second line, and plain text stays as it is."""
        assert len(escaped(text).splitlines()) <= 1
        assert text.isprintable() <= (escaped(text) == text)

    def test_a_value_that_cannot_show_itself_does_not_cost_the_line(self, stream: io.StringIO) -> None:
        """An object whose text raises is shown by its type; a structure that contains itself ends."""

        class Broken:
            def __str__(self) -> str:
                raise RuntimeError

        ring: list[Any] = []
        ring.append(ring)
        configure(stream=stream, log_format="json")

        structlog.get_logger("shop").info("x", broken=Broken(), ring=ring, number=float("1.5"))

        assert lines(stream)[0]["broken"] == "<Broken>"


class TestSecrets:
    @pytest.mark.parametrize(
        "key", ["password", "db_password", "Authorization", "client_secret", "access_token", "TOKEN"]
    )
    def test_a_value_under_a_secret_key_is_masked(self, stream: io.StringIO, key: str) -> None:
        """At the top, in a dictionary and in a list of dictionaries, whatever the value's type."""
        configure(stream=stream, log_format="json")

        structlog.get_logger("shop").info("x", **{key: "hunter2"}, deep={"list": [{key: ["hunter2"]}]})

        assert "hunter2" not in stream.getvalue()
        assert lines(stream)[0][key] == "***"

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("at postgresql://app:hunter2@db:5432/x now", "at postgresql://app:***@db:5432/x now"),
            ("redis://:hunter2@cache", "redis://:***@cache"),
            ("amqp://a:p@ss@mq/v", "amqp://a:***@mq/v"),
            ("http://host:8000/users/a@b.example", "http://host:8000/users/a@b.example"),
            ("postgresql+asyncpg://a:b@c and mysql://d:e@f", "postgresql+asyncpg://a:***@c and mysql://d:***@f"),
            ("host=db password=hunter2 user=app", "host=db password=*** user=app"),
            ("/reset?token=hunter2&x=1", "/reset?token=***&x=1"),
            ("Authorization: Bearer hunter2hunter2", "Authorization: Bearer ***"),
            ("the basic idea of a token", "the basic idea of a token"),
            ("nothing to hide", "nothing to hide"),
        ],
    )
    def test_a_secret_in_a_text_is_masked(self, text: str, shown: str) -> None:
        """Passwords of URLs, `password=` and bearer tokens go; what only looks like them stays."""
        assert without_secrets(text) == shown

    def test_secrets_in_arguments_and_exceptions_are_masked(self, stream: io.StringIO) -> None:
        """A URL in a standard record's arguments, in the event, and in an exception's text."""
        configure(stream=stream, log_format="json")
        url = "postgresql://app:hunter2@db/x"

        try:
            raise ConnectionError(f"no answer from {url}")
        except ConnectionError:
            logging.getLogger("library").exception("cannot reach %s", url)
        structlog.get_logger("shop").info(f"cannot reach {url}", at=url)

        assert "hunter2" not in stream.getvalue()
        assert stream.getvalue().count("app:***@db") == 4

    def test_an_empty_secret_is_shown_as_empty(self) -> None:
        """That a password is missing is worth knowing."""
        assert masked({"password": "", "token": None}) == {"password": "", "token": None}
