"""Migrations on the embedded store: the file is opened alone, so nothing else may have it open meanwhile."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from dujiang.backends.sqlite.dialect import sync_engine
from dujiang.backends.sqlite.file import path_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy import Connection

    from dujiang.data.migrate import Opener, Run

T = TypeVar("T")


def opener(url: str) -> Opener:
    """Opens the store at `url` for migrations. Its errors are StoreInUse and DatabaseRefused."""
    path = path_of(url)

    @asynccontextmanager
    async def opened(*, alone: bool) -> AsyncIterator[Run]:  # noqa: ARG001  (it always is)
        with sync_engine(path).connect() as connection:

            async def run(body: Callable[[Connection], T], /) -> T:
                return body(connection)

            yield run

    return opened
