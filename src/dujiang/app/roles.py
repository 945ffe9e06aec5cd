"""Roles: what one running copy of an app does; a copy with all of them is a whole system.

    gateway   answers HTTP: reads, writes, pages           write      answers HTTP: writes and accepts alone
    relay     moves committed events on, and cleans up     worker     runs reactions and jobs
                                                           scheduler  makes the jobs of schedules

Every copy has a row among the processes, ids, metrics and health. What else it starts follows from its roles, so that a
process which only relays keeps no connections for requests, and one which only answers is not woken by every event.

`write` exists to keep a crowd of readers away from the connections of those who buy: a balancer sends the writes to
processes with a pool of their own. It is no second gateway: what it does not answer is refused with 421.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

ROLES = ("gateway", "write", "relay", "worker", "scheduler")
ANSWERED = {"gateway": ("read", "write", "accept"), "write": ("write", "accept")}


class Roles:
    """The roles of one running copy.

    Args:
        names: Some of ROLES.

    Attributes:
        names: In the order of ROLES.
        verbs: The kinds of verbs that it answers over HTTP; empty = none.
    """

    def __init__(self, names: Collection[str]) -> None:
        unknown = set(names) - set(ROLES)
        if unknown:
            raise ValueError(f"no roles: {', '.join(sorted(unknown))}")
        self.names = tuple(name for name in ROLES if name in names)
        self.verbs = frozenset(kind for name in self.names for kind in ANSWERED.get(name, ()))

    def __repr__(self) -> str:
        return f"<Roles {self}>"

    def __str__(self) -> str:
        return ", ".join(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def whole(self, *, schedules: bool) -> bool:
        """Whether nothing is missing: requests are answered, events are moved on and handled, schedules fire if there are any."""
        return {"gateway", "relay", "worker", *(["scheduler"] if schedules else [])} <= set(self.names)

    @property
    def woken(self) -> bool:
        """Whether what other processes commit is its business."""
        return "relay" in self or "worker" in self or "scheduler" in self
