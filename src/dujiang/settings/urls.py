"""URLs: one for each port; checked as a person mistypes them, and never shown with a secret.

    postgresql://app:pa%40ss@db:5432/shop?replicas=...
    scheme       userinfo    host    database  options of the adapter

The usual mistakes are looked for by hand, because a URL parser finds a meaning for each of them: an `@` in a password
moves the host, a `/` ends it, two slashes after `sqlite:` make a folder a host. What is wrong with a URL is said
without showing what may be a password: even of a URL that cannot be understood, only what surely is none is shown.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from dujiang.backends.table import Adapter, adapter, schemes
from dujiang.settings.paths import why_no_folder

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
SECRET_NAMES = re.compile(r"pass|pwd|secret|token|key", re.IGNORECASE)
HIDDEN = "***"


def masked(url: str) -> str:
    """The URL without passwords: in the user part, in secret options, and in URLs inside options."""
    head, question, query = url.partition("?")
    scheme, slashes, rest = head.partition("://")
    # A password that holds `?` continues behind it; then the user part ends at the last `@` of the whole.
    ends_user = "@" in query and "@" not in rest and ":" in rest
    if slashes and ends_user and (not port_of(rest) or "=" not in query.partition("@")[0]):
        return f"{scheme}://{rest.partition(':')[0]}:{HIDDEN}@{query.rpartition('@')[2]}"
    if slashes and "@" in rest:
        user, _, place = rest.rpartition("@")
        name, colon, _ = user.partition(":")
        head = f"{scheme}://{name}{colon}{HIDDEN if colon else ''}@{place}"
    elif slashes and ":" in rest.partition("/")[0] and not port_of(rest):
        head = f"{scheme}://{rest.partition(':')[0]}:{HIDDEN}"
    elif not slashes and "@" in head:
        head = f"{HIDDEN}@{head.rpartition('@')[2]}"
    return head + question + "&".join(masked_option(part) for part in query.split("&"))


def masked_option(part: str) -> str:
    """One `name=value` of a query without its secret."""
    name, equals, value = part.partition("=")
    if SECRET_NAMES.search(name):
        return f"{name}{equals}{HIDDEN if value else ''}"
    decoded = unquote(value)
    return f"{name}{equals}{masked(decoded)}" if "@" in decoded else part


def port_of(place: str) -> bool:
    """Whether `host:port...` has a port, or an address in brackets, where a port belongs."""
    hosts, slash, path = place.partition("/")
    one = r"[^:/,]*:[0-9]{1,5}|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?"
    return re.fullmatch(f"({one})(,({one}))*", hosts) is not None and "\n" not in slash + path


def checked(port: str, url: str, *, folder: Path) -> str:
    """The URL, with an absolute path when it names a file. Raises ValueError that says the mistake and the cure."""
    shown = masked(url)
    blank = " " if url.startswith("sqlite:") else ""  # A path may hold spaces; a line break may stand nowhere.
    if url != url.strip() or any((c.isspace() and c != blank) or c < " " or c == "\x7f" for c in url):
        raise ValueError(f"{shown!r} holds a space or a control character; in a password write it as %20")
    match = SCHEME.match(url)
    rest = url[match.end() :] if match else url
    # `localhost:5432/x` and `user:pass@host/db` look as if they had a scheme.
    looks_so = match is not None and not rest.startswith("/") and not adapter(port, match[1])
    if match is None or (looks_so and ("@" in url or rest[:1].isdigit())):
        raise ValueError(f"{shown!r} has no scheme; write one of {shown_schemes(port)} before it")
    chosen = adapter(port, match[1])
    if chosen is None:
        near = difflib.get_close_matches(match[1].lower(), schemes(port), n=1, cutoff=0.5)
        meant = f"did you mean {near[0]!r}?" if near else f"known are {shown_schemes(port)}"
        raise ValueError(f"no adapter of the port {port} knows the scheme {match[1]!r}; {meant}")
    if chosen.driver and importlib.util.find_spec(chosen.driver) is None:
        raise ValueError(f"{match[1]!r} needs a package that is missing: pip install 'dujiang[{chosen.extra}]'")
    if chosen.shape == "server":
        check_server(url, shown, chosen)
    elif chosen.shape == "file":
        url = checked_file(url, folder)
    check_options(chosen, url)
    return url


def check_server(url: str, shown: str, chosen: Adapter) -> None:
    """Refuse what cannot be the URL of a server."""
    authority = url.partition("://")[2]
    if "://" not in url or not authority:
        raise ValueError(f"{shown!r} names no host; write scheme://user:password@host:port/name")
    escape = "in a password write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23"
    place = re.split(r"[/?#]", authority, maxsplit=1)[0]
    if place.count("@") > 1:
        raise ValueError(f"{shown!r} has more than one @ before its host; {escape}")
    user, at, host = place.rpartition("@")
    if user.count(":") > 1:
        raise ValueError(f"{shown!r} has more than one : in its user part; {escape}")
    if re.search(r"%(?![0-9A-Fa-f]{2})", user):
        raise ValueError(f"{shown!r} has a % that begins no escape; write % as %25")
    if "," in host and not chosen.many_hosts:
        raise ValueError(f"{shown!r} names several hosts, and {chosen.scheme!r} takes one")
    for one in host.split(","):
        check_host(one, shown, "" if at else f"; if that is a password, {escape}")
    parts = urlsplit(url)
    if parts.fragment or "#" in url:
        raise ValueError(f"{shown!r} holds a #; {escape}")
    if not parts.hostname and "host" not in dict(parse_qsl(parts.query)):
        raise ValueError(f"{shown!r} names no host; write scheme://user:password@host:port/name")
    if not parts.path.strip("/"):
        raise ValueError(f"{shown!r} names no {chosen.names}; write its name after the host, as in .../shop")


def check_host(host: str, shown: str, tail: str) -> None:
    """Refuse a `host:port` whose port is none."""
    number = re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::(.*))?", host)
    if number is None or (number[1] is not None and not number[1].isdigit()):
        raise ValueError(f"{shown!r} has no number as its port{tail}")
    if number[1] is not None and not 1 <= int(number[1]) <= 65535:
        raise ValueError(f"{shown!r} has a port outside 1 to 65535")


def checked_file(url: str, folder: Path) -> str:
    """The URL of a file with an absolute path. Its folder must exist or be one that can be made."""
    head, question, query = url.partition("?")
    scheme, _, rest = head.partition(":")
    if not rest.startswith("///"):
        path = rest.lstrip("/") or "var/app.db"
        raise ValueError(f"{url!r} needs three slashes before a path, four before an absolute one: {scheme}:///{path}")
    path = unquote(rest[3:])
    if not path or path.startswith(":memory:"):
        raise ValueError(f"{url!r} names no file; the embedded store is a file: {scheme}:///var/app.db")
    place = (folder / path).absolute()
    if place.is_dir():
        raise ValueError(f"{url!r} names a folder; name a file in it: {scheme}:///{path.rstrip('/')}/app.db")
    if why := why_no_folder(place.parent):
        raise ValueError(f"the folder of {url!r} cannot be made: {why}")
    return file_url(scheme, place) + question + query


def file_url(scheme: str, path: Path) -> str:
    """The URL of an absolute path; only what would end a path in a URL is escaped, so that people can read it."""
    return f"{scheme}:///" + re.sub("[%?#]", lambda match: f"%{ord(match[0]):02X}", str(path))


def file_of(port: str, url: str) -> Path | None:
    """The file that a checked URL names; None when it names a server or nothing."""
    scheme, _, rest = url.partition(":")
    chosen = adapter(port, scheme)
    if chosen is None or chosen.shape != "file":
        return None
    return Path(unquote(rest.partition("?")[0].removeprefix("///")))


def check_options(chosen: Adapter, url: str) -> None:
    """Refuse an option that the adapter does not know, or that stands twice."""
    query = url.partition("?")[2]
    seen: set[str] = set()
    for name, _ in parse_qsl(query, keep_blank_values=True):
        if name in seen:
            raise ValueError(f"the option {name!r} stands twice")
        seen.add(name)
        if name not in chosen.options:
            near = difflib.get_close_matches(name, chosen.options, n=1)
            known = ", ".join(chosen.options) or "none"
            meant = f"did you mean {near[0]!r}?" if near else f"known are: {known}"
            raise ValueError(f"{chosen.scheme!r} knows no option {name!r}; {meant}")


def shown_schemes(port: str) -> str:
    """The schemes of a port, for people."""
    return ", ".join(f"{scheme}:" for scheme in schemes(port))
