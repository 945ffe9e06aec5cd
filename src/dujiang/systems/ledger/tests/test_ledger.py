"""Accounts, transfers, holds and refunds over HTTP, on the embedded store and on PostgreSQL: the same tests."""

from __future__ import annotations

from typing import Any

import pytest

from dujiang.systems.ledger import app
from dujiang.testing.harness import Response, World, running

ACCOUNTS, TRANSFERS, HOLDS = "/api/v1/accounts", "/api/v1/transfers", "/api/v1/holds"
CAPTURES, VOIDS, REFUNDS = "/api/v1/captures", "/api/v1/voids", "/api/v1/refunds"
PAY = {"user_id": "ann", "debit": "11", "credit": "13", "amount": "25.00", "reference": "rent"}
HOLD = {**PAY, "reference": "hotel", "expires_in_s": 3600}


async def asked(world: World, path: str, body: Any) -> Response:
    """A request with a key of its own."""
    return await world.post(path, body, key=f"{world.runtime.ids.new_id()}")


async def figures(world: World, account_id: int, user_id: str = "ann") -> tuple[str, str, str | None]:
    """Balance, held and available of an account."""
    view = (await world.get(f"{ACCOUNTS}/{account_id}?user_id={user_id}")).json
    return view["balance"], view["held"], view["available"]


async def terms(world: World, account_id: int, **said: Any) -> Response:
    """Set an account's terms."""
    body = {"floor": "0.00", "ceiling": None, "frozen": False, **said}
    return await world.operate("PUT", f"/_dj/ledger/accounts/{account_id}/terms", body)


