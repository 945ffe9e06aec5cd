"""Bugs in sagas: in their runs, and in what leads to them."""

from __future__ import annotations

from bench.planted.bug import TRIPS, Bug

RUNNING, PROGRESS = "src/dujiang/saga/running.py", "src/dujiang/saga/progress.py"

SAGAS = (
    Bug(
        name="progress_after_the_effect",
        says="A step's own transaction stays short when its progress is written by the next one.",
        where=RUNNING,
        old="""            after = self.progress.after(DONE, step.name, tx.now_us, result=result, step=follows, data=data)
            return self._close(tx, after)

        await self._transact(body, step.name, step.timeout_s)
""",
        new="""            return self.progress.after(DONE, step.name, tx.now_us, result=result, step=follows, data=data)

        before = self.progress
        await self._transact(body, step.name, step.timeout_s)
        after, self.progress = self.progress, before
        await self._move(lambda _: after)
""",
        app=TRIPS,
        breaks="The effect of a step happens once.",
        shows="A process dies between the transaction of the effect and that of the progress; the step is taken again.",
        author="ours",
    ),
    Bug(
        name="call_without_started",
        says="What came of a call is written down behind it; a row before it says nothing new.",
        where=RUNNING,
        old="""            await self._move(lambda now_us: self.progress.after(STARTED, step.name, now_us))
            if self._hold.ended:
                return
""",
        new="""            pass
""",
        app=TRIPS,
        breaks="A saga ends done as a whole, or undone as a whole.",
        shows="A process dies behind the call, the deadline passes before another takes over, and the saga turns back.",
        author="ours",
    ),
    Bug(
        name="unknown_taken_for_failed",
        says="After so many tries without an answer the step has failed, and a failed step has no effect.",
        where=RUNNING,
        old="await self._turn_back(FAILED if step.forward.local else UNKNOWN, step.name, store.said(error))",
        new="await self._turn_back(FAILED, step.name, store.said(error))",
        app=TRIPS,
        breaks="A saga ends done as a whole, or undone as a whole.",
        shows="The answers of the other side are lost in every try.",
        author="ours",
    ),
    Bug(
        name="undone_in_the_order_of_the_steps",
        says="Undos are independent of each other.",
        where=PROGRESS,
        old="        step = there[-1] if there else None\n",
        new="        step = there[0] if there else None\n",
        app=TRIPS,
        breaks="What was done last is undone first.",
        shows="Any saga that has done two steps and turns back.",
        author="ours",
    ),
    Bug(
        name="undo_without_its_result",
        says="The state is there for what an undo needs.",
        where=RUNNING,
        old="            done = None if raw is None else step.adapter.validate_json(raw)\n",
        new="            done = None\n",
        app=TRIPS,
        breaks="An undo gets what its step has given.",
        shows="Any saga that undoes a step which takes its result.",
        author="ours",
    ),
    Bug(
        name="key_of_the_try",
        says="A new try is a new request, so the other side must not take it for the old one.",
        where=RUNNING,
        old="        outcome = await self._called(step, state, key=key_of(self.progress.saga_id, step.name))\n",
        new="""        one = f"{step.name}{self._claim.attempt}"
        outcome = await self._called(step, state, key=key_of(self.progress.saga_id, one))
""",
        app=TRIPS,
        breaks="Every try of a step outside hands on the same key.",
        shows="An answer of the other side is lost, or the process dies before it is written down.",
        author="ours",
    ),
)
