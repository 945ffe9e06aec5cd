"""Strategies: JSON Schema to Hypothesis strategies; a program of its own that reads tasks and writes values.

    stdin   {"tasks": [{"name", "schema", "refs", "seed", "mode", "count"}]}
    stdout  {"values": {name: [value, ...]}, "version": "6.1..."}

Why a program of its own, when everything else of a drill is one process: Hypothesis mixes constants that it finds in the
modules loaded at that moment into what it draws, so one seed gives other values as soon as another module is loaded; and
it looks after `random` and the garbage collector, which belong to the simulation. This program loads nothing but
Hypothesis, always under one hash seed, and so gives one answer to one question on one version. Cost: about 0.6 s for each
drill, once. Refused: drawing every value from `booleans()`, which would leave of Hypothesis a slow source of bits.
tests/unit/drill/workload/test_pool.py asks in two processes.

Two modes. `plain` keeps to examples and to few, small values, so that requests succeed and meet on the same rows; `limit`
goes to the ends of what the type takes. What is drawn need not be valid: validators of the application's own are applied
by whoever asked (pool.py).
"""

from __future__ import annotations

import json
import math
import re
import sys
from typing import TYPE_CHECKING, Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Mapping

WORDS = ("alpha", "beta", "gamma")
SMALL = (1, 2, 3, 5, 10)
WIDE = (0, -1, 1, 2, 7, 10, 100, 1000, 1_000_000, 2**31 - 1)
TEXT_MAX = 48
ASCII = "".join(map(chr, range(0x20, 0x7F)))
# Written out, because a table of all of Unicode takes Hypothesis two seconds to make: letters with accents, other scripts,
# right to left, a combining mark, ideographs inside and outside the basic plane, an emoji.
TEXT = (
    ASCII + "".join(map(chr, (*range(0xA1, 0xAD), *range(0xAE, 0x100)))) + "ğŁžΩδЖяשלםعربिक्ाไทย漢字かな한글\u0301𠮷😀"
)
LIST_MAX = 6
DEPTH_MAX = 6
# Pydantic writes this for a Decimal that may also come as text.
DECIMAL = re.compile(r"\^\(\?!\^\[-\+\.\]\*\$\)")

# What a format looks like: small and plain first, then what surprises.
FORMATS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "date-time": (
        ("2026-03-01T08:00:00Z", "2026-03-02T09:30:00Z", "2026-04-01T00:00:00Z"),
        ("1970-01-01T00:00:00Z", "2000-02-29T23:59:59.999999Z", "2099-12-31T23:59:59+08:00", "2026-03-01T08:00:00"),
    ),
    "date": (("2026-03-01", "2026-03-02", "2026-04-01"), ("1970-01-01", "2000-02-29", "2099-12-31")),
    "time": (("08:00:00", "09:30:00"), ("00:00:00", "23:59:59.999999", "12:00:00Z")),
    "duration": (("PT1M", "PT1H"), ("PT0S", "P1D", "-PT1S", "P365D")),
    "email": (("a@example.com", "b@example.com"), ("first.last+tag@mail.example.org",)),
    "uri": (("https://example.com/a", "https://example.com/b"), ("https://example.com:8443/a?b=c#d",)),
    "ipv4": (("192.0.2.1", "192.0.2.2"), ("0.0.0.0", "255.255.255.255")),  # noqa: S104  (a value, not a place to bind)
    "ipv6": (("2001:db8::1", "2001:db8::2"), ("::", "::1")),
    "ipv4network": (("192.0.2.0/24",), ("0.0.0.0/0",)),
    "ipv6network": (("2001:db8::/32",), ("::/0",)),
    "hostname": (("a.example.com", "b.example.com"), ("localhost",)),
    "json-string": (('{"a":1}', "[]"), ('""', "null")),
    "binary": (("YQ==", "Yg=="), ("",)),
    "base64url": (("YQ==", "Yg=="), ("",)),
}
UUID = "0190b8f2-7c00-{}000-8000-00000000000{}"
UUIDS = {f"uuid{version}": version for version in (1, 3, 4, 5, 6, 7, 8)} | {"uuid": 7}

Node = Any  # a JSON Schema: a dictionary, or True


