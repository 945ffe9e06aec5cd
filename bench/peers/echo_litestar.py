"""Echo in Litestar with msgspec, its fastest model type; no OpenAPI, no logging."""

from typing import Annotated

import msgspec
from litestar import Litestar, post


class Item(msgspec.Struct, forbid_unknown_fields=True):
    """The body."""

    sku: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    quantity: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    note: str | None = None


@post("/echo", status_code=200)
async def echo(data: Item) -> Item:
    """The body again."""
    return data


app = Litestar([echo], openapi_config=None, logging_config=None)
