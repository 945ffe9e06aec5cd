"""Options: what the URL of a Redis says."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Mapping

PORT = 6379
TIMEOUT_S, CONNECT_S = 0.05, 1.0
FIRST_MIB = 64
PREFIX_MAX = 100


@dataclass(eq=False, kw_only=True)
class RedisOption(DujiangError):
    """An option in the URL of a Redis has a value that means nothing."""

    code = "redis_option"
    move = "fix"
    says = "{name}={value} in the URL of a Redis is {what}"
    cure = "{how}"

    name: str
    value: str
    what: str
    how: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a URL says.

    Attributes:
        host: The server.
        port: Its port.
        number: Of the database inside it.
        user: Who we are; empty = whom the server takes a bare password for.
        password: Empty = none is sent.
        tls: How the connection is encrypted; None = not.
        prefix: Stands before every key.
        timeout_s: How long one command may take.
        connect_timeout_s: How long connecting may take.
        first_mib: What the first level, in the process itself, may take.
    """

    host: str
    port: int
    number: int
    user: str
    password: str
    tls: ssl.SSLContext | None
    prefix: str
    timeout_s: float
    connect_timeout_s: float
    first_mib: str

    @property
    def shown(self) -> str:
        """The server, without a secret."""
        return f"redis{'s' if self.tls else ''}://{self.host}:{self.port}/{self.number}"


def options_of(url: str) -> Options:
    """Read `redis://user:password@host:6379/0?timeout=0.05`. Raises RedisOption."""
    parts = urlsplit(url)
    said = dict(parse_qsl(parts.query, keep_blank_values=True))
    number, prefix = parts.path.strip("/") or "0", said.get("prefix", "dj")
    if not (number.isascii() and number.isdigit()) or len(number) > 6:
        raise RedisOption(name="database", value=number, what="no number", how="write the number after the host: .../0")
    if not (prefix.isascii() and prefix.replace("-", "").replace("_", "").isalnum()) or len(prefix) > PREFIX_MAX:
        how = f"use letters, digits, - and _, at most {PREFIX_MAX}"
        raise RedisOption(name="prefix", value=prefix, what="no prefix", how=how)
    return Options(
        host=parts.hostname or "localhost",
        port=parts.port or PORT,
        number=int(number),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        tls=tls_of(said) if parts.scheme == "rediss" else None,
        prefix=prefix,
        timeout_s=seconds(said, "timeout", TIMEOUT_S),
        connect_timeout_s=seconds(said, "connect_timeout", CONNECT_S),
        first_mib=said.get("max_mib", str(FIRST_MIB)),
    )


def seconds(said: Mapping[str, str], name: str, default: float) -> float:
    """An option that is a time, above 0 and at most a minute."""
    text = said.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 60:
        raise RedisOption(name=name, value=text, what="no time", how="write seconds, above 0 and at most 60")
    return value


def tls_of(said: Mapping[str, str]) -> ssl.SSLContext:
    """The context of an encrypted connection; the server's certificate and name are always checked."""
    try:
        context = ssl.create_default_context(cafile=said.get("cafile"), capath=said.get("capath"))
        if "certfile" in said:
            context.load_cert_chain(said["certfile"], said.get("keyfile"))
    except (OSError, ssl.SSLError) as error:
        named = {name: said[name] for name in ("cafile", "capath", "certfile", "keyfile") if name in said}
        name, value = next(iter(named.items()), ("cafile", ""))
        what = f"not usable: {error}"
        raise RedisOption(name=name, value=value, what=what, how="name files in PEM that can be read") from None
    return context