class Strategies:
    """Strategies for the schemas of one task.

    Args:
        refs: Schemas by reference.
        plain: The mode.
    """

    def __init__(self, refs: Mapping[str, Node], *, plain: bool) -> None:
        self._refs = refs
        self._plain = plain
        self._made: dict[str, st.SearchStrategy[Any]] = {}

    def of(self, node: Node) -> st.SearchStrategy[Any]:
        """The strategy of one schema."""
        if not isinstance(node, dict):
            return anything()
        if "$ref" in node:
            return self._exampled(node, self._ref(node["$ref"]))
        if "const" in node:
            return st.just(node["const"])
        if "enum" in node:
            return st.sampled_from(node["enum"])
        return self._exampled(node, self._typed(node))

    def _exampled(self, node: Node, typed: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        """Examples instead of, or beside, what the type allows: a whole object leaves room for its parts."""
        examples = node.get("examples")
        if not examples:
            return typed
        if self._plain and not any(isinstance(each, (dict, list)) for each in examples):
            return st.sampled_from(examples)
        return st.one_of(st.sampled_from(examples), typed)

    def _ref(self, ref: str) -> st.SearchStrategy[Any]:
        if ref not in self._made:
            self._made[ref] = st.deferred(lambda: self.of(self._refs.get(ref, True)))
        return self._made[ref]

    def _typed(self, node: Node) -> st.SearchStrategy[Any]:
        for word in ("anyOf", "oneOf"):
            if word in node:
                return self._choice(node[word])
        if "allOf" in node:
            merged: dict[str, Any] = {key: value for key, value in node.items() if key != "allOf"}
            for each in node["allOf"]:
                merged |= self._refs.get(each.get("$ref", ""), each)
            return self.of(merged)
        kind = node.get("type")
        if isinstance(kind, list):
            return self._choice([{**node, "type": each} for each in kind])
        if kind == "object" or "properties" in node:
            return self._object(node)
        if kind == "array" or "items" in node or "prefixItems" in node:
            return self._array(node)
        if kind == "string" or "pattern" in node:
            return self._string(node)
        if kind == "integer":
            return self._integer(node)
        if kind == "number":
            return self._number(node)
        if kind == "boolean":
            return st.booleans()
        return st.none() if kind == "null" else anything()

    def _choice(self, nodes: list[Node]) -> st.SearchStrategy[Any]:
        """One of several; in plain values a number goes before a decimal in text, and null is left out."""
        wanted = nodes
        if self._plain:
            wanted = [each for each in nodes if not (isinstance(each, dict) and each.get("type") == "null")] or nodes
            if len(wanted) > 1:
                wanted = [each for each in wanted if not is_decimal(each)] or wanted
        return st.one_of([self.of(each) for each in wanted])

    def _object(self, node: Node) -> st.SearchStrategy[dict[str, Any]]:
        properties = node.get("properties", {})
        # The tag of a discriminated union may have a default and is wanted all the same.
        required = {name for name, each in properties.items() if isinstance(each, dict) and "const" in each}
        required |= set(node.get("required", ())) & set(properties)
        members = {name: self.of(each) for name, each in properties.items()}
        rest = {name: self._rarely(properties[name]) for name in properties if name not in required}
        more = node.get("additionalProperties")
        patterns = list(node.get("patternProperties", {}).items())

        @st.composite
        def made(draw: st.DrawFn) -> dict[str, Any]:
            found = {}
            for name, member in members.items():
                if name in required or draw(rest[name]):
                    found[name] = draw(member)
            return found

        if properties or (more in (None, False) and not patterns):
            return made()
        least, most = node.get("minProperties", 0), node.get("maxProperties")
        most = least + 3 if most is None else min(most, least + 3)
        names = self.of(node.get("propertyNames") or {"type": "string", "minLength": 1})
        if patterns:
            names, more = self.of({"type": "string", "pattern": patterns[0][0]}), patterns[0][1]
        return st.dictionaries(names, self.of(more), min_size=min(max(least, 1), most), max_size=most)

    def _rarely(self, node: Node) -> st.SearchStrategy[bool]:
        """Whether an optional field is there: seldom, unless its author gave examples."""
        often = not self._plain or (isinstance(node, dict) and self._has_examples(node, 0))
        return st.booleans() if often else st.sampled_from((False, False, False, True))

    def _has_examples(self, node: Node, depth: int) -> bool:
        if not isinstance(node, dict) or depth > DEPTH_MAX:
            return False
        inside = [*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("properties", {}).values()]
        inside += [node.get("items"), self._refs.get(node.get("$ref", ""))]
        return bool(node.get("examples")) or any(self._has_examples(each, depth + 1) for each in inside)

    def _array(self, node: Node) -> st.SearchStrategy[list[Any]]:
        first = [self.of(each) for each in node.get("prefixItems", ())]
        if first and not isinstance(node.get("items"), dict):
            return st.tuples(*first).map(list)
        least, most = node.get("minItems", 0), node.get("maxItems")
        most = least + LIST_MAX if most is None else min(most, least + LIST_MAX)
        if self._plain:
            least, most = min(max(least, 1), most), min(most, max(least, 1) + 1)
        members = self.of(node.get("items", True))
        unique = canonical if node.get("uniqueItems") else None
        return st.lists(members, min_size=least, max_size=most, unique_by=unique)

    # Scalars ----------------------------------------------------------------------------------------------------------

    def _string(self, node: Node) -> st.SearchStrategy[str]:
        form = node.get("format", "")
        if node.get("x-id"):
            return st.sampled_from(("1", "2", "3") if self._plain else ("0", "1", "2", "3", str(2**63 - 1)))
        if form == "decimal" or is_decimal(node):
            return self._decimal(node)
        if form in UUIDS:
            return st.sampled_from([UUID.format(UUIDS[form], place) for place in (1, 2, 3)])
        if form in FORMATS or form.removesuffix("-reference") in FORMATS:
            usual, strange = FORMATS.get(form) or FORMATS["uri"]
            return st.sampled_from(usual if self._plain else (*usual, *strange))
        if "pattern" in node:
            return matching(node)
        least, most = node.get("minLength", 0), node.get("maxLength")
        few = sized(WORDS, least, most)
        if self._plain:
            return st.sampled_from(few)
        longest = max(least, min(TEXT_MAX, most if most is not None else TEXT_MAX))
        text = st.text(TEXT, min_size=least, max_size=longest)
        ends = [few[0], "x" * least, *(["x" * most] if most is not None and most <= 1000 else [])]
        return st.one_of(st.sampled_from(ends), text)

    def _decimal(self, node: Node) -> st.SearchStrategy[str]:
        cents = "." in str(node.get("pattern", ".")).replace("\\.", ".")
        few = ("10.00", "20.00", "99.99") if cents else ("10", "20", "99")
        more = ("0.00", "0.01", "-1.00", "1000000.00") if cents else ("0", "1", "-1", "1000000")
        return st.sampled_from(few if self._plain else (*few, *more))

    def _integer(self, node: Node) -> st.SearchStrategy[int]:
        least, most = bounds(node, 1)
        step = int(node.get("multipleOf", 1)) or 1
        given_least, given_most = least is not None, most is not None
        # Without limits what a column of 32 bits holds, unless the one limit lies beyond.
        low = math.ceil(least) if least is not None else min(-(2**31), math.floor(most or 0) - 1000)
        high = math.floor(most) if most is not None else max(2**31 - 1, low + 1000)
        low, high = -(-low // step), high // step
        fitting = [each for each in SMALL if low <= each <= high] or [*range(low, min(high, low + 2) + 1)]
        if not fitting:
            return st.nothing()
        if self._plain:
            return st.sampled_from([each * step for each in fitting])
        ends = [*([low] if given_least else []), *([high] if given_most else []), *fitting]
        ends += [each for each in WIDE if low <= each <= high]
        near = (max(low, -1000), min(high, 1000))
        middle = st.integers(*near) if near[0] <= near[1] else st.sampled_from(fitting)
        return st.one_of(st.sampled_from(ends), middle).map(lambda each: each * step)

    def _number(self, node: Node) -> st.SearchStrategy[float]:
        least, most = bounds(node, 0)
        step = node.get("multipleOf")
        low = -1e9 if least is None else float(least)
        high = 1e9 if most is None else float(most)
        if step:
            return self._integer({"minimum": low / step, "maximum": high / step}).map(lambda each: each * step)
        open_low, open_high = "exclusiveMinimum" in node, "exclusiveMaximum" in node

        def inside(value: float) -> bool:
            return (low < value or (low == value and not open_low)) and (
                value < high or (value == high and not open_high)
            )

        between = low + (high - low) / 2 if least is not None and most is not None else low + 1
        fitting = [each for each in (1.0, 2.5, 10.0, between) if inside(each)][:3] or [between]
        if self._plain:
            return st.sampled_from(fitting)
        ends = [each for each in (low, high, 0.0, 0.01, -1.0, 1e6) if inside(each)]
        drawn = st.floats(max(low, -1e6), max(low, min(high, 1e6)), allow_nan=False).map(lambda each: round(each, 3))
        return st.one_of(st.sampled_from([*ends, *fitting]), drawn.filter(inside))


def anything() -> st.SearchStrategy[Any]:
    """Any small JSON value."""
    leaves: st.SearchStrategy[Any] = st.sampled_from(({}, "alpha", 1, True, None, 2.5))
    return st.recursive(
        leaves,
        lambda inside: st.one_of(
            st.lists(inside, max_size=2), st.dictionaries(st.sampled_from(WORDS), inside, max_size=2)
        ),
        max_leaves=4,
    )


def is_decimal(node: Node) -> bool:
    """Whether a schema is the text form of Pydantic's own Decimal."""
    return isinstance(node, dict) and DECIMAL.match(str(node.get("pattern", ""))) is not None


def bounds(node: Node, unit: int) -> tuple[float | None, float | None]:
    """The limits of a number; an open one lies `unit` further in."""
    low, high = node.get("minimum"), node.get("maximum")
    if "exclusiveMinimum" in node:
        low = node["exclusiveMinimum"] + unit
    if "exclusiveMaximum" in node:
        high = node["exclusiveMaximum"] - unit
    return low, high


def sized(words: tuple[str, ...], least: int, most: int | None) -> list[str]:
    """Words that are long and short enough, and differ if they can."""
    long = [word.ljust(least, "x") for word in words]
    cut = [word if most is None else word[:most] for word in long]
    return list(dict.fromkeys(cut))


def matching(node: Node) -> st.SearchStrategy[str]:
    """Text of a pattern; text as it comes where Python does not know the pattern, and whoever asked chooses."""
    least, most = node.get("minLength", 0), node.get("maxLength")
    longest = max(least, TEXT_MAX if most is None else most)
    try:
        compiled = re.compile(node["pattern"])
    except re.error:
        return st.sampled_from(sized(WORDS, least, most))
    found = st.from_regex(compiled)
    for alphabet in (ASCII, TEXT):
        narrow = st.from_regex(compiled, alphabet=alphabet)
        try:
            narrow.validate()
        except hypothesis.errors.InvalidArgument:
            continue  # The pattern asks for characters that are not in it.
        found = narrow
        break
    # `$` also stands before a last newline for Python, and only at the end for everybody else.
    return found.map(lambda each: each.removesuffix("\n")).filter(lambda each: least <= len(each) <= longest)


def canonical(value: Any) -> str:
    """One text for equal values."""
    return json.dumps(value, sort_keys=True)


def values(task: Mapping[str, Any]) -> list[Any]:
    """The distinct values of one task, in the order in which they were drawn."""
    strategy = Strategies(task["refs"], plain=task["mode"] == "plain").of(task["schema"])
    found: dict[str, Any] = {}

    @seed(task["seed"])
    @settings(
        max_examples=task["count"],
        database=None,
        deadline=None,
        derandomize=False,  # `seed` says more: it does not depend on the text of this function.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(strategy)
    def collect(value: Any) -> None:
        found.setdefault(canonical(value), value)

    try:
        collect()
    except (hypothesis.errors.Unsatisfiable, hypothesis.errors.InvalidArgument):
        return []
    return list(found.values())


def main() -> None:
    """Answer the tasks on stdin."""
    tasks = json.load(sys.stdin)["tasks"]
    answer = {task["name"]: values(task) for task in tasks}
    json.dump({"values": answer, "version": hypothesis.__version__}, sys.stdout)


if __name__ == "__main__":
    main()
