"""The URL of a PostgreSQL database, and the name of a session."""

from __future__ import annotations

import pytest

from dujiang.backends.postgres.options import Options, address, session_name
from dujiang.kernel.errors import Declared


def test_our_options_are_taken_out_and_the_drivers_stay() -> None:
    """Sizes and durations are read; what we do not know is passed on."""
    found = address("postgresql://u:p@h:1/d?pool_size=7&statement_timeout=250ms&sslmode=require")

    assert found.options == Options(pool_size=7, statement_timeout=0.25)
    assert found.dsn == "postgresql://u:p@h:1/d?sslmode=require"


def test_several_hosts_are_told_apart() -> None:
    """Each host has an address of its own with the common login; the whole one asks the driver for the primary."""
    found = address("postgresql://u:p@a:1,[::1]:2,c/d?target_session_attrs=read-write&sslmode=require")

    assert [host.dsn for host in found.hosts] == [
        "postgresql://u:p@a:1/d?sslmode=require",
        "postgresql://u:p@[::1]:2/d?sslmode=require",
        "postgresql://u:p@c/d?sslmode=require",
    ]
    assert [host.shown for host in found.hosts] == ["a:1", "[::1]:2", "c"]
    assert found.shown == "postgresql://u@a:1,[::1]:2,c/d"
    assert found.dsn == "postgresql://u:p@a:1,[::1]:2,c/d?sslmode=require&target_session_attrs=primary"
    assert "p@" not in repr(found) + repr(found.hosts)


def test_the_password_is_not_shown() -> None:
    """Neither the shown form nor the repr holds it, also when it holds an at sign in disguise."""
    found = address("postgresql+asyncpg://user:s%40cret@host:5432/name?password=secret2")

    assert found.shown == "postgresql://user@host:5432/name"
    assert "cret" not in repr(found)
    assert found.dsn.startswith("postgresql://user:s%40cret@")


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("postgresql://h/d?pool_size=many", "pool_size='many' is not a whole number"),
        ("postgresql://h/d?pool_size=0", "not above zero"),
        ("postgresql://h/d?lock_timeout=10", "lock_timeout='10' is not a duration such as 30s"),
        ("mysql://h/d", "scheme 'mysql'"),
        ("postgresql://a,b/d?target_session_attrs=any", "target_session_attrs='any' names servers that take no writes"),
        ("postgresql:///d?host=a,b", "several hosts stand in the option `host`"),
    ],
)
def test_an_option_without_meaning_is_refused(url: str, what: str) -> None:
    """The error says which one and what it needs."""
    with pytest.raises(Declared) as caught:
        address(url)

    assert what in str(caught.value)


def test_long_names_stay_different() -> None:
    """The server cuts at 63 bytes; names that differ only after that are still told apart."""
    first, second = session_name("n" * 80 + "1"), session_name("n" * 80 + "2")

    assert first != second
    assert max(len(first), len(second)) <= 63
    assert session_name("host-12-abcd") == "dujiang/host-12-abcd"
    assert session_name("主机").isascii()
