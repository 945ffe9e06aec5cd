"""A product as a careful person writes it by hand: Starlette, a GET in Redis, asyncpg where it is not there. One process.

The bytes of the answer are what lies in Redis, so a hit is one call and no parsing; redis-py with hiredis, its pool as it
comes.
"""

import contextlib
import json
import os
from collections.abc import AsyncIterator

import asyncpg
import redis.asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FIND = "SELECT id, title, price_cents, stock FROM product WHERE id = $1"
KEPT_S = 3600
state: dict[str, object] = {}


@contextlib.asynccontextmanager
async def life(_: Starlette) -> AsyncIterator[None]:
    state["redis"] = redis.asyncio.from_url(os.environ["BENCH_REDIS"])
    async with asyncpg.create_pool(os.environ["BENCH_DATABASE"], min_size=10, max_size=10) as pool:
        state["pool"] = pool
        yield


async def read_product(request: Request) -> Response:
    key = f"product:{int(request.path_params['product_id'])}"
    body = await state["redis"].get(key)
    if body is None:
        row = await state["pool"].fetchrow(FIND, int(request.path_params["product_id"]))
        if row is None:
            return Response(status_code=404)
        body = json.dumps(dict(row), separators=(",", ":")).encode()
        await state["redis"].set(key, body, ex=KEPT_S)
    return Response(body, media_type="application/json")


app = Starlette(routes=[Route("/products/{product_id}", read_product)], lifespan=life)
