"""The proxy that fails on purpose, before a real PostgreSQL with its own driver and before a server of echoes."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from dujiang.kernel.tasks import Tasks
from dujiang.testing.proxy import Proxy
from dujiang.testing.servers import BinaryMissing, PostgresServer, find_binary
from dujiang.testing.wire import Talk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

BROKEN = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError)


class Hand:
    """A clock whose sleeps take no time and are remembered."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now_us(self) -> int:
        return 0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One server for the module."""
    try:
        find_binary("postgres")
    except BinaryMissing as missing:
        pytest.skip(str(missing))
    with PostgresServer() as running:
        running.create_database("links")
        running.execute("CREATE TABLE t (x INT)", database="links")
        yield running


@pytest.fixture
async def proxy(server: PostgresServer) -> AsyncIterator[Proxy]:
    """A proxy before the server, whose table is empty."""
    server.execute("TRUNCATE t", database="links")
    async with Proxy("127.0.0.1", server.port) as between:
        yield between


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """The port of a server that sends back every byte."""
    tasks = Tasks("echo")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(1000):
                writer.write(chunk)
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.spawn(answer(reader, writer), name="one").add_done_callback(lambda _: writer.close())

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield listener.sockets[0].getsockname()[1]
    listener.close()
    await tasks.close()


@pytest.fixture
async def echo() -> AsyncIterator[Proxy]:
    """A proxy before a server that sends back every byte."""
    async with echoing() as port, Proxy("127.0.0.1", port) as between:
        yield between


async def connect(proxy: Proxy) -> Any:
    """A driver's connection through the proxy."""
    return await asyncpg.connect(f"postgresql://dujiang@127.0.0.1:{proxy.port}/links", timeout=5)


