"""Names: which fields name something, and which of them name the same thing.

    where it stands                                   stem
    answer of POST /api/v1/orders: `order_id`         order
    answer of POST /api/v1/orders: `id`               order      a bare `id` belongs to what holds it
    path /orders/{id}, body `orderId`, `order_ids`    order
    body `from_account_id`                            from_account, which ends like `account`

Two fields name the same thing when their stems are equal, or when the one ends with the other as a whole word. A wrong
guess costs an invalid or refused request and nothing else: what is filled in is validated before it is sent.
"""

from __future__ import annotations

import re
from functools import lru_cache

HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
WORDS = re.compile(r"[^a-z0-9]+")

# The last word of a field that names something.
KEY_WORDS = frozenset(
    "id uuid guid pk key sku slug code token number no ref reference handle username email".split(),
)
# Alone they say nothing; what holds the field says what they name.
BARE = frozenset("id uuid guid pk key".split())
ENDINGS = ("_id", "_uuid", "_guid", "_pk")
# Names of lists that only wrap what an address answers with.
WRAPPERS = frozenset("items results data rows entries list page values content".split())

# Of an app; answers name the same fields again and again.
NAMES_KEPT = 10_000


@lru_cache(maxsize=NAMES_KEPT)
def snake(name: str) -> str:
    """A name in lower-case words, joined by `_`."""
    return WORDS.sub("_", HUMP.sub("_", name).lower()).strip("_")


def singular(name: str) -> str:
    """The name of one member of what has this name."""
    name = snake(name)
    if name.endswith("ies") and len(name) > 4:
        return f"{name[:-3]}y"
    if name.endswith(("sses", "xes", "zes", "ches", "shes")):
        return name[:-2]
    if name.endswith("s") and not name.endswith(("ss", "us", "is")):
        return name[:-1]
    return name


@lru_cache(maxsize=NAMES_KEPT)
def stem(name: str, inside: str = "") -> str:
    """What a field names.

    Args:
        name: Of the field.
        inside: What holds it, in the singular: `order` for the answer of `/orders`; empty when nobody knows.
    """
    plain = snake(name)
    if plain in BARE:
        return inside or plain
    for ending in ENDINGS:
        if plain.endswith(ending):
            return plain.removesuffix(ending)
    return plain


def is_key(name: str) -> bool:
    """Whether a field of this name names something, by its last word."""
    return snake(name).rpartition("_")[2] in KEY_WORDS


def same(wanted: str, known: str) -> bool:
    """Whether a value of the stem `known` may stand where `wanted` is asked for."""
    return wanted == known or wanted.endswith(f"_{known}")


def resource(path: str, until: str = "") -> str:
    """What an address is about: its last fixed segment, in the singular; `/orders/{order_id}` is about an order.

    Args:
        path: A path with `{name}` for parameters.
        until: Look only at what stands before this parameter.
    """
    segments = path.strip("/").split("/")
    if until:
        places = [place for place, text in enumerate(segments) if f"{{{until}" in text]
        segments = segments[: places[0]] if places else segments
    fixed = [text for text in segments if text and "{" not in text]
    return singular(fixed[-1]) if fixed else ""
