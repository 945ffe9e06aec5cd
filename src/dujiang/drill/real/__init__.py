"""The real drill: an application as several processes on real servers, under load, while everything is killed in turn.

    clients ──HTTP──► processes ──► proxies ──► PostgreSQL primary, its replica, RabbitMQ
       │                  ▲            ▲             ▲
       │                  └── kill -9, SIGSTOP, SIGTERM; links cut at a COMMIT or a confirm; servers killed, failover
       └── history: every call before it is sent and when it ended ──► judged when everything has healed

    stage      the servers, a proxy for each process and server, the processes
    process    one process of the application
    load       clients that send what the types of the handlers allow, at a fixed mean rate, each call with a key
    flight     what a process or a server has in hand now: a fault that hits nothing proves nothing and does not count
    faults     what can be done to the stage, and how each is healed
    nemesis    the schedule, from a seed: which fault, when, for how long
    judging    what must hold afterwards
    report     what came of it: figures, verdicts, as JSON, for people, and as a page (page.py)
    playing    the phases in order: calm, faults, healing, judging

The simulation (drill/) finds schedules and replays them; this one shows that the servers, the drivers and the operating
system keep what the simulation takes for granted. Its schedule follows from the seed, its outcome does not: a process is
killed at that moment, whatever it was doing. Proven by tests/proof/test_drilled_for_real.py.
"""

from __future__ import annotations

from dujiang.drill.real.playing import Plan, play
from dujiang.drill.real.report import RealReport

__all__ = ["Plan", "RealReport", "play"]
