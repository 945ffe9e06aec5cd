"""The strict decoder, the encoder and the fingerprint."""

import json
import pickle
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AliasPath, BaseModel, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from dujiang.kernel import codec, strict
from dujiang.kernel.codec import BadBody, Codec, InvalidBody, WrongAnswer, check, decode, encode, fingerprint
from dujiang.kernel.problem import OF_PYDANTIC, code_of


class Part(BaseModel):
    """Silent about strictness."""

    size: int


class Open(BaseModel):
    """Takes what it gets."""

    model_config = ConfigDict(extra="allow", strict=False)

    size: int


class Deaf(BaseModel):
    """Ignores unknown fields, and is strict like all others."""

    model_config = ConfigDict(extra="ignore")

    size: int


class Whole(BaseModel):
    """One of each, and itself."""

    part: Part
    open: Open | None = None
    deaf: Deaf | None = None
    lax: Annotated[int, Field(strict=False)] = 0
    config: dict[str, Part] = {}
    wholes: "list[Whole]" = []


class Typed(TypedDict):
    """A typed dictionary."""

    size: int


class Flat(BaseModel):
    """Has a place for everything, so that only the strict decoder can refuse."""

    model_config = ConfigDict(extra="allow")

    a: Any = None
    b: float | None = None


class Scalars(BaseModel):
    """Takes nothing with a fraction and nothing nested, so the bytes are hardly looked at before it does."""

    a: str | None = None
    b: int = 0
    c: bool = False


class Twice(BaseModel):
    """Two fields that read one key."""

    first: int = Field(validation_alias=AliasPath("x", 0))
    second: int = Field(validation_alias=AliasPath("x", 1))


@dataclass
class Plain:
    """A dataclass."""

    size: int


class Money(BaseModel):
    """Has an alias."""

    minor: int = Field(alias="minorUnits")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)
ANYTHING = TypeAdapter(Any)


def refused(body: bytes, source: Any = Whole) -> InvalidBody:
    """The error that a body gets."""
    with pytest.raises(InvalidBody) as caught:
        Codec(source).decode(body)
    return caught.value


def error_of(adapter: TypeAdapter[Any], body: bytes) -> BadBody | InvalidBody | None:
    """The error that a body gets, if any."""
    try:
        decode(adapter, body)
    except (BadBody, InvalidBody) as error:
        return error
    return None


class TestStrictness:
    @pytest.mark.parametrize("source", [Part, Typed, Plain, list[Part], dict[str, Part], Part | None])
    def test_a_silent_type_is_strict_and_closed(self, source: Any) -> None:
        """Models, typed dictionaries and dataclasses that say nothing refuse coercion and unknown fields, at any depth."""
        for body, code in ((b'{"size": "1"}', "wrong_type"), (b'{"size": 1, "x": 2}', "unknown_field")):
            wrapped = {list[Part]: b"[%s]" % body, dict[str, Part]: b'{"k": %s}' % body}.get(source, body)

            assert refused(wrapped, TypeAdapter(source)).code == code

    def test_a_nested_model_keeps_its_own_config(self) -> None:
        """A model or field that says otherwise is obeyed, and its neighbours stay strict and closed."""
        body = b'{"part": {"size": 1}, "open": {"size": "2", "x": 3}, "deaf": {"size": 4, "x": 5}, "lax": "6"}'

        whole = Codec(Whole).decode(body)

        assert whole.open == Open(size=2, x=3)  # type: ignore[call-arg]
        assert (whole.deaf, whole.lax) == (Deaf(size=4), 6)
        assert type(whole.part) is Part
        assert refused(b'{"part": {"size": "1"}, "open": {"size": "2"}}').code == "wrong_type"
        assert refused(b'{"part": {"size": 1, "x": 1}}').problems[0].path == "/part/x"
        assert refused(b'{"part": {"size": 1}, "deaf": {"size": "1"}}').problems[0].path == "/deaf/size"
        assert refused(b'{"part": {"size": 1}, "x": 1}').problems[0].path == "/x"
        assert refused(b'{"part": {"size": 1}, "config": {"a": {"size": 1, "x": 1}}}').problems[0].path == "/config/a/x"

    def test_a_typed_dictionary_keeps_its_own_config(self) -> None:
        """A typed dictionary that says that it is open is open."""

        @with_config(ConfigDict(extra="allow"))
        class OpenTyped(TypedDict):
            size: int

        assert decode(TypeAdapter(OpenTyped), b'{"size": 1, "x": 2}') == {"size": 1, "x": 2}
        assert refused(b'{"size": "1"}', TypeAdapter(OpenTyped)).code == "wrong_type"

    def test_a_recursive_model_is_strict_below(self) -> None:
        """What is said of a model holds where it contains itself."""
        error = refused(b'{"part": {"size": 1}, "wholes": [{"part": {"size": 1, "x": 1}}]}')

        assert [(each.path, each.code) for each in error.problems] == [("/wholes/0/part/x", "unknown_field")]

    def test_pointers_skip_the_names_of_union_branches(self) -> None:
        """A pointer leads into the document that was sent, not into Pydantic's union."""
        error = refused(b'{"part": "x"}', TypeAdapter(dict[str, int | Part]))

        assert {each.path for each in error.problems} == {"/part"}

    def test_a_thousand_problems_are_a_hundred_and_a_number(self) -> None:
        """The list ends after 100 problems; the count is whole."""
        error = refused(b"[%s]" % b",".join([b'"x"'] * 1000), TypeAdapter(list[int]))

        assert (len(error.problems), error.count) == (100, 1000)
        assert "and 997 more" in error.detail

    def test_a_flood_of_problems_is_one(self) -> None:
        """More than 1,000 problems are not described one by one: that would stop the loop for a second."""
        error = refused(b"[%s]" % b",".join([b'"x"'] * 1001), TypeAdapter(list[int]))

        assert (error.code, error.count, len(error.problems)) == ("too_many_problems", 1001, 1)
        assert "1001 values are wrong" in error.detail

    def test_errors_survive_pickle(self) -> None:
        """An error of one process can be read in another, code included."""
        error = pickle.loads(pickle.dumps(refused(b'{"part": {"size": "1"}}')))

        assert (error.code, error.problems[0].path) == ("wrong_type", "/part/size")

    def test_every_error_type_of_pydantic_has_a_code(self) -> None:
        """Whatever JSON can provoke has a word of its own; the rest are mistakes in models and calls."""
        left = {kind for kind in OF_PYDANTIC if code_of(kind) == "invalid"}

        assert not {
            kind for kind in left if kind.startswith(("int_", "string_", "date", "decimal_", "url", "uuid", "list"))
        }


