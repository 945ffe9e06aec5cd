"""Errors: what happened, with which values, whose move it is, where it is explained.

`move` is the one fact from which others follow, so that they cannot disagree:

    move      whose turn                         HTTP   worker
    fix       change the request, code, setting  400    dead at once
    choose    the caller decides                 409    dead at once
    wait      try again later                    503    retry
    report    our bug                            500    retry

A class may name a closer `status`. `says` and `cure` are format strings over the error's own fields. An error whose move
is `wait` or `report` describes the inside of the system, so a response shows only its title; logs and the command line
show it whole. Each `code` has a page in docs/reference/errors.md, generated from these classes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Move = Literal["fix", "choose", "wait", "report"]

STATUS_OF_MOVE: dict[Move, int] = {"fix": 400, "choose": 409, "wait": 503, "report": 500}


def rebuild(kind: type[DujiangError], values: dict[str, Any]) -> DujiangError:
    """Make an error again from its class and values; unpickling calls it."""
    error = kind.__new__(kind)
    error.__dict__.update(values)
    return error


class DujiangError(Exception):
    """The root of every error that Dujiang raises on purpose.

    A subclass is a keyword-only dataclass whose fields are the values of the case:

        @dataclass(eq=False, kw_only=True)
        class PortInUse(DujiangError):
            '''Another process already listens on the port.'''

            code = "port_in_use"
            move = "fix"
            says = "port {port} is taken by process {pid}"
            cure = "stop that process, or choose another port with --port"
            port: int
            pid: int
    """

    code: ClassVar[str] = "error"
    move: ClassVar[Move] = "report"
    says: ClassVar[str] = ""
    cure: ClassVar[str] = ""
    status: ClassVar[int | None] = None

    @classmethod
    def http_status(cls) -> int:
        """The HTTP status: the class's own, otherwise the one that follows from `move`."""
        return cls.status or STATUS_OF_MOVE[cls.move]

    @classmethod
    def title(cls) -> str:
        """The first sentence of the class's docstring: what this kind of error is."""
        return (cls.__doc__ or cls.__name__).strip().split("\n")[0].rstrip(".")

    @property
    def values(self) -> dict[str, Any]:
        """The fields of this error, by name."""
        if dataclasses.is_dataclass(self):
            return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {}

    @property
    def detail(self) -> str:
        """What happened, with the values."""
        return self.says.format(**self.values) if self.says else self.title()

    @property
    def hint(self) -> str:
        """How to cure it, with the values; empty when there is nothing to say."""
        return self.cure.format(**self.values) if self.cure else ""

    @property
    def public_detail(self) -> str:
        """What a response may show: the whole for the caller's own move, the bare title otherwise."""
        return self.detail if self.move in ("fix", "choose") else self.title()

    @property
    def told(self) -> str:
        """The whole for whoever runs or writes the program: what happened, and how to cure it."""
        return f"{self}; {self.hint}" if self.hint else str(self)

    def __str__(self) -> str:
        return f"{self.detail} [{self.code}, {self.move}]"

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self), self.__dict__)


class Refusal(DujiangError):
    """The business says no; nothing was written.

    Raise it, or a subclass with its own `code` and `status`, in any verb. The transaction is rolled back, the answer is
    stored under the idempotency key, the work is never retried, and a reaction that refuses is dead with the code.

        class OutOfStock(Refusal):
            code = "out_of_stock"

        raise OutOfStock("only 3 of itemA are left", sku="itemA", left=3)

    Args:
        detail: What happened, for the caller.
        values: Further members of the problem document; JSON values.
    """

    code: ClassVar[str] = "refused"
    move: ClassVar[Move] = "choose"

    def __init__(self, detail: str = "", /, **values: Any) -> None:
        super().__init__(detail)
        self.text = detail
        self.extra = values

    @property
    def values(self) -> dict[str, Any]:
        """The values given with the refusal."""
        return self.extra

    @property
    def detail(self) -> str:
        """The given detail, otherwise the class's title."""
        return self.text or super().detail


@dataclass(eq=False, kw_only=True)
class Declared(DujiangError):
    """A declaration cannot hold what it promises; raised at import."""

    code = "declaration"
    move = "fix"
    says = "{where}: {what}"
    cure = "{how}"

    where: str
    what: str
    how: str


@dataclass(eq=False, kw_only=True)
class DeadlinePassed(DujiangError):
    """The deadline passed before the work was done."""

    code = "deadline"
    move = "wait"
    status = 504
    says = "{what} did not finish within {limit_s:.3f} s"

    what: str
    limit_s: float


@dataclass(eq=False, kw_only=True)
class Overloaded(DujiangError):
    """The system is full; trying later helps."""

    code = "overloaded"
    move = "wait"
    says = "{what} is full: {size} of {limit}"

    what: str
    size: int
    limit: int
    retry_after_s: float = 1.0


@dataclass(eq=False, kw_only=True)
class OutsideRuntime(DujiangError):
    """Code that needs a running copy of an app was called without one."""

    code = "outside_runtime"
    move = "fix"
    says = "{what} was called outside a running app"
    cure = "call it from a handler, or inside `async with runtime:`"

    what: str
