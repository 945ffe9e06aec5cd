"""Private Redis servers: what a test may rely on when it kills, pauses and fills one."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from dujiang.testing.processes import BinaryMissing, ServerFailed
from dujiang.testing.redis import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One for all tests."""
    try:
        with RedisServer() as found:
            yield found
    except BinaryMissing as missing:
        pytest.skip(str(missing))


def test_a_command_is_answered(server: RedisServer) -> None:
    """Texts, numbers, nothing and lists; what the server refuses is raised with its words."""
    assert server.command("SET", "k", "v") == "OK"
    assert [server.command("GET", "k"), server.command("GET", "none"), server.command("DBSIZE")] == ["v", "", "1"]
    assert server.command("CONFIG", "GET", "save").splitlines()[0] == "save"
    with pytest.raises(ServerFailed, match="WRONGTYPE"):
        server.command("RPUSH", "k", "x")


def test_a_killed_one_comes_back_empty_on_its_port(server: RedisServer) -> None:
    """Nothing was on disk."""
    port = server.port
    server.command("SET", "k", "v")
    server.kill()
    assert not server.running
    with pytest.raises(OSError, match="refused"):
        server.command("PING")
    server.start()

    assert (server.port, server.command("DBSIZE")) == (port, "0")


def test_a_paused_one_takes_connections_and_is_silent(server: RedisServer) -> None:
    """The kernel connects, nobody answers; it goes on where it was."""
    server.pause()
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=0.2) as link:
            link.sendall(b"*1\r\n$4\r\nPING\r\n")
            with pytest.raises(TimeoutError):
                link.recv(1)
    finally:
        server.resume()

    assert server.command("PING") == "PONG"


def test_a_password_is_asked_for() -> None:
    """`url` and `command` carry it; who has none is refused."""
    try:
        with RedisServer(password="secret") as server:
            assert server.command("PING") == "PONG"
            assert ":secret@" in server.url()
            server.password = ""
            with pytest.raises(ServerFailed, match="NOAUTH"):
                server.command("PING")
    except BinaryMissing as missing:
        pytest.skip(str(missing))