class TestLint:
    @given(JSON_VALUES)
    @settings(max_examples=200, deadline=None)
    def test_json_without_the_forbidden_passes(self, value: Any) -> None:
        """What Python writes as JSON, and holds nothing forbidden, is accepted and read as the same value."""
        body = json.dumps(value).encode()
        forbidden = "\\u0000" in body.decode() or any(0xD800 <= ord(sign) < 0xE000 for sign in str(json.loads(body)))

        if not forbidden:
            assert strict.parse(body) == json.loads(body)

    @given(st.binary(max_size=300) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
    @settings(max_examples=500, deadline=None)
    def test_no_bytes_lead_to_another_error(self, body: bytes) -> None:
        """Arbitrary bytes are accepted, or refused with one of the two errors, whose sentences can be written."""
        for adapter in (ANYTHING, TypeAdapter(Whole), TypeAdapter(list[Part | int | str])):
            error = error_of(adapter, body)
            if error is not None:
                assert str(error)
                assert error.hint
                assert error.http_status() in {400, 422}

    @given(
        st.lists(
            st.sampled_from(
                [
                    b"{",
                    b"}",
                    b"[",
                    b"]",
                    b'"',
                    b":",
                    b",",
                    b"1e",
                    b"999",
                    b"\\u0000",
                    b"\\ud800",
                    b"\\",
                    b"NaN",
                    b"\n",
                    b"\xff",
                    b"\xef\xbb\xbf",
                    b"a",
                    b" ",
                    b"-",
                    b"0.",
                    b"Infinity",
                ]
            )
        ).map(b"".join)
    )
    @settings(max_examples=1000, deadline=None)
    def test_no_mixture_of_tokens_leads_to_another_error(self, body: bytes) -> None:
        """The same for mixtures of what JSON and its abuses are made of."""
        with suppress(BadBody):
            check(body)

    @given(JSON_VALUES)
    @settings(max_examples=300, deadline=None)
    def test_a_quick_no_is_never_wrong(self, value: Any) -> None:
        """A document that the walk refuses is never called harmless by the look at the bytes."""
        body = json.dumps(value).encode()
        with suppress(strict.BadBody):
            strict.walk(value, 1)
            return
        assert strict.risky(body) or strict.too_deep(value)

    @pytest.mark.parametrize("number", [b"1e309", b"-1E+309", b"1" * 310 + b".5", b"0.1e400", b"1e0000000000999"])
    @pytest.mark.parametrize("around", [b"%s", b"[%s]", b'{"a":%s}', b"[1,%s ,2]", b"\t%s\n", b"[[%s\r\n]]"])
    def test_overflow_is_found_wherever_a_number_may_end(self, number: bytes, around: bytes) -> None:
        """Infinity never enters, whatever follows the number."""
        with pytest.raises(strict.BadNumber):
            check(around % number)

    def test_the_limits_are_what_passes(self) -> None:
        """Each limit itself is allowed."""
        check(b"[" * 32 + b"]" * 32)
        check(b'"%s"' % (b"x" * 65_536))
        check(b"{%s}" % b",".join(b'"%d":1' % number for number in range(1000)))
        check(b"1" * 4300)
        check(b'["%s"]' % (b"1" * 5000))
        check(b"[1.7976931348623157e308, 1e-999, -0.0]")


MEMBERS = st.lists(
    st.tuples(
        st.sampled_from([b'"a"', b'"b"', b'"c:"', b'"\\u0061"']),
        st.sampled_from(
            [
                b"1",
                b"-0.5",
                b"1e999",
                b"NaN",
                b"-Infinity",
                b'"t:"',
                b'"\\u0000"',
                b'"\\ud800"',
                b"[]",
                b'{"a":1,"a":2}',
                b"[" * 33 + b"]" * 33,
                b"1" * 4301,
                b"null",
                b"",
            ]
        ),
    ),
    max_size=4,
)


class TestFlatBodies:
    """Bodies that are validated without being parsed first."""

    @given(MEMBERS)
    @settings(max_examples=1000, deadline=None)
    def test_the_short_way_refuses_what_the_long_one_refuses(self, members: list[tuple[bytes, bytes]]) -> None:
        """A flat model accepts exactly the documents that the strict parser accepts, with the same values."""
        body = b"{%s}" % b",".join(b"%s:%s" % member for member in members)
        flat = Codec(Flat)
        document: Any = None
        refused: BadBody | None = None
        try:
            document = strict.parse(body)
        except BadBody as error:
            refused = error

        if refused is not None:
            with pytest.raises(type(refused)):
                flat.decode(body)
        elif error_of(TypeAdapter(Flat), body) is None:
            assert flat.decode(body) == Flat.model_validate(document)

    @pytest.mark.parametrize("flat", [Codec(Scalars), Codec(Deaf)], ids=repr)
    @given(members=MEMBERS)
    @settings(max_examples=300, deadline=None)
    def test_a_type_without_fractions_may_be_asked_first(
        self, flat: Codec[Any], members: list[tuple[bytes, bytes]]
    ) -> None:
        """What the strict parser refuses is refused with its error, though the type saw the bytes before it."""
        body = b"{%s}" % b",".join(b"%s:%s" % member for member in members)
        refused: BadBody | None = None
        try:
            strict.parse(body)
        except BadBody as error:
            refused = error
        if refused is not None:
            with pytest.raises(type(refused)):
                flat.decode(body)

    def test_two_fields_of_one_key_do_not_hide_a_second_key(self) -> None:
        """Where fields outnumber keys, keys are not counted by them."""
        assert Codec(Twice).decode(b'{"x":[1,2]}') == Twice.model_validate({"x": [1, 2]})
        with pytest.raises(strict.DuplicateKey):
            Codec(Twice).decode(b'{"x":[1,2],"x":[3,4]}')


class TestEncode:
    def test_names_are_aliases_and_values_are_checked(self) -> None:
        """An answer has the names of OpenAPI; an answer of another type is our error, not a wrong document."""
        adapter: TypeAdapter[Any] = TypeAdapter(Money)

        assert encode(adapter, Money(minorUnits=5)) == b'{"minorUnits":5}'
        with pytest.raises(WrongAnswer) as caught:
            encode(adapter, {"minor": 5})
        assert caught.value.http_status() == 500

    @pytest.mark.parametrize("later", [None, "ignore"])
    def test_values_are_checked_by_a_filter_too(self, later: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a program that set our filter a wrong answer raises, also where somebody ignores all warnings afterwards."""
        monkeypatch.setattr(codec, "raising", None)
        wrong = Part.model_construct(size="large")
        with warnings.catch_warnings():
            codec.raise_warnings()
            if later:
                warnings.simplefilter(later)

            with pytest.raises(WrongAnswer, match="Part"):
                encode(TypeAdapter(Part), wrong)
            assert encode(TypeAdapter(Part), Part(size=1)) == b'{"size":1}'


class TestFingerprint:
    def test_order_and_spelling_do_not_matter(self) -> None:
        """Key order, whitespace, escapes and the spelling of a fraction leave the fingerprint as it is."""
        first = fingerprint("POST", "/a", b"", b'{"a": 1, "b": {"x": 0.5, "y": "\xc3\xa9"}}')

        assert first == fingerprint("POST", "/a", b"", b'{"b":{"y":"\\u00e9","x":5e-1},"a":1}')
        assert len(first) == 32

    def test_every_part_of_the_request_matters(self) -> None:
        """Another method, path, query or body is another request; so is a number with digits that a double would lose."""
        asked = [
            ("POST", "/a", b"", b'{"a": 0.1}'),
            ("PUT", "/a", b"", b'{"a": 0.1}'),
            ("POST", "/b", b"", b'{"a": 0.1}'),
            ("POST", "/a", b"x=1", b'{"a": 0.1}'),
            ("POST", "/a", b"", b'{"a": 0.10000000000000000001}'),
            ("POST", "/a", b"", b'{"a": "0.1"}'),
            ("POST", "/a", b"", b'{"a": 1}'),
            ("POST", "/a", b"", b'{"a": 1.0}'),
            ("POST", "/a", b"", b'{"a": [1]}'),
            ("POST", "/a", b"", b"null"),
            ("POST", "/a", b"", b""),
        ]

        assert len({fingerprint(*each) for each in asked}) == len(asked)

    def test_a_body_that_is_not_json_is_refused(self) -> None:
        """A fingerprint is made of a document, never of broken bytes."""
        with pytest.raises(strict.BadJson):
            fingerprint("POST", "/a", b"", b"{")