async def first_byte(port: int) -> bytes:
    """Connect and wait for a byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await reader.read(1)
    finally:
        writer.close()


def rows(server: PostgresServer) -> str:
    """What is committed, read past the proxy."""
    return server.execute("SELECT x FROM t ORDER BY x", database="links").replace("\n", " ")


class TestCommit:
    async def test_a_lost_reply_leaves_the_transaction_committed(self, proxy: Proxy, server: PostgresServer) -> None:
        """The client's COMMIT fails with a broken connection, and yet its row is there."""
        connection = await connect(proxy)
        cut = proxy.drop_commit_reply()

        with pytest.raises(BROKEN):
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES (1)")

        assert cut.is_set()
        assert rows(server) == "1"

    async def test_a_lost_request_leaves_nothing(self, proxy: Proxy, server: PostgresServer) -> None:
        """The client sees the same broken connection, and the row is not there."""
        connection = await connect(proxy)
        cut = proxy.drop_commit_request()

        with pytest.raises(BROKEN):
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES (1)")

        assert cut.is_set()
        assert rows(server) == ""

    @pytest.mark.parametrize("reply", [True, False])
    async def test_the_nth_commit_is_the_one(self, proxy: Proxy, server: PostgresServer, reply: bool) -> None:
        """Commits before the n-th pass, statements outside a transaction do not count, the trap springs once."""
        connection = await connect(proxy)
        cut = proxy.drop_commit_reply(3) if reply else proxy.drop_commit_request(3)
        for number in (1, 2):
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES ($1)", number)
        await connection.execute("INSERT INTO t VALUES (10)")
        before = cut.is_set()

        with pytest.raises(BROKEN):
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES (3)")

        assert not before
        assert cut.is_set()
        assert rows(server) == ("1 2 3 10" if reply else "1 2 10")
        again = await connect(proxy)
        async with again.transaction():
            await again.execute("INSERT INTO t VALUES (11)")
        await again.close()
        assert rows(server).endswith(" 11")

    @pytest.mark.parametrize("reply", [True, False])
    async def test_a_prepared_commit_is_seen(self, proxy: Proxy, server: PostgresServer, reply: bool) -> None:
        """COMMIT through a statement that was prepared before the trap was set is found when it is executed."""
        connection = await connect(proxy)
        commit = await connection.prepare("commit")
        await connection.execute("BEGIN; INSERT INTO t VALUES (1)")
        cut = proxy.drop_commit_reply() if reply else proxy.drop_commit_request()

        with pytest.raises(BROKEN):
            await commit.fetch()

        assert cut.is_set()
        assert rows(server) == ("1" if reply else "")

    @pytest.mark.parametrize("text", ["SET LOCAL statement_timeout = 0; COMMIT", "END", " Commit AND NO CHAIN;"])
    async def test_commit_is_found_however_it_is_written(self, proxy: Proxy, server: PostgresServer, text: str) -> None:
        """COMMIT among several statements, in any case, and its synonym END."""
        connection = await connect(proxy)
        await connection.execute("BEGIN; INSERT INTO t VALUES (1)")
        cut = proxy.drop_commit_request()

        with pytest.raises(BROKEN):
            await connection.execute(text)

        assert cut.is_set()
        assert rows(server) == ""

    async def test_a_commit_that_rolls_back_does_not_count(self, proxy: Proxy, server: PostgresServer) -> None:
        """After a failed statement PostgreSQL answers COMMIT with ROLLBACK, and that answer passes."""
        connection = await connect(proxy)
        cut = proxy.drop_commit_reply()
        with pytest.raises(asyncpg.UndefinedTableError):
            await connection.execute("BEGIN; SELECT * FROM nowhere")

        assert await connection.execute("COMMIT") == "ROLLBACK"

        assert not cut.is_set()
        await connection.close()

    async def test_other_answers_do_not_count(self, proxy: Proxy) -> None:
        """CREATE, COPY and CALL begin like COMMIT and are other answers."""
        connection = await connect(proxy)
        cut = proxy.drop_commit_reply()

        await connection.execute("CREATE TEMP TABLE things (x INT); CREATE TEMP VIEW seen AS SELECT * FROM things")
        await connection.execute("BEGIN; DECLARE one CURSOR FOR SELECT 1; CLOSE one; ROLLBACK")

        assert not cut.is_set()
        await connection.close()

    async def test_a_name_that_begins_with_commit_passes(self, proxy: Proxy) -> None:
        """Only the word itself counts: `committed` is a table's name, and `SELECT 'commit'` is a text."""
        connection = await connect(proxy)
        cut = proxy.drop_commit_request()

        await connection.execute("CREATE TEMP TABLE committed (x INT); SELECT 'commit'")

        assert not cut.is_set()
        await connection.close()

    async def test_other_connections_go_on(self, proxy: Proxy) -> None:
        """Only the connection of the COMMIT is cut."""
        one, other = await connect(proxy), await connect(proxy)
        proxy.drop_commit_reply()

        with pytest.raises(BROKEN):
            await one.execute("BEGIN; COMMIT")

        assert await other.fetchval("SELECT 7") == 7
        await other.close()


