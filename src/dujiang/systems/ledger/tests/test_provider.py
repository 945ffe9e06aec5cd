"""The provider's events: signed, doubled, late and out of order; and its settlement file beside the books."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dujiang import App
from dujiang.systems.ledger import app, ledger
from dujiang.systems.ledger.provider import HEADER, ProviderKeys, signature, verify
from dujiang.systems.ledger.refusals import BadSignature, SignatureTooOld
from dujiang.testing.harness import Response, World, running

EVENTS, SETTLEMENTS = "/api/v1/provider/events", "/_dj/ledger/settlements"
OPERATOR = {"authorization": "Bearer harness-operator-token"}
SECRET, OTHER = "the-first-secret-of-the-provider", "the-second-secret-of-the-provider"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
PERIOD = {"first_at": "2020-01-01T00:00:00Z", "final_at": "2100-01-01T00:00:00Z"}

# As a user provides it: the secrets come from outside, here from the test.
provided = App(modules=[ledger], provide={ProviderKeys: ProviderKeys((SECRET,))})


def event(event_id: str, kind: str = "payment.succeeded", **fields: Any) -> dict[str, Any]:
    """What the provider says of the payment p1."""
    said = {"payment_id": "p1", "account_id": "11", "currency": "EUR", "amount": "50.00"}
    return {"event_id": event_id, "kind": kind, "occurred_at": "2026-03-01T00:00:00Z", **said, **fields}


async def told(world: World, said: dict[str, Any], *, secret: str = SECRET, age_s: int = 0) -> Response:
    """Send an event, signed some time ago."""
    body = json.dumps(said).encode()
    at = world.runtime.node.clock.now_us() // 1_000_000 - age_s
    return await world.post(EVENTS, body, headers={HEADER: signature(secret, datetime.fromtimestamp(at, UTC), body)})


async def balance(world: World) -> str:
    """Of Ann's first account."""
    return str((await world.get("/api/v1/accounts/11?user_id=ann")).json["balance"])


async def settled(world: World, csv: str, key: str, **period: str) -> dict[str, Any]:
    """The job that a settlement file became, at its end."""
    body = {**PERIOD, **period, "csv": csv}
    accepted = await world.post(SETTLEMENTS, body, key=key, headers=OPERATOR)
    assert accepted.status == 202, accepted.body
    await world.settle()
    view: dict[str, Any] = (await world.get(accepted.headers["location"])).json
    return view


