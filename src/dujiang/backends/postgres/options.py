"""Options of one database: what its URL says besides where it is.

What follows the question mark is ours and taken out, or the driver's and passed on:

    postgresql://user:secret@host:5432/name ? pool_size=10 & statement_timeout=30s & sslmode=require
                                              ours           ours                    the driver's

Several hosts, `a:5432,b:5433`, are one database that moves: hosts.py finds the primary. `target_session_attrs` may say
`read-write` or `primary`, which is what is done anyway.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from dujiang.kernel.errors import Declared
from dujiang.kernel.units import duration_s

SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
TARGETS = ("read-write", "primary")
# The server cuts application_name at 63 bytes, and two names that were cut alike would end each other's sessions.
NAME_BYTES_MAX = 63


@dataclass(frozen=True, kw_only=True)
class Options:
    """The settings of one database; each name may stand in the URL's query. Times are in seconds.

    Attributes:
        pool_size: Connections that write, at most.
        reader_pool_size: Connections that read, at most.
        waiters_max: Callers that may wait for a connection, for each of the two pools.
        wait: The longest wait for a connection of a caller without a deadline.
        connect_timeout: The longest time to make a connection.
        statement_timeout: The longest time of one statement; the server ends it.
        lock_timeout: The longest wait for a lock; the transaction then runs again.
        idle_timeout: A transaction without a statement for so long is ended by the server: a process that stands still
            holds its locks no longer, and whoever waits for one (lock_timeout) gets it before it gives up.
        settle_timeout: The longest time to find out what became of a COMMIT without a reply.
    """

    pool_size: int = 10
    reader_pool_size: int = 10
    waiters_max: int = 1000
    wait: float = 30.0
    connect_timeout: float = 5.0
    statement_timeout: float = 30.0
    lock_timeout: float = 10.0
    idle_timeout: float = 5.0
    settle_timeout: float = 10.0


@dataclass(frozen=True)
class Host:
    """One server.

    Attributes:
        dsn: For the driver; holds the password.
        shown: `host:port` as the URL has it, for people.
    """

    dsn: str
    shown: str

    def __repr__(self) -> str:
        return self.shown


@dataclass(frozen=True, kw_only=True)
class Address:
    """A database's URL taken apart.

    Attributes:
        dsn: For the driver, with every host; holds the password.
        hosts: The servers, one by one.
        shown: For people; without the password and without a query.
        options: What the query said of ours.
    """

    dsn: str
    hosts: tuple[Host, ...]
    shown: str
    options: Options

    def __repr__(self) -> str:
        return f"<Address {self.shown}>"


def address(url: str) -> Address:
    """Take a URL apart. Raises Declared when an option has no meaning."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise refused(f"the scheme {parts.scheme!r} is not PostgreSQL's", "write postgresql://user@host:5432/name")
    kinds = {field.name: str(field.type) for field in fields(Options)}
    ours: dict[str, Any] = {}
    theirs: list[tuple[str, str]] = []
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name in kinds:
            ours[name] = option(name, text, whole=kinds[name] == "int")
        elif name == "target_session_attrs":
            check_target(text)
        elif name == "host" and "," in text:
            raise refused(
                "several hosts stand in the option `host`", "write them as postgresql://user@a:5432,b:5432/name"
            )
        else:
            theirs.append((name, text))
    login, at, host = parts.netloc.rpartition("@")
    user = f"{parts.username}@" if parts.username else ""
    places = host.split(",")
    moving = [("target_session_attrs", "primary")] if len(places) > 1 else []
    return Address(
        dsn=urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(theirs + moving), "")),
        hosts=tuple(
            Host(urlunsplit(("postgresql", login + at + place, parts.path, urlencode(theirs), "")), place or "default")
            for place in places
        ),
        shown=f"postgresql://{user}{host}{parts.path}",
        options=Options(**ours),
    )


def check_target(text: str) -> None:
    """Refuse what would let a server in that takes no writes."""
    if text not in TARGETS:
        what = f"target_session_attrs={text!r} names servers that take no writes"
        raise refused(what, "leave it out: of several hosts the one that takes writes is used")


def option(name: str, text: str, *, whole: bool) -> float:
    """The value of one option: a whole number, or a duration in seconds."""
    try:
        value = int(text) if whole else duration_s(text)
    except ValueError as cause:
        needs = "a whole number" if whole else "a duration such as 30s"
        raise refused(f"{name}={text!r} is not {needs}", f"write {needs}") from cause
    if value <= 0:
        raise refused(f"{name}={text!r} is not above zero", "write a value above zero")
    return value


def refused(what: str, how: str) -> Declared:
    """The error of a URL that says something without meaning."""
    return Declared(where="the setting `database`", what=what, how=how)


def session_name(node_name: str) -> str:
    """The application_name of a node's connections; as unique as the node's name, whatever its length."""
    name = f"dujiang/{node_name}"
    if name.isascii() and name.isprintable() and len(name) <= NAME_BYTES_MAX:
        return name
    digest = hashlib.sha256(node_name.encode()).hexdigest()[:24]
    readable = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in name)
    return f"{readable[: NAME_BYTES_MAX - 25]}-{digest}"