class TestTransfers:
    """POST /api/v1/transfers."""

    async def test_money_moves_once_and_both_sides_see_it(self, store: str) -> None:
        """One transfer is two entries; a retry of the request, and the same reference under another key, are that one."""
        async with running(app, database=store) as world:
            first = await world.post(TRANSFERS, PAY, key="k")
            again = await world.post(TRANSFERS, PAY, key="k")
            other_key = await world.post(TRANSFERS, PAY, key="k2")
            seen = await world.get(f"{TRANSFERS}/{first.json['transfer_id']}?user_id=ben")

            assert (first.status, first.json["state"], first.json["posted"]) == (201, "posted", "25.00")
            assert again.body == first.body
            assert other_key.json == first.json == seen.json
            assert await figures(world, 11) == ("975.00", "0.00", "975.00")
            assert await figures(world, 13, "ben") == ("1025.00", "0.00", "1025.00")
            assert await world.violations() == []

    @pytest.mark.parametrize(
        ("change", "status", "code"),
        [
            ({"user_id": "ben"}, 404, "unknown_account"),
            ({"debit": "99"}, 404, "unknown_account"),
            ({"credit": "99"}, 404, "unknown_account"),
            ({"debit": "1", "user_id": "house"}, 404, "unknown_account"),
            ({"credit": "11"}, 422, "same_account"),
            ({"credit": "14"}, 422, "currency_mismatch"),
            ({"currency": "USD"}, 422, "currency_mismatch"),
            ({"amount": "1000.01"}, 409, "insufficient_funds"),
            (
                {"debit": "15", "currency": "JPY", "credit": "3", "amount": "1.50"},
                422,
                "amount_scale",
            ),
            ({"amount": "0.00"}, 422, "out_of_range"),
            ({"amount": "-1.00"}, 422, "out_of_range"),
            ({"amount": "1.001"}, 422, "too_many_digits"),
            ({"amount": 0.1 + 0.2}, 422, "use_decimal_string"),
            ({"user_id": ""}, 422, "too_short"),
            ({"is_admin": True}, 422, "unknown_field"),
        ],
    )
    async def test_what_cannot_be_is_refused_and_moves_nothing(
        self, store: str, change: dict[str, Any], status: int, code: str
    ) -> None:
        """Each refusal has its status and code, and leaves no trace."""
        async with running(app, database=store) as world:
            answer = await asked(world, TRANSFERS, {**PAY, **change})

            assert (answer.status, answer.json["code"]) == (status, code)
            assert await figures(world, 11) == ("1000.00", "0.00", "1000.00")
            assert await world.violations() == []

    async def test_a_reference_belongs_to_one_transfer(self, store: str) -> None:
        """Another amount or account under a used reference is refused; another payer, or a hold, may use the same one."""
        async with running(app, database=store) as world:
            await asked(world, TRANSFERS, PAY)
            amount = await asked(world, TRANSFERS, {**PAY, "amount": "26.00"})
            kind = await asked(world, HOLDS, {**PAY, "expires_in_s": 60})
            payer = await asked(world, TRANSFERS, {**PAY, "debit": "12"})

            assert (amount.status, amount.json["code"]) == (422, "reference_reused")
            assert (kind.status, payer.status) == (201, 201)

    async def test_money_routes_need_a_key(self, store: str) -> None:
        """A request without an Idempotency-Key is refused before anything is looked at."""
        async with running(app, database=store) as world:
            for path, body in ((TRANSFERS, PAY), (HOLDS, HOLD), (ACCOUNTS, {"user_id": "ann", "currency": "EUR"})):
                answer = await world.post(path, body)

                assert (answer.status, answer.json["code"]) == (400, "idempotency_key_required")

    async def test_a_frozen_account_neither_pays_nor_is_paid(self, store: str) -> None:
        """Frozen: no transfer, hold, capture or refund; a hold may still be given up, and thawing brings all back."""
        async with running(app, database=store) as world:
            held = (await asked(world, HOLDS, HOLD)).json["transfer_id"]
            other = (await asked(world, HOLDS, {**HOLD, "reference": "h2"})).json["transfer_id"]
            await terms(world, 13, frozen=True)
            answers = [
                await asked(world, TRANSFERS, PAY),
                await asked(world, HOLDS, {**HOLD, "reference": "h3"}),
                await asked(world, CAPTURES, {"user_id": "ben", "transfer_id": held}),
            ]
            void = await asked(world, VOIDS, {"user_id": "ben", "transfer_id": other})
            await terms(world, 13)
            thawed = await asked(world, CAPTURES, {"user_id": "ben", "transfer_id": held})

            assert [answer.json["code"] for answer in answers] == ["account_frozen"] * 3
            assert (void.status, thawed.status) == (200, 200)
            assert await world.violations() == []

    async def test_bounds_are_an_operators_and_are_kept(self, store: str) -> None:
        """An overdraft reaches to the floor and not below, a ceiling counts what is coming in, and neither may be crossed."""
        async with running(app, database=store) as world:
            await terms(world, 11, floor="-50.00")
            await terms(world, 13, floor=None, ceiling="2100.00")
            overdrawn = await asked(world, TRANSFERS, {**PAY, "amount": "1050.00"})
            more = await asked(world, TRANSFERS, {**PAY, "amount": "0.01", "reference": "more"})
            crossed = await terms(world, 11, floor="-49.99")
            coming = await asked(world, HOLDS, {**HOLD, "debit": "12", "amount": "40.00"})
            full = await asked(world, TRANSFERS, {**PAY, "debit": "12", "amount": "10.01"})

            assert (overdrawn.status, coming.status) == (201, 201)
            codes = [answer.json["code"] for answer in (more, crossed, full)]
            assert codes == ["insufficient_funds", "bound_crossed", "ceiling_reached"]
            assert await figures(world, 11) == ("-50.00", "0.00", "0.00")
            assert await world.violations() == []

    async def test_a_new_account_is_empty_and_is_filled_from_outside(self, store: str) -> None:
        """An account is opened by its owner, filled by an operator, and seen by nobody else."""
        async with running(app, database=store) as world:
            opened = await asked(world, ACCOUNTS, {"user_id": "cem", "currency": "EUR"})
            account_id = opened.json["account_id"]
            body = {"account_id": account_id, "amount": "70.00", "reference": "cash-9"}
            headers = {"authorization": "Bearer harness-operator-token"}
            filled = [
                await world.post("/_dj/ledger/deposits", body, key=each, headers=headers) for each in ("d1", "d2")
            ]
            stranger = await world.get(f"{ACCOUNTS}/{account_id}?user_id=ann")
            nobody = await world.post("/_dj/ledger/deposits", body, key="d3")

            assert (opened.status, opened.json["balance"], opened.json["floor"]) == (201, "0.00", "0.00")
            assert [answer.status for answer in filled] == [201, 201]
            assert await figures(world, account_id, "cem") == ("70.00", "0.00", "70.00")
            assert (stranger.status, nobody.status) == (404, 401)


class TestHolds:
    """POST /api/v1/holds, captures and voids."""

    async def test_a_part_is_captured_and_the_rest_released(self, store: str) -> None:
        """What is held is not available; a capture takes its part, frees the rest and ends the hold."""
        async with running(app, database=store) as world:
            held = (await asked(world, HOLDS, HOLD)).json
            while_held = await figures(world, 11)
            body = {"user_id": "ben", "transfer_id": held["transfer_id"], "amount": "10.00"}
            above = await asked(world, CAPTURES, {**body, "amount": "25.01"})
            captured = await asked(world, CAPTURES, body)
            twice = await asked(world, CAPTURES, body)
            void = await asked(world, VOIDS, {"user_id": "ben", "transfer_id": held["transfer_id"]})

            assert held["state"] == "pending"
            assert while_held == ("1000.00", "25.00", "975.00")
            assert (above.status, above.json["code"]) == (422, "above_hold")
            assert (captured.status, captured.json["state"], captured.json["posted"]) == (200, "posted", "10.00")
            assert [twice.json["code"], void.json["code"]] == ["hold_closed", "hold_closed"]
            assert await figures(world, 11) == ("990.00", "0.00", "990.00")
            assert await world.violations() == []

    async def test_a_void_frees_all_and_is_the_payees(self, store: str) -> None:
        """The payer cannot take a hold back, nor can a stranger; the payee gives it up."""
        async with running(app, database=store) as world:
            transfer_id = (await asked(world, HOLDS, HOLD)).json["transfer_id"]
            payer = await asked(world, VOIDS, {"user_id": "ann", "transfer_id": transfer_id})
            payee = await asked(world, VOIDS, {"user_id": "ben", "transfer_id": transfer_id})

            assert (payer.status, payer.json["code"]) == (404, "unknown_transfer")
            assert (payee.status, payee.json["state"]) == (200, "voided")
            assert await figures(world, 11) == ("1000.00", "0.00", "1000.00")

    async def test_a_hold_ends_by_itself(self, store: str) -> None:
        """A job ends it when its time has come, and a capture that comes later is refused."""
        async with running(app, database=store) as world:
            held = (await asked(world, HOLDS, {**HOLD, "expires_in_s": 1})).json["transfer_id"]
            clock = world.runtime.node.clock
            until = clock.monotonic() + 30
            while (view := (await world.get(f"{TRANSFERS}/{held}?user_id=ann")).json)["state"] == "pending":
                assert clock.monotonic() < until
                await clock.sleep(0.02)
            late = await asked(world, CAPTURES, {"user_id": "ben", "transfer_id": held})

            assert view["state"] == "expired"
            assert (late.status, late.json["code"]) == (409, "hold_closed")
            assert await figures(world, 11) == ("1000.00", "0.00", "1000.00")
            assert await world.violations() == []


