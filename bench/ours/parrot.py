"""The application that `http` measures: the body again."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from dujiang import App, Module, Read

bench = Module("bench")


class Item(BaseModel):
    """The body."""

    model_config = ConfigDict(extra="forbid", strict=True)
    sku: Annotated[str, Field(min_length=1, max_length=64)]
    quantity: Annotated[int, Field(ge=1, le=1000)]
    note: str | None = None


@bench.read("POST /echo")
async def echo(_db: Read, body: Item) -> Item:
    """The body again. It asks the store nothing, so no connection is taken."""
    return body


app = App(modules=[bench])