class TestFrames:
    async def test_large_answers_pass_whole(self, proxy: Proxy) -> None:
        """A value of 3 MB and 20,000 rows come through as they are."""
        connection = await connect(proxy)

        assert len(await connection.fetchval("SELECT repeat('x', 3000000)")) == 3_000_000
        numbers = await connection.fetch("SELECT g FROM generate_series(1, 20000) g")
        assert [row["g"] for row in numbers] == list(range(1, 20_001))
        await connection.close()

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
    def test_pieces_of_any_size_give_the_same_frames(self, size: int) -> None:
        """However TCP cuts the stream, every byte passes in order and the COMMIT is found."""
        started = (20).to_bytes(4, "big") + (196_608).to_bytes(4, "big") + b"user\0dujiang"
        begun = (8).to_bytes(4, "big") + (80_877_103).to_bytes(4, "big")
        stream = (
            begun + started + b"Q" + (10).to_bytes(4, "big") + b"BEGIN\0" + b"Q" + (11).to_bytes(4, "big") + b"COMMIT\0"
        )
        talk = Talk()

        pieces = [piece for at in range(0, len(stream), size) for piece in talk.up(stream[at : at + size])]

        assert b"".join(raw for raw, _ in pieces) == stream
        assert [what for _, what in pieces if what] == ["commit_request"]
        assert pieces[-1][1] == "commit_request"

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
    def test_pieces_of_any_size_show_confirms_and_acknowledgements(self, size: int) -> None:
        """RabbitMQ's frames are found however TCP cuts them; what publishes or carries contents is no moment."""

        def frame(kind: int, payload: bytes) -> bytes:
            return struct.pack("!BHI", kind, 1, len(payload)) + payload + b"\xce"

        ack = frame(1, struct.pack("!HHQB", 60, 80, 7, 0))
        publish = frame(1, struct.pack("!HH", 60, 40) + b"\0\0") + frame(3, struct.pack("!HH", 60, 80) + b"body")
        talk = Talk()

        up = b"AMQP\0\0\x09\x01" + publish + ack
        sent = [piece for at in range(0, len(up), size) for piece in talk.up(up[at : at + size])]
        down = publish + ack + frame(8, b"")
        came = [piece for at in range(0, len(down), size) for piece in talk.down(down[at : at + size])]

        assert b"".join(raw for raw, _ in sent) == up
        assert b"".join(raw for raw, _ in came) == down
        assert [(raw, what) for raw, what in sent if what] == [(ack, "acknowledgement")]
        assert [(raw, what) for raw, what in came if what] == [(ack, "confirm")]

    def test_what_is_not_postgresql_passes_unread(self) -> None:
        """Another protocol is not held back, even when its text says COMMIT."""
        talk = Talk()

        assert list(talk.up(b"GET /; COMMIT HTTP/1.1\r\n")) == [(b"GET /; COMMIT HTTP/1.1\r\n", "")]
        assert list(talk.down(b"C\0\0\0\x0bCOMMIT\0")) == [(b"C\0\0\0\x0bCOMMIT\0", "")]

    def test_what_tls_hides_passes_unread(self) -> None:
        """After the server agrees to TLS nothing is read any more."""
        talk = Talk()
        list(talk.up((8).to_bytes(4, "big") + (80_877_103).to_bytes(4, "big")))

        assert list(talk.down(b"S")) == [(b"S", ""), (b"", "")]
        assert list(talk.up(b"\x16\x03\x01")) == [(b"\x16\x03\x01", "")]