class TestRefunds:
    """POST /api/v1/refunds."""

    async def test_refunds_together_are_at_most_what_was_posted(self, store: str) -> None:
        """Parts go back until all is back; the same reference is the same refund; a refund has no refund."""
        async with running(app, database=store) as world:
            paid = (await asked(world, TRANSFERS, PAY)).json["transfer_id"]
            body = {"user_id": "ben", "transfer_id": paid, "amount": "15.00", "reference": "a"}
            first = await asked(world, REFUNDS, body)
            again = await asked(world, REFUNDS, body)
            above = await asked(world, REFUNDS, {**body, "amount": "10.01", "reference": "b"})
            rest = await asked(world, REFUNDS, {**body, "amount": "10.00", "reference": "b"})
            none = await asked(world, REFUNDS, {**body, "amount": "0.01", "reference": "c"})
            back = {**body, "user_id": "ann", "transfer_id": rest.json["transfer_id"], "amount": "1.00"}
            of_refund = await asked(world, REFUNDS, back)
            payer = await asked(world, REFUNDS, {**body, "user_id": "ann", "reference": "d"})

            assert (first.status, first.json["kind"], first.json["refund_of"]) == (201, "refund", paid)
            assert again.json == first.json
            assert rest.status == 201
            assert [answer.json["code"] for answer in (above, none)] == ["above_refundable", "above_refundable"]
            assert [of_refund.json["code"], payer.json["code"]] == ["not_refundable", "unknown_transfer"]
            assert await figures(world, 11) == ("1000.00", "0.00", "1000.00")
            assert await world.violations() == []


class TestStatement:
    """GET /api/v1/accounts/{account_id}/statement."""

    async def test_a_statement_is_the_replay_of_its_entries_page_by_page(self, store: str) -> None:
        """Opening and all pages make closing, a period begins where the one before ended, and a new entry is seen at once."""
        async with running(app, database=store) as world:
            for number in range(7):
                await asked(world, TRANSFERS, {**PAY, "amount": f"{number + 1}.00", "reference": f"r{number}"})
            path = f"{ACCOUNTS}/11/statement?user_id=ann&count=3"
            whole = (await world.get(f"{ACCOUNTS}/11/statement?user_id=ann")).json
            pages, after = [], "0"
            while after is not None:
                page = (await world.get(f"{path}&after={after}")).json
                pages.append(page["entries"])
                after = page["next"]
            cut = whole["entries"][4]["posted_at"]
            early = (await world.get(f"{path}&final_at={cut}")).json
            late = (await world.get(f"{path}&first_at={cut}")).json
            await asked(world, TRANSFERS, {**PAY, "reference": "new"})
            grown = (await world.get(f"{ACCOUNTS}/11/statement?user_id=ann")).json

            assert [entry["number"] for entry in whole["entries"]] == list(range(1, 9))
            assert (whole["opening"], whole["closing"]) == ("0.00", "972.00")
            assert [len(page) for page in pages] == [3, 3, 2]
            assert [entry for page in pages for entry in page] == whole["entries"]
            assert early["closing"] == late["opening"] == whole["entries"][3]["balance"]
            assert late["closing"] == "972.00"
            assert grown["closing"] == "947.00"

    async def test_a_statement_is_the_owners(self, store: str) -> None:
        """Account, statement and transfer of somebody else are unknown, as if they were not there."""
        async with running(app, database=store) as world:
            paid = (await asked(world, TRANSFERS, {**PAY, "credit": "12"})).json["transfer_id"]

            for path in (f"{ACCOUNTS}/11", f"{ACCOUNTS}/11/statement", f"{TRANSFERS}/{paid}"):
                assert (await world.get(f"{path}?user_id=ben")).status == 404
                assert (await world.get(f"{path}?user_id=ann")).status == 200
                assert (await world.get(path)).status == 422
