"""The ORM session of a transaction: flushed before the commit, which is not its to make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from sqlalchemy.ext.asyncio import AsyncSession

from dujiang.kernel.errors import DujiangError


@dataclass(eq=False, kw_only=True)
class NotTheSessions(DujiangError):
    """The session of a transaction was asked to end the transaction."""

    code = "not_the_sessions"
    move = "report"
    says = "tx.session.{what}() would end the handler's transaction"
    cure = "return from the handler to commit, raise to roll back; for a part use `async with tx.savepoint():`"

    what: str


class TransactionSession(AsyncSession):
    """A session whose every statement is the transaction's; `flush`, `execute`, `add`, `get` work as ever."""

    async def commit(self) -> NoReturn:
        """Refused: the platform commits once the handler has returned."""
        raise NotTheSessions(what="commit")

    async def rollback(self) -> NoReturn:
        """Refused: raise an error to roll back."""
        raise NotTheSessions(what="rollback")

    async def close(self) -> NoReturn:
        """Refused: the session ends with its transaction."""
        raise NotTheSessions(what="close")

    async def flushed(self) -> set[Any]:
        """Flush; the objects that the session knows now."""
        await self.flush()
        return set(self.sync_session.identity_map.values())

    def forget(self, known: set[Any]) -> None:
        """Forget every object but the known ones, and expire those: the rows behind them were rolled back."""
        for found in [*self.sync_session.new, *self.sync_session.identity_map.values()]:
            if found not in known:
                self.sync_session.expunge(found)
        self.sync_session.expire_all()

    async def end(self) -> None:
        """Close it; for the platform, once the handler has returned."""
        await super().close()
