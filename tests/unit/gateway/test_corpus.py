"""The HTTP cases of the bad-input corpus about bodies and media types: each gives its status, its code, and a cure."""

import json
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from dujiang.data.types import Id, Instant, Money
from dujiang.gateway.body import check_json_request, read_body
from dujiang.gateway.guard import Guard
from dujiang.gateway.problems import JSON_HEADERS, Answer, answer_of_exception, send_answer
from dujiang.kernel.codec import Codec
from dujiang.kernel.node import Node

MIB = 1024 * 1024


class Order(BaseModel):
    """A plain model: nothing in its config asks for strictness."""

    name: Annotated[str, Field(max_length=40)] = "x"
    count: Annotated[int, Field(ge=1, le=2**63 - 1)]
    owner: Id = 1
    price: Money = Decimal(1)
    currency: Literal["CNY", "EUR"] = "CNY"
    at: Instant | None = None


ORDER = Codec(Order)


async def shop(scope: Any, receive: Any, send: Any) -> None:
    """One address that takes an order and gives it back."""
    try:
        headers = dict(scope["headers"])
        check_json_request(headers.get(b"content-type", b""), headers.get(b"accept", b""))
        order = ORDER.decode(await read_body(receive))
        answer = Answer(201, list(JSON_HEADERS), ORDER.encode(order))
    except Exception as error:  # noqa: BLE001  (as a route does it)
        answer = answer_of_exception(error)
    await send_answer(send, answer)


