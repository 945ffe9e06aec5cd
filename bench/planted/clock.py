"""Bugs of what is due by the clock: the times of schedules, their rows, and their jobs."""

from __future__ import annotations

from bench.planted.bug import ROUNDS, Bug

SCHEDULER = "src/dujiang/jobs/scheduler.py"

CLOCK = (
    Bug(
        name="conflict_of_a_time_is_ignored",
        says="The row of a schedule was claimed, so nobody else can have written its time.",
        where=SCHEDULER,
        old="""            if not await tx.fetch(FIRE, row.number, at_us, how, PASSED_OVER if over else FIRED, tx.now_us):
                continue
""",
        new="""            await tx.fetch(FIRE, row.number, at_us, how, PASSED_OVER if over else FIRED, tx.now_us)
""",
        app=ROUNDS,
        breaks="A time of a schedule makes one job.",
        shows="Two schedulers read the due row before either has stored the next time.",
        author="platform",
    ),
    Bug(
        name="next_time_stored_before_its_job",
        says="The row is locked for as short as possible: moved on first, in a transaction of its own.",
        where=SCHEDULER,
        old="""        plan = schedule.plan(next_us, tx.now_us, FIRES_MAX)
""",
        new="""        plan = schedule.plan(next_us, tx.now_us, FIRES_MAX)
        moved = (row.number, row.rev, next_us, plan.next_us, plan.fires[-1][0] if plan.fires else last_us)
        if not await self._database.write(lambda connection: connection.execute(ADVANCE, *moved)):
            return
""",
        app=ROUNDS,
        breaks="No time of a schedule is lost.",
        shows="A kill of the scheduler between the two transactions.",
        author="platform",
    ),
    Bug(
        name="next_time_counted_from_the_wall",
        says="What is due has fired, so the next time is the one after now.",
        where=SCHEDULER,
        old="""        for at_us, how in plan.fires:
""",
        new="""        for at_us, how in plan.fires[:1]:
""",
        app=ROUNDS,
        breaks="No time of a schedule is lost.",
        shows="A scheduler that is late by more than one time: a pause, an outage, a restart.",
        author="platform",
    ),
    Bug(
        name="round_walked_in_every_run",
        says="A transaction is atomic, so the job needs no step around it.",
        where="bench/planted/apps/rounds.py",
        old="""    await job.step("walk", write_down, f"{job.due:%H:%M:%S}")
""",
        new="""    await job.transact(write_down, f"{job.due:%H:%M:%S}")
""",
        app=ROUNDS,
        breaks="A time has one effect, whatever number of runs its job takes.",
        shows="A kill behind the transaction and before the end of the job.",
        author="platform",
    ),
)
