"""The application that `events` measures: a write that publishes, a reaction that marks."""

from pydantic import BaseModel

from bench.peers.marks import mark
from dujiang import App, Event, Module, Tx

bench = Module("bench")


class Message(BaseModel):
    """What the sender sends."""

    number: int
    sent_ns: int


class Posted(Event):
    """A message was sent."""

    number: int
    sent_ns: int


@bench.write("POST /messages", batch=64)
async def post(tx: Tx, bodies: list[Message]) -> list[Message]:
    """Publish them; requests that wait at the same moment share a commit, one alone has its own."""
    tx.publish(*(Posted(number=body.number, sent_ns=body.sent_ns) for body in bodies))
    return bodies


@bench.react(Posted, start="beginning", concurrency=50)
async def handle(_tx: Tx, event: Posted) -> None:
    """Mark it; the platform's inbox row makes the transaction."""
    mark(event.number, event.sent_ns)


app = App(modules=[bench])
