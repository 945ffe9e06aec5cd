"""The field types: what they take, what they refuse, what they write."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from dujiang.data.types import Id, Instant, Json, Model, Money, Scale

LARGEST = 2**63 - 1
AMOUNTS = st.decimals(min_value="-92233720368547758.07", max_value="92233720368547758.07", places=2)


class Sample(Model):
    """One field of each type."""

    order_id: Id
    total: Money
    rate: Annotated[Decimal, Scale(4)]
    at: Instant
    status: Literal["pending", "reserved"]
    extra: Json = None


def error_of(kind: Any, text: str) -> str:
    """The type of the one error that a JSON text gives."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_json(text)
    return str(caught.value.errors()[0]["type"])


def read(kind: Any, text: str) -> Any:
    """The value of a JSON text, which has to mean the same when it is parsed first."""
    adapter = TypeAdapter(kind)
    value = adapter.validate_json(text)
    assert adapter.validate_python(json.loads(text)) == value
    return value


class TestId:
    @pytest.mark.parametrize(
        ("text", "value"), [("0", 0), ('"0"', 0), ('"7"', 7), (str(LARGEST), LARGEST), (f'"{LARGEST}"', LARGEST)]
    )
    def test_takes_integers_and_their_canonical_text(self, text: str, value: int) -> None:
        """An id is a JSON integer or its canonical decimal string."""
        assert read(Id, text) == value

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("true", "int_type"),
            ("1.0", "int_type"),
            ("null", "int_type"),
            ("-1", "out_of_range"),
            (str(LARGEST + 1), "out_of_range"),
            (f'"{LARGEST + 1}"', "out_of_range"),
            ('"' + "9" * 5000 + '"', "out_of_range"),
            ('"-1"', "int_parsing"),
            ('"+1"', "int_parsing"),
            ('"01"', "int_parsing"),
            ('" 1"', "int_parsing"),
            ('"1\\n"', "int_parsing"),
            ('"\\u0661"', "int_parsing"),
            ('"1_0"', "int_parsing"),
            ('""', "int_parsing"),
        ],
    )
    def test_refuses_everything_else(self, text: str, error: str) -> None:
        """No second spelling of an id exists."""
        assert error_of(Id, text) == error

    @given(st.integers(0, LARGEST))
    def test_is_written_as_text_and_read_back(self, value: int) -> None:
        """What is written is what is read."""
        adapter = TypeAdapter(Id)
        assert adapter.dump_json(value) == f'"{value}"'.encode()
        assert adapter.validate_json(adapter.dump_json(value)) == value


class TestMoney:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ('"100.00"', "100.00"),
            ('"100"', "100.00"),
            ('"-0.50"', "-0.50"),
            ('"-0.00"', "0.00"),
            ("100.0", "100.00"),
            ("199.98", "199.98"),
            ("1200", "1200.00"),
            ("-0.0", "0.00"),
            ('"92233720368547758.07"', "92233720368547758.07"),
            ("9999999999999.99", "9999999999999.99"),
        ],
    )
    def test_takes_what_is_exact(self, text: str, value: str) -> None:
        """A decimal string, or a number that a double carries unharmed, is an amount with two decimals."""
        assert str(read(Money, text)) == value

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            (repr(0.1 + 0.2), "use_decimal_string"),
            ("1.005", "use_decimal_string"),
            ("99999999999999.99", "use_decimal_string"),
            ("1234567890123456", "use_decimal_string"),
            ("1e-300", "use_decimal_string"),
            ("1e300", "out_of_range"),
            ("9" * 400, "out_of_range"),
            ('"92233720368547758.08"', "out_of_range"),
            ('"' + "9" * 60 + '"', "out_of_range"),
            ('"' + "9" * 6000 + '"', "decimal_parsing"),
            ('"1.005"', "decimal_max_places"),
            ('"1.000"', "decimal_max_places"),
            ('"1e2"', "decimal_parsing"),
            ('"NaN"', "decimal_parsing"),
            ('"Infinity"', "decimal_parsing"),
            ("NaN", "finite_number"),
            ("-Infinity", "finite_number"),
            ('"01.00"', "decimal_parsing"),
            ('"1."', "decimal_parsing"),
            ('".5"', "decimal_parsing"),
            ('" 1.00"', "decimal_parsing"),
            ('"\\u0661"', "decimal_parsing"),
            ("true", "decimal_type"),
            ("null", "decimal_type"),
        ],
    )
    def test_refuses_what_is_not(self, text: str, error: str) -> None:
        """Nothing is rounded and nothing is guessed."""
        assert error_of(Money, text) == error

    @given(AMOUNTS)
    def test_is_written_with_all_decimals_and_read_back(self, value: Decimal) -> None:
        """What is written is what is read, to the last unit."""
        adapter = TypeAdapter(Money)
        written = adapter.dump_json(adapter.validate_python(value))
        assert adapter.validate_json(written) == value
        assert written.decode().strip('"').partition(".")[2].isdigit()

    @given(st.integers(-(10**13), 10**13))
    def test_a_number_of_cents_survives_as_a_double(self, cents: int) -> None:
        """Every amount of up to 15 digits that was sent as a number arrives as it was meant."""
        exact = Decimal(cents).scaleb(-2)
        assert TypeAdapter(Money).validate_json(json.dumps(float(exact))) == exact

    @given(st.lists(AMOUNTS, max_size=20))
    def test_sums_are_exact(self, amounts: list[Decimal]) -> None:
        """A sum of amounts is the sum of their cents."""
        read_back = [TypeAdapter(Money).validate_json(f'"{amount}"') for amount in amounts]
        assert sum(read_back) * 100 == sum(int(amount * 100) for amount in amounts)

    def test_obeys_pydantics_own_bounds(self) -> None:
        """A bound written with Field holds for an amount."""
        positive = Annotated[Money, Field(gt=0)]
        assert read(positive, '"0.01"') == Decimal("0.01")
        assert error_of(positive, '"0.00"') == "greater_than"

    def test_another_scale_is_an_annotation(self) -> None:
        """A rate with four decimals keeps them."""
        assert str(read(Annotated[Decimal, Scale(4)], "1.2345")) == "1.2345"
        assert str(read(Annotated[Decimal, Scale(0)], '"7"')) == "7"
        with pytest.raises(ValueError, match="0 to 9"):
            Scale(10)


