"""The OpenAPI document: valid, and it says what the server does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate

from dujiang import App, Id, Model, Module, Read, Refusal, Tx
from dujiang.app.composition import Composition
from dujiang.systems.shop import app as shop_app
from dujiang.systems.shop import shop
from dujiang.testing.harness import running

ORDERS = "/api/v1/orders"
PROBLEM = "application/problem+json"


class Thing(Model):
    """A thing."""

    name: str


class Taken(Refusal):
    """Somebody else has it."""

    code = "taken"


class TooHeavy(Refusal):
    """It is heavier than the scale."""

    code = "too_heavy"

    def __init__(self, grams: int) -> None:
        super().__init__(f"{grams} g are too heavy", grams=grams)


forms = Module("forms")


@forms.write("POST /things", idempotency="required", responses={402: {"description": "Pay first"}})
async def add(tx: Tx, body: Thing) -> Thing | Taken | TooHeavy:
    """Refuses in two ways with one status."""
    if body.name == "heavy":
        raise TooHeavy(7)
    raise Taken("Li has it", owner="Li")


@forms.write("DELETE /things/{thing_id}")
async def remove(tx: Tx, thing_id: Id) -> None:
    """Has nothing to say."""


@forms.write("PATCH /things/{thing_id}")
async def rename(tx: Tx, thing_id: Id, body: Thing) -> Thing | None:
    """May have nothing to say."""
    return None


@forms.write("POST /many", batch=8)
async def many(tx: Tx, bodies: list[Thing]) -> list[Thing | Taken]:
    """Is declared on lists; its clients send one."""
    return list(bodies)


@forms.read("GET /things/{thing_id}")
async def thing(db: Read, thing_id: Id, limit: int = 3) -> Thing | None:
    """May not be there."""
    return None


app = App(modules=[forms])


def document_of(declared: App) -> dict[str, Any]:
    """The document of an app, as a client gets it."""
    found: dict[str, Any] = json.loads(json.dumps(Composition(declared).fastapi.openapi()))
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every operation with its name."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def examples(operation: dict[str, Any], status: str) -> dict[str, Any]:
    """The documented problems of one status, by code."""
    found = operation["responses"][status]["content"][PROBLEM]["examples"]
    return {code: example["value"] for code, example in found.items()}


class TestDocument:
    @pytest.mark.parametrize("declared", [shop_app, app], ids=["shop", "forms"])
    def test_it_is_valid_and_every_refusal_is_a_problem(self, declared: App) -> None:
        """The document validates; whatever is no success is `Problem`; FastAPI's own error form is nowhere."""
        document = document_of(declared)

        validate(document)
        assert "HTTPValidationError" not in json.dumps(document)
        assert document["components"]["schemas"]["Problem"]["required"][-2:] == ["code", "move"]
        for name, operation in operations(document):
            for status, response in operation["responses"].items():
                if status[0] == "2" or status == "402":
                    continue
                assert list(response["content"]) == [PROBLEM], (name, status)
                assert response["content"][PROBLEM]["schema"] == {"$ref": "#/components/schemas/Problem"}
                for code, example in response["content"][PROBLEM].get("examples", {}).items():
                    assert (example["value"]["code"], str(example["value"]["status"])) == (code, status)
            assert {"406", "503", "504", "default"} <= set(operation["responses"]), name

    def test_a_success_is_what_is_sent(self) -> None:
        """204 for a handler without an answer, 200 and 204 for one that may have none, 201 with the view."""
        found = dict(operations(document_of(app)))

        assert [s for s in found["DELETE /things/{thing_id}"]["responses"] if s[0] == "2"] == ["204"]
        assert [s for s in found["PATCH /things/{thing_id}"]["responses"] if s[0] == "2"] == ["200", "204"]
        assert "content" not in found["DELETE /things/{thing_id}"]["responses"]["204"]
        created = found["POST /things"]["responses"]["201"]["content"]["application/json"]["schema"]
        assert created == {"$ref": "#/components/schemas/Thing"}
        assert found["POST /many"]["responses"]["201"]["content"]["application/json"]["schema"] == created

    def test_the_key_is_documented_where_it_counts(self) -> None:
        """Writes have the header, required where the route says so, and say that an answer may be a replay."""
        found = dict(operations(document_of(app)))

        keys = {
            name: [each["required"] for each in operation.get("parameters", ()) if each["name"] == "Idempotency-Key"]
            for name, operation in found.items()
        }
        assert keys == {
            "POST /things": [True],
            "DELETE /things/{thing_id}": [False],
            "PATCH /things/{thing_id}": [False],
            "POST /many": [False],
            "GET /things/{thing_id}": [],
        }
        for name, operation in found.items():
            success = next(status for status in operation["responses"] if status[0] == "2")
            replayed = "Idempotent-Replayed" in operation["responses"][success].get("headers", {})
            assert replayed == bool(keys[name]), name
            assert ("in_flight" in examples(operation, "409")) if keys[name] else "409" not in operation["responses"]
        assert "idempotency_key_required" in examples(found["POST /things"], "400")
        assert "Retry-After" in found["POST /things"]["responses"]["503"]["headers"]
        assert found["POST /things"]["responses"]["402"] == {"description": "Pay first"}

    def test_operations_ask_for_the_operator(self) -> None:
        """What lies under /_dj/ names its security scheme and its 401."""
        document = document_of(shop_app)
        stock = document["paths"]["/_dj/shop/stock/{sku}"]["put"]

        assert stock["security"] == [{"operator": []}]
        assert document["components"]["securitySchemes"]["operator"]["scheme"] == "bearer"
        assert "operator_only" in examples(stock, "401")
        assert "security" not in document["paths"][ORDERS]["post"]


