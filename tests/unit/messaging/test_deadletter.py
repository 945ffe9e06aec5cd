"""Dead letters: what is written about an error, whatever the error is."""

from __future__ import annotations

import pytest

from dujiang.messaging.deadletter import fingerprint_of, renewed, text_of
from dujiang.messaging.message import headers_of, received_text


class Mute(Exception):
    """An error whose text cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [ValueError("\ud800"), ValueError("a\x00b"), ValueError("x" * 9000), Mute()])
def test_the_text_of_any_error_can_be_stored(error: Exception) -> None:
    """Half surrogates, NUL, great length and errors without a text become a short text that has an encoding."""
    text = text_of(error)

    assert text.startswith(type(error).__name__)
    assert "\x00" not in text
    assert len(text.encode()) <= 8000


def test_errors_at_one_place_have_one_fingerprint() -> None:
    """The class and the place count, the message does not."""

    def failed(number: int) -> Exception:
        try:
            raise ValueError(number)
        except ValueError as error:
            return error

    assert fingerprint_of("attempts", failed(1)) == fingerprint_of("attempts", failed(2))
    assert fingerprint_of("attempts", failed(1)) != fingerprint_of("attempts", KeyError(1))
    assert fingerprint_of("attempts", failed(1)) != fingerprint_of("age", failed(1))


@pytest.mark.parametrize("headers", [{}, {"tenant": "水利"}, {"traceparent": '"'}, {"strange": "\ud800\x00"}])
def test_received_headers_come_back_as_they_went(headers: dict[str, str]) -> None:
    """Whatever stands in them, headers survive being stored, and their text has an encoding."""
    assert headers_of(received_text(headers).encode().decode()) == headers


def test_a_renewed_id_is_of_now_and_one_for_one_letter() -> None:
    """Two forced replays at one instant, of whom one wins, would write the same id."""
    assert renewed(b"x" * 16, 1_000_000) == renewed(b"x" * 16, 1_000_000) != renewed(b"y" * 16, 1_000_000)
