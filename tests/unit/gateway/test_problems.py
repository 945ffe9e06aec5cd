"""What a problem document holds, and what it never shows."""

import json
import logging
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from dujiang import App, Module, Tx
from dujiang.data.database import DatabaseRefused, DatabaseUnreachable
from dujiang.gateway.problems import (
    MethodNotAllowed,
    NotFound,
    answer_of_exception,
    faces_caller,
    http_problem,
    problem,
    send_answer,
)
from dujiang.kernel.context import Context, current, entered
from dujiang.kernel.errors import DujiangError, Overloaded, Refusal
from dujiang.kernel.node import Node
from dujiang.testing.harness import running
from tests.docs.generate import error_classes, status_seen


class OutOfStock(Refusal):
    """There is not enough of it."""

    code = "out_of_stock"


@dataclass(eq=False, kw_only=True)
class Broken(DujiangError):
    """An invariant of ours does not hold."""

    code = "broken"
    says = "secret {where}"
    cure = "look into secret {where}"

    where: str


class Hidden(float):
    """A value that no client may see, whatever its sentence makes of it."""

    def __format__(self, spec: str) -> str:
        return "hidden-value"

    def __repr__(self) -> str:
        return "hidden-value"

    __str__ = __repr__


def with_values(kind: type[DujiangError]) -> DujiangError:
    """An error of a class, each of its fields a hidden value."""
    error = kind.__new__(kind)
    error.__dict__.update({name: Hidden(1.0) for name in getattr(kind, "__dataclass_fields__", ())})
    return error


INSIDE = sorted(
    (kind for kind in error_classes() if status_seen(kind) != "-" and not faces_caller(kind.__new__(kind))),
    key=lambda kind: kind.code,
)


def document(answer: Any) -> dict[str, Any]:
    """The members of an answer."""
    assert dict(answer.headers)[b"content-type"] == b"application/problem+json"
    members: dict[str, Any] = json.loads(answer.body)
    assert members["status"] == answer.status
    return members


class TestRefusals:
    def test_values_are_members(self) -> None:
        """A refusal shows its sentence and its values, whatever type they have, beside the standard members."""
        answer = problem(
            OutOfStock("only 3 left", sku="itemA", left=3, price=Decimal("1.50"), status="x", other=object)
        )

        found = document(answer)

        assert answer.status == 409
        assert found["type"] == "/docs/errors/out_of_stock"
        assert found["title"] == "There is not enough of it"
        assert (found["detail"], found["code"], found["move"]) == ("only 3 left", "out_of_stock", "choose")
        assert (found["sku"], found["left"], found["price"]) == ("itemA", 3, "1.50")

    def test_an_instance_and_a_layer_are_named(self) -> None:
        """Where it happened, and which layer refused, are members."""
        found = document(problem(NotFound(what="GET /x"), instance="/orders/7", layer="guard"))

        assert (found["status"], found["instance"], found["layer"]) == (404, "/orders/7", "guard")

    def test_allow_and_accept_are_headers(self) -> None:
        """What a program would try next stands in a header as well."""
        answer = problem(MethodNotAllowed(method="PUT", allow="GET, POST"))

        assert (answer.status, dict(answer.headers)[b"allow"]) == (405, b"GET, POST")