class TestExamples:
    async def test_they_are_what_the_server_sends(self) -> None:
        """Each documented refusal of the forms, provoked: same status, and every member of the example but its values."""
        async with running(app) as world:
            found = dict(operations(document_of(app)))
            answers = {
                "taken": await world.post("/things", {"name": "a"}, key="1"),
                "too_heavy": await world.post("/things", {"name": "heavy"}, key="2"),
                "idempotency_key_required": await world.post("/things", {"name": "a"}),
                "idempotency_key_reused": await world.post("/things", {"name": "b"}, key="1"),
                "bad_json": await world.post("/things", b"{", key="3"),
                "missing": await world.post("/things", {}, key="4"),
                "unsupported_media_type": await world.post("/things", b"x", key="5", headers={"content-type": "a/b"}),
                "not_acceptable": await world.post("/things", b"{}", key="6", headers={"accept": "image/png"}),
            }

            for code, answer in answers.items():
                example = examples(found["POST /things"], str(answer.status))[code]
                for name in ("type", "title", "status", "code", "move"):
                    assert answer.json[name] == example[name], (code, name)
            absent = await world.get("/things/7")
            assert absent.json["type"] == examples(found["GET /things/{thing_id}"], "404")["not_found"]["type"]

    async def test_the_document_is_served(self) -> None:
        """`GET /openapi.json` is the same document, and knows where the app is mounted."""
        async with running(shop_app) as world:
            served = (await world.get("/openapi.json")).json

            validate(served)
            assert set(served["paths"]) == set(document_of(shop_app)["paths"])
            assert set(examples(served["paths"][ORDERS]["post"], "422")) >= {"unknown_product", "total_differs"}
            assert set(examples(served["paths"][ORDERS]["post"], "409")) == {"out_of_stock", "in_flight"}


class TestAttached:
    def test_an_existing_application_keeps_its_own_errors(self) -> None:
        """Our verbs are documented in the other application's document, whose own 422 stays as it is."""
        outer = FastAPI()

        @outer.post("/legacy")
        async def legacy(body: Thing) -> Thing:
            return body

        App(modules=[shop]).attach(outer)
        document = json.loads(json.dumps(outer.openapi()))

        validate(document)
        assert {"Problem", "HTTPValidationError"} <= set(document["components"]["schemas"])
        assert "HTTPValidationError" in json.dumps(document["paths"]["/legacy"])
        assert "HTTPValidationError" not in json.dumps(document["paths"][ORDERS])