class TestModes:
    async def test_ok_carries_both_directions_and_their_ends(self, echo: Proxy) -> None:
        """Bytes go through, and the end of one direction reaches the other side while the answer still comes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
        writer.write(b"hello, world")
        writer.write_eof()

        assert await reader.read() == b"hello, world"
        writer.close()

    async def test_refuse_turns_new_connections_away_and_keeps_open_ones(self, echo: Proxy) -> None:
        """A new connection is refused, an open one works on, and after `ok` the same port accepts again."""
        reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
        writer.write(b"12345678")
        assert await reader.readexactly(8) == b"12345678"

        await echo.become("refuse")

        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", echo.port)
        writer.write(b"again")
        assert await reader.readexactly(5) == b"again"
        await echo.become("ok")
        _, other = await asyncio.open_connection("127.0.0.1", echo.port)
        other.close()
        writer.close()

    async def test_reset_all_ends_open_and_new_connections_with_rst(self, echo: Proxy) -> None:
        """An open connection is reset at once, a new one as soon as it is accepted."""
        reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
        writer.write(b"12345678")
        await reader.readexactly(8)

        await echo.become("reset_all")

        with pytest.raises(ConnectionResetError):
            await reader.read()
        with pytest.raises(ConnectionResetError):
            await first_byte(echo.port)
        assert echo.connection_count == 0
        writer.close()

    @pytest.mark.parametrize("mode", ["hang", "hang_up", "hang_down"])
    async def test_hang_holds_bytes_and_gives_them_later(self, echo: Proxy, mode: Any) -> None:
        """While it hangs nothing arrives and nothing ends; after `ok` everything that was sent arrives in order."""
        reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
        writer.write(b"12345678")
        await reader.readexactly(8)

        await echo.become(mode)
        writer.write(b"later")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.read(1)
        await echo.become("ok")

        assert await reader.readexactly(5) == b"later"
        writer.close()

    @pytest.mark.parametrize(("mode", "expected"), [("hang_up", ""), ("hang_down", "1")])
    async def test_one_way_silence_is_one_way(
        self, proxy: Proxy, server: PostgresServer, mode: Any, expected: str
    ) -> None:
        """A statement that cannot go up is not executed; one whose answer cannot come down is."""
        connection = await connect(proxy)
        await connection.execute("SELECT 1")

        await proxy.become(mode)
        with pytest.raises(TimeoutError):
            await connection.execute("INSERT INTO t VALUES (1)", timeout=0.2)
        found = rows(server)

        connection.terminate()
        assert found == expected

    async def test_latency_delays_each_piece_in_both_directions(self) -> None:
        """One question and its answer wait once each, by the clock that the proxy was given, jitter included."""
        clock = Hand()
        async with echoing() as port, Proxy("127.0.0.1", port, clock=clock) as between:
            between.latency_s, between.jitter_s = 0.2, 0.05
            reader, writer = await asyncio.open_connection("127.0.0.1", between.port)
            writer.write(b"12345678")
            await reader.readexactly(8)
            writer.close()

        waits = [slept for slept in clock.slept if slept]
        assert len(waits) == 2
        assert all(0.15 <= slept <= 0.25 for slept in waits)

    @pytest.mark.parametrize("allowed", [0, 5, 12])
    async def test_cut_after_lets_exactly_so_many_bytes_down(self, echo: Proxy, allowed: int) -> None:
        """The client gets these bytes and then the end, though the server had answered everything."""
        cut = echo.cut_after(allowed)
        reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
        writer.write(b"hello, world, and more")

        assert await reader.read() == b"hello, world"[:allowed]
        assert cut.is_set()
        writer.close()

    async def test_cut_after_waits_for_one_byte_more(self, echo: Proxy) -> None:
        """Exactly the allowed bytes leave the connection open; the next one ends it."""
        cut = echo.cut_after(8)
        reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
        writer.write(b"12345678")
        allowed = await reader.readexactly(8)
        before = cut.is_set()
        writer.write(b"9")

        async with asyncio.timeout(5):
            assert await reader.read() == b""
        assert (allowed, before, cut.is_set()) == (b"12345678", False, True)
        writer.close()

    async def test_cut_ends_what_is_open_and_nothing_else(self, echo: Proxy) -> None:
        """After `cut` the open connection is reset and a new one works."""
        reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
        writer.write(b"12345678")
        await reader.readexactly(8)

        echo.cut()

        with pytest.raises(ConnectionResetError):
            await reader.read()
        other_reader, other = await asyncio.open_connection("127.0.0.1", echo.port)
        other.write(b"12345678")
        assert await other_reader.readexactly(8) == b"12345678"
        writer.close()
        other.close()

    async def test_a_dead_server_ends_the_client_with_rst(self, server: PostgresServer) -> None:
        """When the server refuses, the client is accepted and then reset, as behind any load balancer."""
        async with Proxy("127.0.0.1", 1) as between:
            with pytest.raises(ConnectionResetError):
                await first_byte(between.port)

    async def test_leaving_ends_every_connection_and_frees_the_port(self, server: PostgresServer) -> None:
        """After the block the port refuses and the driver sees its connection end, also one that hangs."""
        async with Proxy("127.0.0.1", server.port) as between:
            connection = await connect(between)
            await between.become("hang")

        with pytest.raises(BROKEN):
            await connection.fetchval("SELECT 1")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", between.port)