async def posted(body: bytes, **headers: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and document for a body."""
    named = {"host": "localhost", "content_type": "application/json", "content_length": str(len(body))} | headers
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/orders",
        "raw_path": b"/orders",
        "query_string": b"",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items() if value],
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await Guard(shop, Node.system("test"))(scope, receive, send)
    response = b"".join(message["body"] for message in sent[1:])
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert found["content-length"] == str(len(response))
    return sent[0]["status"], found, json.loads(response)


# Number in the corpus and what it is: body, status, code, a word that the detail or a message must say.
CASES: dict[str, tuple[bytes, int, str, str]] = {
    "1 empty": (b"", 400, "body_required", "empty"),
    "1 blank": (b" \r\n\t", 400, "body_required", "empty"),
    "2 open brace": (b"{", 400, "bad_json", "line 1 column 1"),
    "2 second line": (b'{"count": 1,\n "x" 2}', 400, "bad_json", "line 2 column 6"),
    "3 trailing garbage": (b"{} x", 400, "bad_json", "line 1 column 4"),
    "4 NaN": (b'{"count": NaN}', 400, "bad_number", "line 1 column 11"),
    "4 minus infinity": (b'{"count": -Infinity}', 400, "bad_number", "NaN, infinite"),
    "5 overflow": (b'{"count": 1e999}', 400, "bad_number", "/count"),
    "5 overflow, upper case": (b'{"count": [-1E+999]}', 400, "bad_number", "/count/0"),
    "5 overflow without exponent": (b'{"count": %s.0}' % (b"1" * 310), 400, "bad_number", "/count"),
    "6 duplicate keys": (b'{"count": 1, "count": 2}', 400, "duplicate_key", '"count"'),
    "6 duplicate keys, escaped": (b'{"count": 1, "\\u0063ount": 2}', 400, "duplicate_key", '"count"'),
    "7 100,000 brackets": (b"[" * 100_000, 400, "too_deep", "32 levels"),
    "7 33 levels": (b"[" * 33 + b"]" * 33, 400, "too_deep", "32 levels"),
    "8 5,000 digits": (b'{"count": %s}' % (b"1" * 5000), 400, "number_too_long", "4300 digits"),
    "8 5,000 decimals": (b'{"count": 0.%s}' % (b"1" * 5000), 400, "number_too_long", "4300 digits"),
    "9 2**63": (b'{"count": 9223372036854775808}', 422, "out_of_range", "/count"),
    "9 2**63 in an id": (b'{"count": 1, "owner": "9223372036854775808"}', 422, "out_of_range", "/owner"),
    "10 1.0 for int": (b'{"count": 1.0}', 422, "wrong_type", "valid integer"),
    "11 text for int": (b'{"count": "1"}', 422, "wrong_type", "valid integer"),
    "12 true for int": (b'{"count": true}', 422, "wrong_type", "valid integer"),
    "13 lone surrogate": (b'{"name": "\\ud800"}', 400, "bad_unicode", "surrogate"),
    "13 lone low surrogate": (b'{"name": "a\\uDC00"}', 400, "bad_unicode", "byte 12"),
    "13 two halves of the same kind": (b'{"name": "\\ud83d\\ud83d"}', 400, "bad_unicode", "surrogate"),
    "14 invalid UTF-8": (b'{"name": "\xff"}', 400, "bad_unicode", "byte 11"),
    "14 surrogate in UTF-8": (b'{"name": "\xed\xa0\x80"}', 400, "bad_unicode", "UTF-8"),
    "15 UTF-16": ('{"count": 1}'.encode("utf-16"), 400, "bad_encoding", "UTF-16"),
    "15 UTF-16 without mark": ('{"count": 1}'.encode("utf-16-le"), 400, "bad_encoding", "UTF-16"),
    "16 byte order mark": (b'\xef\xbb\xbf{"count": 1}', 400, "bad_encoding", "byte order mark"),
    "17 NUL in text": (b'{"name": "a\\u0000b", "count": 1}', 422, "nul_not_allowed", "/name"),
    "17 NUL in a key": (b'{"a\\u0000": 1}', 422, "nul_not_allowed", "U+0000"),
    "18 array for object": (b"[]", 422, "wrong_type", "object"),
    "19 unknown field": (b'{"count": 1, "colour": 2}', 422, "unknown_field", "'colour'"),
    "20 __proto__": (b'{"count": 1, "__proto__": {}}', 422, "unknown_field", "'__proto__'"),
    "20 __class__": (b'{"count": 1, "__class__": "x"}', 422, "unknown_field", "'__class__'"),
    "21 null": (b'{"count": null}', 422, "wrong_type", "not null"),
    "21 missing": (b"{}", 422, "missing", "'count'"),
    "22 empty id": (b'{"count": 1, "owner": ""}', 422, "bad_format", "/owner"),
    "25 id with SQL": (b'{"count": 1, "owner": "1 OR 1=1"}', 422, "bad_format", "/owner"),
    "27 negative quantity": (b'{"count": -1}', 422, "out_of_range", "greater than or equal to 1"),
    "28 quantity 0": (b'{"count": 0}', 422, "out_of_range", "greater than or equal to 1"),
    "30 20 decimals": (b'{"count": 1, "price": "0.%s"}' % (b"1" * 20), 422, "too_many_digits", "/price"),
    "29 0.1 + 0.2": (b'{"count": 1, "price": 0.30000000000000004}', 422, "use_decimal_string", "string"),
    "31 currency XXX": (b'{"count": 1, "currency": "XXX"}', 422, "unknown_choice", "'EUR'"),
    "32 30 February": (b'{"count": 1, "at": "2024-02-30T00:00:00Z"}', 422, "bad_format", "/at"),
    "33 no zone": (b'{"count": 1, "at": "2024-02-03T00:00:00"}', 422, "timezone_required", "zone"),
    "34 year 10000": (b'{"count": 1, "at": "10000-01-01T00:00:00Z"}', 422, "bad_format", "/at"),
    "35 timestamp 1e20": (b'{"count": 1, "at": 1e20}', 422, "wrong_type", "/at"),
    "36 1 MiB + 1": (b'"' + b"x" * (MIB - 1) + b'"', 413, "body_too_large", "1048576"),
    "many keys": (
        b"{%s}" % b",".join(b'"%d":1' % number for number in range(1001)),
        400,
        "too_many_keys",
        "1000 keys",
    ),
    "long text": (b'{"name": "%s"}' % (b"x" * 65_537), 422, "string_too_long", "64 KiB"),
}


class TestBodies:
    @pytest.mark.parametrize("case", CASES)
    async def test_each_bad_body_gets_its_code_and_a_cure(self, case: str) -> None:
        """Every bad body of the corpus gives the documented status and code, and says where and what to change."""
        body, status, code, said = CASES[case]

        found_status, headers, document = await posted(body)

        assert (found_status, document["code"]) == (status, code)
        assert headers["content-type"] == "application/problem+json"
        assert said in document["detail"]
        assert document["hint"]
        assert document["status"] == status
        assert document["move"] == "fix"
        assert document["type"] == f"/docs/errors/{code}"

    async def test_all_problems_are_listed_at_once(self) -> None:
        """Several problems are one answer, ordered by place, each with its code; the common code is then `invalid_body`."""
        _, _, document = await posted(b'{"count": 0, "owner": "x", "a/b~": 1}')

        assert document["code"] == "invalid_body"
        assert document["error_count"] == 3
        assert [(each["in"], each["path"], each["code"]) for each in document["errors"]] == [
            ("body", "/a~1b~0", "unknown_field"),
            ("body", "/count", "out_of_range"),
            ("body", "/owner", "bad_format"),
        ]

    async def test_what_was_sent_is_not_echoed_at_length(self) -> None:
        """Neither a long key nor a long value comes back whole."""
        for body in (
            b'{"%s": 1}',
            b'{"%s": 1, "%s": 2}' % (b"k" * 300, b"k" * 300),
            b'{"currency": "%s"}',
            b'{"at": "%s"}',
        ):
            _, _, document = await posted(body.replace(b"%s", b"k" * 300))

            assert "k" * 150 not in json.dumps(document)

    async def test_a_body_at_every_limit_passes(self) -> None:
        """Text that only looks forbidden is not: an escaped backslash before u0000, digits and e1 in text, surrogate pairs."""
        for name in ('"\\\\u0000"', '"1e999 "', '"\\ud83d\\ude00"', '"e9, e9] e1"'):
            status, _, document = await posted(b'{"count": 9223372036854775807, "name": %s}' % name.encode())

            assert (status, document["name"]) == (201, json.loads(name))


class TestMediaTypes:
    @pytest.mark.parametrize(
        "value", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx", "json"]
    )
    async def test_another_content_type_is_refused(self, value: str) -> None:
        """53: a body that is not declared as JSON gives 415, and the answer lists what is accepted."""
        status, headers, document = await posted(b'{"count": 1}', content_type=value)

        assert (status, document["code"]) == (415, "unsupported_media_type")
        assert headers["accept"] == document["accepts"] == "application/json"
        assert "application/json" in document["hint"]

    async def test_another_charset_is_refused(self) -> None:
        """JSON in another charset than UTF-8 gives 415."""
        status, _, document = await posted(b'{"count": 1}', content_type="application/json; charset=latin-1")

        assert (status, document["code"]) == (415, "unsupported_media_type")

    @pytest.mark.parametrize(
        "value",
        [
            "application/json",
            "Application/JSON; charset=UTF-8",
            'application/json;charset="utf-8"',
            "application/cloudevents+json",
        ],
    )
    async def test_json_is_taken_however_it_is_written(self, value: str) -> None:
        """Case, spaces, quotes and structured suffixes do not matter."""
        assert (await posted(b'{"count": 1}', content_type=value))[0] == 201

    @pytest.mark.parametrize("coding", ["gzip", "br", "zip9", "identity, gzip"])
    async def test_content_codings_are_refused(self, coding: str) -> None:
        """54, 55: an encoded body gives 415 before a byte of it is read; the answer says that identity is taken."""
        status, headers, document = await posted(b"x", content_encoding=coding)

        assert (status, document["code"], document["layer"]) == (415, "content_coding", "guard")
        assert headers["accept-encoding"] == "identity"

    @pytest.mark.parametrize(
        "accept", ["image/png", "text/html;q=1", "application/json;q=0, */*", "application/xml, text/*"]
    )
    async def test_a_client_that_excludes_json_is_told(self, accept: str) -> None:
        """56: a client that cannot take JSON gets 406, before its order is placed."""
        status, _, document = await posted(b'{"count": 1}', accept=accept)

        assert (status, document["code"]) == (406, "not_acceptable")

    @pytest.mark.parametrize(
        "accept",
        [
            "",
            "*/*",
            "application/*;q=0.1",
            "text/html, */*;q=0.8",
            "application/json;q=0.5",
            "image/png, application/json",
            ",;",
            "application/json;q=x",
        ],
    )
    async def test_a_client_that_takes_json_is_served(self, accept: str) -> None:
        """Wildcards, low weights and unreadable weights exclude nothing."""
        assert (await posted(b'{"count": 1}', accept=accept))[0] == 201