class TestInstant:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("2026-03-01T08:00:00Z", "2026-03-01T08:00:00Z"),
            ("2026-03-01t08:00:00.5z", "2026-03-01T08:00:00.500000Z"),
            ("2026-03-01T08:00:00.000001+08:00", "2026-03-01T00:00:00.000001Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
            ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ],
    )
    def test_takes_text_with_a_zone(self, text: str, value: str) -> None:
        """An instant is RFC 3339 text; it comes out in UTC."""
        adapter = TypeAdapter(Instant)
        moment = read(Instant, json.dumps(text))
        assert moment.tzinfo is UTC
        assert json.loads(adapter.dump_json(moment)) == value

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ('"2026-03-01T08:00:00"', "timezone_required"),
            ('"0001-01-01T00:00:00+01:00"', "out_of_range"),
            ('"9999-12-31T23:59:59-01:00"', "out_of_range"),
            ('"0000-01-01T00:00:00Z"', "datetime_parsing"),
            ('"2026-02-30T08:00:00Z"', "datetime_parsing"),
            ('"2026-03-01 08:00:00Z"', "datetime_parsing"),
            ('"2026-03-01T08:00:00.1234567Z"', "datetime_parsing"),
            ('"2026-03-01T24:00:00Z"', "datetime_parsing"),
            ('"2026-03-01T08:00:00+24:00"', "datetime_parsing"),
            ('"2026-03-01"', "datetime_parsing"),
            ("1700000000", "datetime_type"),
            ("null", "datetime_type"),
        ],
    )
    def test_refuses_everything_else(self, text: str, error: str) -> None:
        """No zone, no instant; and nothing is rounded."""
        assert error_of(Instant, text) == error

    def test_takes_aware_datetimes_only(self) -> None:
        """In Python a datetime needs its zone as well."""
        adapter = TypeAdapter(Instant)
        east = datetime(2026, 3, 1, 8, tzinfo=timezone(timedelta(hours=8)))
        assert adapter.validate_python(east) == datetime(2026, 3, 1, tzinfo=UTC)
        with pytest.raises(ValidationError, match="timezone_required"):
            adapter.validate_python(datetime(2026, 3, 1))  # noqa: DTZ001


class TestJson:
    @pytest.mark.parametrize("text", ["null", "1", "1.5", '"a"', '[1, {"a": [true]}]'])
    def test_takes_any_json(self, text: str) -> None:
        """Any JSON value is taken as it is."""
        assert read(Json, text) == json.loads(text)

    @pytest.mark.parametrize("text", ["NaN", '{"a": [Infinity]}'])
    def test_refuses_what_json_cannot_say(self, text: str) -> None:
        """NaN and infinity are no JSON, however deep they lie."""
        assert error_of(Json, text) == "finite_number"


class TestModel:
    def test_reads_and_writes_every_type(self) -> None:
        """A model's JSON is canonical: read and written again it is the same text."""
        text = (
            '{"order_id":"5","total":"199.98","rate":"1.2300","at":"2026-03-01T00:00:00Z",'
            '"status":"pending","extra":{"a":[1]}}'
        )
        assert Sample.model_validate_json(text).model_dump_json() == text

    def test_refuses_unknown_fields_and_changes(self) -> None:
        """A body is what it says, and stays so."""
        text = '{"order_id":5,"total":1,"rate":1,"at":"2026-03-01T00:00:00Z","status":"pending"}'
        sample = Sample.model_validate_json(text)
        with pytest.raises(ValidationError, match="frozen"):
            sample.order_id = 6
        with pytest.raises(ValidationError, match="extra_forbidden"):
            Sample.model_validate_json(text[:-1] + ',"more":1}')
        with pytest.raises(ValidationError, match="literal_error"):
            Sample.model_validate_json(text.replace("pending", "sold"))

    def test_describes_itself_to_openapi(self) -> None:
        """Ids and amounts are strings in the schema, with a pattern and an example."""
        fields = Sample.model_json_schema()["properties"]
        assert fields["order_id"]["type"] == "string"
        assert fields["total"] == {
            "type": "string",
            "format": "decimal",
            "pattern": r"^-?(0|[1-9][0-9]*)(\.[0-9]{1,2})?$",
            "examples": ["100.00"],
            "title": "Total",
        }
        assert fields["rate"]["examples"] == ["100.0000"]
        assert fields["at"]["format"] == "date-time"
        assert fields["status"]["enum"] == ["pending", "reserved"]
