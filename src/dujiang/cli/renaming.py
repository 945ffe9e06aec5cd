"""Renaming: the source of a shipped system as that of a system with another name.

What carries the system's own name is renamed, wherever Python says that it is a name; what belongs to its domain is kept.

    renamed, from shop to bakery                              kept
    dujiang.systems.shop.orders     bakery.orders             class OrderPlaced, its stored name with it
    shop = Module("shop"), @shop.   bakery = Module(...)      POST /api/v1/orders
    "shop_order", "shop:app"        "bakery_order", ...       code = "out_of_stock"
    /_dj/shop/stock                 /_dj/bakery/stock         "the shop has no {sku}", comments, docstrings
    App(title="Shop")               App(title="Bakery")

The text is read as Python's own tokens: an identifier is renamed only where it is one, a string only where the name is the
whole of it or a part that stands between the signs of a path, a table or a dotted name, and prose only in dotted names of
modules and apps. Blind replacement was refused: it makes `bakeryping` of `shopping`, and breaks the first system whose name is a
word of its own domain. An event keeps its class name, which is its stored name, because it is a fact of the domain and not of
the package; for the same reason two copies do not run on one database.

A name that the system itself uses for something else would make two things one; `names_in` tells them all beforehand.

tests/cli/test_new.py runs the copies' own tests under the new name, on both databases.
"""

from __future__ import annotations

import io
import keyword
import re
import token
import tokenize
from dataclasses import dataclass

SYSTEMS = "dujiang.systems"
# A token of an f-string's text, on Pythons that take f-strings apart.
TEXT_OF_F = getattr(token, "FSTRING_MIDDLE", -1)


@dataclass(frozen=True)
class Renaming:
    """From one system's name to another's.

    Attributes:
        old: The shipped system: `shop`.
        new: The new package: `bakery`.
    """

    old: str
    new: str

    def source(self, text: str) -> str:
        """A Python file with the new name."""
        places: list[tuple[int, int, str, str]] = []
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        for place, each in enumerate(tokens):
            replaced = self.replaced(tokens, place)
            if replaced != each.string:
                # A string over several lines is replaced line by line: it has as many lines as before.
                for number, (old, new) in enumerate(
                    zip(each.string.split("\n"), replaced.split("\n"), strict=True), start=each.start[0]
                ):
                    start = each.start[1] if number == each.start[0] else 0
                    places.append((number, start, old, new))
        lines = text.split("\n")
        for number, start, old, new in sorted(places, reverse=True):
            line = lines[number - 1]
            # Of an f-string's text with doubled braces Python tells another place than that in the file: it stays as it is.
            if line.startswith(old, start):
                lines[number - 1] = line[:start] + new + line[start + len(old) :]
        return self.dotted("\n".join(lines))

    def replaced(self, tokens: list[tokenize.TokenInfo], place: int) -> str:
        """One token with the new name; dotted names of modules are done for the whole file at the end."""
        each = tokens[place]
        if each.type == token.NAME and each.string == self.old:
            before = tokens[place - 1].string if place else ""
            return each.string if before == "." else self.new
        if each.type == token.STRING and not is_prose(tokens, place):
            return self.text(each.string)
        return self.text(each.string) if each.type == TEXT_OF_F else each.string

    def text(self, literal: str) -> str:
        """A string literal with the new name where the old one is a part of a path, a table or a dotted name."""
        quoted = re.fullmatch(r"""([A-Za-z]*)("{3}|'{3}|"|')(.*)\2""", literal, re.DOTALL)
        if quoted is None:
            return self.inside(literal)
        if "f" not in quoted[1].lower():
            return f"{quoted[1]}{quoted[2]}{self.inside(quoted[3])}{quoted[2]}"
        # A Python that hands an f-string over whole: its expressions are code, the rest is text.
        pieces = re.split(r"(\{[^{}]*\})", quoted[3])
        code = re.compile(rf"(?<![\w.]){self.old}(?!\w)")
        done = (code.sub(self.new, each) if each.startswith("{") else self.inside(each) for each in pieces)
        return f"{quoted[1]}{quoted[2]}{''.join(done)}{quoted[2]}"

    def inside(self, text: str) -> str:
        """What stands between quotes."""
        if text == self.old:
            return self.new
        if text == self.old.capitalize():
            return self.new.replace("_", " ").capitalize()
        text = re.sub(rf"(?<![\w.]){self.old}(?=_\w)", self.new, text)
        text = re.sub(rf"(?<=/){self.old}(?=/|$)", self.new, text)
        return re.sub(rf"(?<![\w./]){self.old}(?=[:.]\w)", self.new, text)

    def dotted(self, text: str) -> str:
        """The text with the dotted names of the system's modules, in imports, strings and prose alike."""
        return re.sub(rf"\b{re.escape(SYSTEMS)}\.{self.old}\b", self.new, text)

    def data(self, text: str) -> str:
        """A JSON file with the new name: in its strings, as in those of Python."""
        return re.sub(r'(?<=")[^"\\\n]*(?=")', lambda found: self.inside(found[0]), text)

    def path(self, name: str) -> str:
        """The name of a file."""
        return re.sub(rf"(?<![^\W_]){self.old}(?![^\W_])", self.new, name)


def is_prose(tokens: list[tokenize.TokenInfo], place: int) -> bool:
    """Whether a string is a statement of its own: a docstring."""
    around = (token.NEWLINE, token.NL, token.INDENT, token.DEDENT, token.COMMENT, token.ENCODING)
    before = tokens[place - 1].type if place else token.ENCODING
    return before in around and tokens[place + 1].type in (token.NEWLINE, token.NL, token.ENDMARKER)


def names_in(text: str) -> set[str]:
    """Every identifier of a Python file that is no keyword."""
    found = tokenize.generate_tokens(io.StringIO(text).readline)
    return {each.string for each in found if each.type == token.NAME and not keyword.iskeyword(each.string)}