class TestWhatStaysHidden:
    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (DatabaseUnreachable(url="postgresql://secret", why="secret"), 503),
            (DatabaseRefused(url="postgresql://secret", why="secret"), 500),
            (Broken(where="there"), 500),
        ],
    )
    def test_the_inside_is_not_shown(self, error: DujiangError, status: int) -> None:
        """What the caller cannot change shows its title only: no address, no cause, no cure."""
        answer = problem(error)

        assert b"secret" not in answer.body
        assert document(answer)["detail"] == document(answer)["title"]
        assert (answer.status, "hint" in document(answer)) == (status, False)

    def test_an_unforeseen_exception_is_a_trace_id(self, caplog: pytest.LogCaptureFixture) -> None:
        """Any other exception is 500 `internal` with the trace id; the log has the rest."""
        with entered(Context(node=Node.system("test"), trace_id="ab" * 16)), caplog.at_level(logging.ERROR):
            answer = answer_of_exception(RuntimeError("secret"))

        found = document(answer)
        assert (found["status"], found["code"], found["trace_id"]) == (500, "internal", "ab" * 16)
        assert b"secret" not in answer.body
        assert "secret" in caplog.text

    @pytest.mark.parametrize("kind", INSIDE, ids=lambda kind: kind.code)
    def test_the_log_holds_what_the_client_does_not_see(
        self, kind: type[DujiangError], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Of every error that is not the caller's to change: a bare title outside, values and cure in the log."""
        error = with_values(kind)
        with entered(Context(node=Node.system("test"), trace_id="ab" * 16)), caplog.at_level(logging.ERROR):
            answer = answer_of_exception(error)

        found = document(answer)
        assert b"hidden-value" not in answer.body
        assert (found["detail"], found["trace_id"]) == (kind.title(), "ab" * 16)
        assert set(found) == {"type", "title", "status", "detail", "code", "move", "trace_id"}
        if answer.status >= 500:
            assert error.detail in caplog.text
            assert error.hint in caplog.text
            # Where it was raised matters to whoever wrote the program, not to whoever waits for a server.
            assert (caplog.records[0].exc_info is None) == (error.move == "wait")

    async def test_a_transaction_in_a_transaction_tells_its_writer_what_to_do(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A handler that opens a second transaction: 500 with a title for the client, operation and cure in the log."""
        site = Module("site")

        @site.write()
        async def inner(tx: Tx) -> None:
            """Never runs."""

        @site.write("POST /outer")
        async def outer(tx: Tx) -> None:
            """Opens a transaction inside its own."""
            await current().runtime.run(inner, (), {})

        async with running(App(modules=[site])) as world:
            answer = await world.post("/outer")

        assert (answer.status, answer.json["code"]) == (500, "nested_transaction")
        assert answer.json["detail"] == answer.json["title"]
        assert "inner" not in answer.body.decode()
        assert "site.inner would open a transaction inside the one that is open" in caplog.text
        assert "pass the open one on: `await operation(tx, body)`" in caplog.text

    def test_a_model_that_fails_in_the_handler_is_our_fault(self) -> None:
        """Pydantic's error raised by a handler is no fault of the request."""

        class Row(BaseModel):
            size: int

        with pytest.raises(ValidationError) as caught:
            Row.model_validate({"size": "secret"})

        assert document(answer_of_exception(caught.value))["code"] == "internal"


class TestRetryAfter:
    @pytest.mark.parametrize(("after_s", "header"), [(1.0, b"1"), (2.2, b"3"), (0.01, b"1")])
    def test_whoever_shall_wait_is_told_how_long(self, after_s: float, header: bytes) -> None:
        """`wait` gives Retry-After in whole seconds, rounded up, at least 1."""
        answer = problem(Overloaded(what="x", size=1, limit=1, retry_after_s=after_s))

        assert dict(answer.headers)[b"retry-after"] == header

    def test_one_second_is_the_default(self) -> None:
        """An error that only says `wait` means one second."""
        assert dict(problem(DatabaseUnreachable(url="", why="")).headers)[b"retry-after"] == b"1"


class TestForeignExceptions:
    def test_an_http_exception_keeps_status_detail_and_headers(self) -> None:
        """FastAPI's HTTPException becomes a problem with a code by its status."""
        error = HTTPException(401, "sign in first", headers={"WWW-Authenticate": "Bearer"})

        answer = answer_of_exception(error)

        assert (document(answer)["code"], document(answer)["detail"]) == ("unauthorized", "sign in first")
        assert dict(answer.headers)[b"www-authenticate"] == b"Bearer"

    @pytest.mark.parametrize(
        ("status", "code", "move"),
        [
            (404, "not_found", "fix"),
            (409, "conflict", "choose"),
            (418, "im_a_teapot", "fix"),
            (503, "service_unavailable", "wait"),
            (599, "http_status_599", "report"),
        ],
    )
    def test_the_move_follows_the_status(self, status: int, code: str, move: str) -> None:
        """A bare status says whose move it is; a detail that is no text is a member of its own."""
        found = document(http_problem(status, {"left": 3}))

        assert (found["code"], found["move"], found["info"]) == (code, move, {"left": 3})

    def test_fastapis_validation_errors_are_ours(self) -> None:
        """Problems in query, path and body get our codes and places."""
        errors = [
            {"type": "int_parsing", "loc": ("query", "limit"), "msg": "Input should be a valid integer", "input": "x"},
            {"type": "missing", "loc": ("body", "sku"), "msg": "Field required", "input": {}},
        ]

        found = document(answer_of_exception(RequestValidationError(errors, body={})))

        assert (found["status"], found["code"]) == (422, "invalid_body")
        assert [(each["in"], each["path"], each["code"]) for each in found["errors"]] == [
            ("query", "/limit", "bad_format"),
            ("body", "/sku", "missing"),
        ]

    def test_fastapis_broken_json_is_ours(self) -> None:
        """A body that FastAPI could not parse is 400 `bad_json`, as in our own routes."""
        errors = [
            {
                "type": "json_invalid",
                "loc": ("body", 5),
                "msg": "JSON decode error",
                "input": {},
                "ctx": {"error": "Expecting value"},
            }
        ]

        found = document(answer_of_exception(RequestValidationError(errors)))

        assert (found["status"], found["code"]) == (400, "bad_json")
        assert "character 5" in found["detail"]


class TestSending:
    async def test_an_answer_is_two_messages_with_its_length(self) -> None:
        """Start and body, the length among the headers; an answer without content has no length."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        answer = problem(NotFound(what="x"))
        await send_answer(send, answer)
        answer.status, answer.body = 204, b""
        await send_answer(send, answer)

        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"] * 2
        assert dict(sent[0]["headers"])[b"content-length"] == str(len(sent[1]["body"])).encode()
        assert b"content-length" not in dict(sent[2]["headers"])
