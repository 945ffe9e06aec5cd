"""Echo in FastAPI, in the form of its tutorial: Pydantic in, Pydantic out."""

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field


class Item(BaseModel):
    """The body."""

    model_config = ConfigDict(extra="forbid", strict=True)
    sku: str = Field(min_length=1, max_length=64)
    quantity: int = Field(ge=1, le=1000)
    note: str | None = None


app = FastAPI()


@app.post("/echo")
async def echo(item: Item) -> Item:
    """The body again."""
    return item
