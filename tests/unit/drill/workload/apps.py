"""Small apps whose workloads the tests of this folder look at."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import Depends, Header, Query
from pydantic import Field, model_validator

from dujiang import App, Id, Model, Module, Read, Tx
from dujiang.drill.workload.contract import Flow, contract_of

Draw = Callable[[str, int], int]


def zero(label: str, high: int) -> int:
    """The simplest draw."""
    return 0


def top(label: str, high: int) -> int:
    """The other end."""
    return high


def chance(seed: int) -> Draw:
    """Draws of a seeded generator."""
    source = random.Random(seed)
    return lambda _, high: source.randint(0, high)


def posting(model: Any, path: str = "/things") -> App:
    """An app with one write that takes a model."""
    module = Module("one")

    async def take(tx: Tx, body: Any) -> None: ...

    take.__annotations__ = {"tx": Tx, "body": model, "return": None}
    module.write(f"POST {path}")(take)
    return App(modules=[module])


def flow_named(app: App, name: str) -> Flow:
    """The flow of a verb."""
    return next(flow for flow in contract_of(app) if flow.name == name)


class Free(Model):
    """Fields that almost every value fits."""

    words: list[str] = Field(min_length=4)
    numbers: list[int] = Field(min_length=4)


class Opening(Model):
    """Of an account."""

    owner: str = Field(min_length=1, max_length=20)


class Account(Model):
    """Opened."""

    account_id: Id
    owner: str


class Transfer(Model):
    """Between two accounts that differ."""

    from_account: Id
    to_account: Id
    cents: int = Field(ge=1, le=100_000)

    @model_validator(mode="after")
    def two(self) -> Transfer:
        """Refuse a transfer to itself."""
        if self.from_account == self.to_account:
            raise ValueError("the accounts are one")
        return self


class Done(Model):
    """Transferred."""

    id: Id
    state: Literal["done"]


async def signed(x_signature: Annotated[str, Header(examples=["yes"])]) -> None:
    """Ask for a header, as a dependency of a route does."""


def bank() -> App:
    """Accounts, transfers between them, and operations with and without a driver."""
    module = Module("bank")

    @module.write("POST /accounts", aliases=("POST /v0/accounts",))
    async def open_account(tx: Tx, body: Opening) -> Account:
        return Account(account_id=tx.new_id(), owner=body.owner)

    @module.write("POST /transfers", idempotency="required", dependencies=[Depends(signed)])
    async def transfer(tx: Tx, body: Transfer) -> Done:
        await book(tx, body.cents)
        return Done(id=tx.new_id(), state="done")

    @module.write()
    async def book(tx: Tx, cents: int) -> None: ...

    @module.write()
    async def close_quarter(tx: Tx, quarter: Annotated[int, Field(ge=1, le=4)], note: str = "") -> None: ...

    @module.write()
    async def load(tx: Tx, source: Callable[[], int]) -> None: ...

    @module.write("DELETE /accounts/{account_id}", include_in_schema=False)
    async def close(tx: Tx, account_id: Id, *, force: Annotated[bool, Query()] = False) -> None: ...

    @module.read("GET /accounts")
    async def accounts(db: Read) -> list[Account]:
        return []

    @module.read("GET /accounts/{account_id}")
    async def account(db: Read, account_id: Id) -> Account | None: ...

    @module.read("GET /transfers/{id}")
    async def one_transfer(db: Read, id: Id) -> Done | None: ...  # noqa: A002

    return App(modules=[module])