class TestSignature:
    """`verify`, with the clock in the test's hand."""

    BODY = b'{"event_id":"e1"}'

    def test_any_trusted_secret_is_enough(self) -> None:
        """While a secret is exchanged both are good, and a header may carry a signature of each."""
        both = f"{signature(SECRET, NOW, self.BODY)},{signature(OTHER, NOW, self.BODY).partition(',')[2]}"
        for header in (signature(SECRET, NOW, self.BODY), signature(OTHER, NOW, self.BODY), both):
            verify(header, self.BODY, (OTHER, SECRET), NOW)

    @pytest.mark.parametrize(
        "header",
        [
            "",
            "v1=00",
            "t=1772323200",
            "t=1772323200,v1=",
            "t=1772323200,v1=" + "0" * 64,
            "t=x,v1=00",
            "t=²,v1=00",
            "t=" + "9" * 40 + ",v1=00",
            "t=1,t=2,v1=00",
            "t=1772323200,v1=ÿ",
        ],
    )
    def test_what_is_no_signature_is_refused(self, header: str) -> None:
        """Whatever stands there, the answer is the same refusal."""
        with pytest.raises(BadSignature):
            verify(header, self.BODY, (SECRET,), NOW)

    def test_body_time_and_secret_are_all_covered(self) -> None:
        """Another body, another time, another secret, or no secret at all: refused."""
        header = signature(SECRET, NOW, self.BODY)
        for changed, body, secrets in (
            (header, self.BODY + b" ", (SECRET,)),
            (header.replace("t=17", "t=18"), self.BODY, (SECRET,)),
            (header, self.BODY, (OTHER,)),
            (header, self.BODY, ()),
        ):
            with pytest.raises(BadSignature):
                verify(changed, body, secrets, NOW)

    @pytest.mark.parametrize("seconds", [-301, 301])
    def test_an_old_signature_is_refused(self, seconds: int) -> None:
        """Five minutes to either side are taken, a second more is not."""
        header = signature(SECRET, NOW, self.BODY)
        verify(header, self.BODY, (SECRET,), NOW + timedelta(seconds=seconds - seconds // abs(seconds)))

        with pytest.raises(SignatureTooOld):
            verify(header, self.BODY, (SECRET,), NOW + timedelta(seconds=seconds))


class TestEvents:
    """POST /api/v1/provider/events."""

    async def test_a_payment_is_booked_once(self, store: str) -> None:
        """Twice the same event, and another event of the same payment: the money came once."""
        async with running(provided, database=store) as world:
            first = await told(world, event("e1"))
            again = await told(world, event("e1"))
            another = await told(world, event("e2"))
            changed = await told(world, event("e1", amount="60.00"))

            assert (first.status, first.json["outcome"], first.json["duplicate"]) == (200, "applied", False)
            assert (again.status, again.json["outcome"], again.json["duplicate"]) == (200, "applied", True)
            assert another.json["outcome"] == "applied"
            assert (changed.status, changed.json["code"]) == (409, "event_id_reused")
            assert await balance(world) == "1050.00"
            assert await world.violations() == []

    async def test_a_refund_waits_for_its_payment(self, store: str) -> None:
        """The events of one payment come in the wrong order, and end as in the right one."""
        async with running(provided, database=store) as world:
            early = await told(world, event("back", "payment.refunded", amount="20.00"))
            before = await balance(world)
            await told(world, event("e0", "payment.unknown"))
            await told(world, event("e1"))
            then = await world.operate("GET", "/_dj/ledger/provider/events/back")

            assert (early.json["outcome"], before) == ("waiting", "1000.00")
            assert then.json["outcome"] == "applied"
            assert await balance(world) == "1030.00"
            assert await world.violations() == []

    async def test_what_cannot_be_booked_is_kept_and_tried_again(self, store: str) -> None:
        """Money for a frozen account is kept with the reason; an operator thaws it and has the event booked, once."""
        async with running(provided, database=store) as world:
            terms = {"floor": "0.00", "ceiling": None, "frozen": True}
            await world.operate("PUT", "/_dj/ledger/accounts/11/terms", terms)
            refused = await told(world, event("e1"))
            await world.operate("PUT", "/_dj/ledger/accounts/11/terms", {**terms, "frozen": False})
            retry = "/_dj/ledger/provider/events/e1/retry"
            tried = await world.operate("POST", retry)
            again = await world.operate("POST", retry)

            assert (refused.status, refused.json["outcome"], refused.json["reason"]) == (
                200,
                "refused",
                "account_frozen",
            )
            assert (tried.status, tried.json["outcome"]) == (200, "applied")
            assert (again.status, again.json["code"]) == (409, "not_retriable")
            assert (await world.operate("POST", "/_dj/ledger/provider/events/none/retry")).status == 404
            assert await balance(world) == "1050.00"

    async def test_only_signed_and_recent_events_are_taken(self, store: str) -> None:
        """No signature, a foreign secret, a recorded request of yesterday, a body that is no event: nothing moves."""
        async with running(provided, database=store) as world:
            unsigned = await world.post(EVENTS, event("e1"))
            foreign = await told(world, event("e1"), secret=OTHER)
            recorded = await told(world, event("e1"), age_s=86_400)
            nonsense = await told(world, {"event_id": "e1"})

            answers = [(answer.status, answer.json["code"]) for answer in (unsigned, foreign, recorded, nonsense)]
            assert answers == [
                (401, "bad_signature"),
                (401, "bad_signature"),
                (401, "signature_too_old"),
                (422, "bad_provider_event"),
            ]
            assert await balance(world) == "1000.00"

    async def test_a_secret_is_exchanged_while_the_system_runs(self, store: str) -> None:
        """An operator trusts the new one beside the old one, then gives the old one up; nobody else may."""
        async with running(app, database=store) as world:
            path = "/_dj/ledger/provider/secrets"
            statuses = [(await told(world, event("e1"))).status]
            await world.operate("PUT", f"{path}/spring", {"secret": SECRET})
            statuses += [(await told(world, event("e1"))).status]
            shown = await world.operate("PUT", f"{path}/autumn", {"secret": OTHER})
            statuses += [
                (await told(world, event(each), secret=each_s)).status
                for each, each_s in (("e2", SECRET), ("e3", OTHER))
            ]
            await world.operate("DELETE", f"{path}/spring")
            statuses += [
                (await told(world, event(each), secret=each_s)).status
                for each, each_s in (("e4", SECRET), ("e5", OTHER))
            ]
            stranger = await world.put(f"{path}/mine", {"secret": OTHER})

            assert statuses == [401, 200, 200, 200, 401, 200]
            assert OTHER.encode() not in shown.body
            assert stranger.status == 401


class TestSettlement:
    """POST /_dj/ledger/settlements."""

    FILE = (
        "kind,id,currency,amount\n"
        "payment,p1,EUR,50.00\n"
        "payment,p2,EUR,9.00\n"
        "\n"
        "payment,p3,EUR,7.01\n"
        "refund,back,EUR,20.00\n"
        "payment,p1,EUR,50.00\n"
        'payment,"p4,EUR,1.00\n'
        "payment,p5,XXX,1.00\n"
        "payment,p6,EUR,1.001\n"
        "payment,p7,EUR\n"
    )

    async def test_a_file_is_compared_line_by_line(self, store: str) -> None:
        """Each line has its verdict; what cannot be read is told by its number; what the file lacks is found too."""
        async with running(provided, database=store) as world:
            await told(world, event("e1"))
            await told(world, event("back", "payment.refunded", amount="20.00"))
            await told(world, event("e3", payment_id="p3", amount="7.00"))
            await told(world, event("e9", payment_id="p9", amount="3.00"))
            job = await settled(world, self.FILE, "k1")
            report = job["result"]
            shown = (await world.operate("GET", f"{SETTLEMENTS}/{report['file_id']}")).json

            assert (job["state"], job["progress"]) == ("done", 1.0)
            counts = {name: value for name, value in report.items() if isinstance(value, int)}
            assert counts == {
                "matched": 2, "missing_here": 1, "missing_there": 1, "amount_differs": 1, "repeated": 1, "bad": 4,
            }  # fmt: skip
            assert [each["line"] for each in report["bad_lines"]] == [8, 9, 10, 11]
            assert [(each["line"], each["verdict"]) for each in report["differences"]] == [
                (3, "missing_here"),
                (5, "amount_differs"),
                (7, "repeated"),
                (None, "missing_there"),
            ]
            assert shown == report

    async def test_the_same_file_twice_is_one_file(self, store: str) -> None:
        """Sent again it has the same report and no second set of lines; after a late event it says what is true then."""
        async with running(provided, database=store) as world:
            await told(world, event("e1"))
            first = (await settled(world, self.FILE, "k1"))["result"]
            again = (await settled(world, self.FILE, "k2"))["result"]
            await told(world, event("late", payment_id="p2", amount="9.00"))
            then = (await settled(world, self.FILE, "k3"))["result"]

            assert again == first
            assert then["file_id"] == first["file_id"]
            assert (first["matched"], then["matched"]) == (1, 2)

    async def test_a_long_file_is_read_in_pieces(self, store: str) -> None:
        """A repeat far behind its first line is found, and every line has one verdict."""
        async with running(provided, database=store) as world:
            lines = [f"payment,x{number},EUR,1.00" for number in range(900)]
            job = await settled(world, "\r\n".join(["kind,id,currency,amount", *lines, lines[0]]), "k")

            assert (job["result"]["missing_here"], job["result"]["repeated"], job["result"]["bad"]) == (900, 1, 0)

    @pytest.mark.parametrize(
        "change", [{"csv": "id,kind\n"}, {"csv": ""}, {"final_at": "2020-01-01T00:00:00Z"}, {"csv": "x" * 900_001}]
    )
    async def test_what_is_no_file_is_refused_at_once(self, store: str, change: dict[str, str]) -> None:
        """Without its header, its text or its period, or too long, it becomes no job."""
        async with running(provided, database=store) as world:
            body = {**PERIOD, "csv": self.FILE, **change}

            assert (await world.post(SETTLEMENTS, body, key="k", headers=OPERATOR)).status == 422
            assert (await world.post(SETTLEMENTS, body, key="k2")).status == 401
