"""Many at once: one account that everybody pays, transfers that go both ways, a hold that several want to end."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from dujiang.systems.ledger import app
from dujiang.testing.harness import Response, World, running

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIENTS = 64


async def pay(world: World, number: int, *, debit: int, credit: int, amount: str = "1.00") -> Response:
    """One transfer of Ann's, asked for again for as long as the answer says to wait."""
    body = {
        "user_id": "ann",
        "debit": str(debit),
        "credit": str(credit),
        "amount": amount,
        "reference": f"n{number}",
    }
    answer = await world.post("/api/v1/transfers", body, key=f"n{number}")
    while answer.status == 503 or "retry-after" in answer.headers:
        answer = await world.post("/api/v1/transfers", body, key=f"n{number}")
    return answer


async def balances(world: World, ids: Sequence[int]) -> list[Decimal]:
    """Of Ann's accounts."""
    views = [(await world.get(f"/api/v1/accounts/{each}?user_id=ann")).json for each in ids]
    return [Decimal(view["balance"]) for view in views]


class TestCrowd:
    """Concurrent clients of one or two running copies."""

    async def test_sixty_four_clients_pay_from_one_account(self, store: str) -> None:
        """A thousand is there and 64 clients ask for 640 times 2: 500 get it, the others are refused, nobody overdraws."""
        async with running(app, database=store) as world:

            async def client(place: int) -> list[int]:
                numbers = range(place, 640, CLIENTS)
                return [(await pay(world, n, debit=11, credit=13, amount="2.00")).status for n in numbers]

            statuses = [each for done in await asyncio.gather(*map(client, range(CLIENTS))) for each in done]
            left = await balances(world, [11])

            assert (statuses.count(201), statuses.count(409)) == (500, 140)
            assert left == [Decimal("0.00")]
            assert await world.violations() == []

    async def test_opposite_transfers_do_not_stop_each_other(self, store: str) -> None:
        """A->B and B->A at once, hundreds of times: all are answered 201, and no money is made or lost."""
        async with running(app, database=store) as world:

            async def client(place: int) -> list[int]:
                legs = (11, 12) if place % 2 else (12, 11)
                numbers = range(place, 320, CLIENTS)
                return [(await pay(world, n, debit=legs[0], credit=legs[1])).status for n in numbers]

            statuses = [each for done in await asyncio.gather(*map(client, range(CLIENTS))) for each in done]

            assert statuses == [201] * 320
            assert await balances(world, [11, 12]) == [Decimal("1000.00")] * 2
            assert await world.violations() == []

    async def test_two_copies_share_a_hot_account(self, postgres: Any) -> None:
        """Two running copies lock the same rows in the same order: no deadlock, no lost update, one chain."""
        url = postgres.create_database()
        async with running(app, database=url) as one, running(app, database=url) as two:

            async def client(place: int) -> list[int]:
                legs = (11, 12) if place // 2 % 2 else (12, 11)
                world = (one, two)[place % 2]
                numbers = range(place, 320, CLIENTS)
                return [(await pay(world, n, debit=legs[0], credit=legs[1])).status for n in numbers]

            statuses = [each for done in await asyncio.gather(*map(client, range(CLIENTS))) for each in done]
            chain = (await two.operate("GET", "/_dj/ledger/accounts/11/chain")).json

            assert statuses == [201] * 320
            assert (chain["entries"], chain["intact"]) == (321, True)
            assert await one.violations() == []

    async def test_a_hold_that_many_want_to_end_ends_once(self, store: str) -> None:
        """Captures, voids and its own expiry at once: one of them wins, and the money agrees with the winner."""
        async with running(app, database=store) as world:
            body = {"user_id": "ann", "debit": "11", "credit": "12", "amount": "30.00"}
            holds = [
                await world.post("/api/v1/holds", {**body, "reference": f"h{n}", "expires_in_s": 1}, key=f"h{n}")
                for n in range(8)
            ]
            ids = [answer.json["transfer_id"] for answer in holds]
            clock = world.runtime.node.clock
            until = clock.monotonic() + 30

            async def states() -> list[str]:
                return [(await world.get(f"/api/v1/transfers/{each}?user_id=ann")).json["state"] for each in ids]

            # The first one has ended by itself: the others are about to, and whoever is first, the books must agree.
            while (await states())[0] == "pending":
                assert clock.monotonic() < until
                await clock.sleep(0.005)

            async def end(n: int) -> int:
                path = "/api/v1/captures" if n % 2 else "/api/v1/voids"
                ask = {"user_id": "ann", "transfer_id": ids[n % 8]}
                return (await world.post(path, ask, key=f"e{n}")).status

            statuses = await asyncio.gather(*map(end, range(64)))
            while "pending" in (ended := await states()):
                assert clock.monotonic() < until
                await clock.sleep(0.02)
            posted, expired = ended.count("posted"), ended.count("expired")

            assert statuses.count(200) == 8 - expired
            assert await balances(world, [11, 12]) == [Decimal(1000 - 30 * posted), Decimal(1000 + 30 * posted)]
            assert await world.violations() == []
