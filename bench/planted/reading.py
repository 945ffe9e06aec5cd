"""Bugs in what is kept of reads: what an answer is judged by, and when that is taken."""

from __future__ import annotations

from bench.planted.bug import BOARD, SHOP, Bug

READ = "src/dujiang/read.py"
TX = "src/dujiang/messaging/tx.py"
THROUGH = "src/dujiang/caching/through.py"
SECOND = "src/dujiang/caching/second.py"
FLOORS = "src/dujiang/caching/floors.py"
CACHING = "src/dujiang/caching/caching.py"

READING = (
    Bug(
        name="shared_answers_are_not_judged",
        says="What lies in the shared cache was judged by the process that put it there.",
        where=SECOND,
        old="""        if not self._floors.allow(position, names):
""",
        new="""        if position.origin != self._follower.origin:
""",
        app=SHOP,
        breaks="No machine gives for ever what another has changed.",
        shows="One gateway keeps an order that waits, the worker decides it, and the other gateway, or the first one after it"
        " has heard, takes the old answer from the shared cache; no fault is needed.",
        author="seeing",
    ),
    Bug(
        name="forgotten_after_the_commit",
        says="The row that ends cached answers need not burden the closing statement; it follows the commit.",
        where=TX,
        old="""            self.close_with(insert_piece(self._database, self.now_us, mark, names))
""",
        new="""            piece, store, spawn = (
                insert_piece(self._database, self.now_us, mark, names),
                self._database.statement,
                current().node.tasks.spawn,
            )
            self.after_commit.append(lambda: spawn(store(piece.sql, *piece.args), name="forget"))
""",
        app=SHOP,
        breaks="What a committed transaction has changed is soon given by every process.",
        shows="A kill, or a lost connection, between the commit of a decision and the row: gateways that keep the order as it"
        " was never hear of it.",
        author="seeing",
    ),
    Bug(
        name="key_without_its_parameters",
        says="The name of the read and the caller tell answers apart.",
        where=READ,
        old="""            return to_json([values[name] for name in self._names if name in values])
""",
        new="""            return to_json([name for name in self._names if name in values])
""",
        app=SHOP,
        breaks="A read gives the answer to what was asked.",
        shows="Two orders are asked for; no fault is needed.",
        author="seeing",
    ),
    Bug(
        name="writer_touches_nothing",
        says="The look finds the row of our own transaction as well, a quarter of a second later.",
        where=CACHING,
        old="""            self.guard.touch(names)
""",
        new="""            pass
""",
        app=BOARD,
        breaks="Who has the answer of a write reads that write in the same process.",
        shows="The process that changed a notice is asked before its next look, and has kept it; no fault is needed.",
        author="seeing",
    ),
    Bug(
        name="floors_end_with_the_first_look",
        says="A look tells what is new; what earlier looks told, the shared answers have heard by now.",
        where=FLOORS,
        old="""        for name, numbers in latest.items():
            self._found.pop(name, None)
            self._found[name] = numbers
""",
        new="""        self._found = latest
""",
        app=BOARD,
        breaks="No machine gives for ever what another has changed.",
        shows="Two changes, no fault: a gateway hears of one, and a look later takes from the shared cache what was kept"
        " before it.",
        author="seeing",
    ),
    Bug(
        name="position_taken_after_the_data",
        says="The position says when the answer was ready.",
        where=THROUGH,
        old="""            body = await wanted.load()
        now_s = self._node.clock.monotonic()
""",
        new="""            body = await wanted.load()
            position = None if placed is None else await placed.position(flight.names)
            flight.tick = tick = self._guard.tick
        now_s = self._node.clock.monotonic()
""",
        app=BOARD,
        breaks="What is being loaded while it changes is not kept as if it were new.",
        shows="A commit, and the look that hears of it, between a load's statement and its landing: a slow way back, a pause.",
        author="seeing",
    ),
    Bug(
        name="absent_needs_no_floor",
        says="That there is nothing cannot be outdated: nothing has changed.",
        where=SECOND,
        old="""        if not self._floors.allow(position, names):
""",
        new="""        if entry.body is not None and not self._floors.allow(position, names):
""",
        app=BOARD,
        breaks="What was just made is there for everybody.",
        shows="A gateway asks for a notice before it hangs, and the answer lies in the shared cache; then it is hung, and a"
        " gateway asks again. No fault is needed.",
        author="seeing",
    ),
)
