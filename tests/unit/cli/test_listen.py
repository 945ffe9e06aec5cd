"""The socket: loopback only, taken ports named, refusals of the system told apart.

The numbers in the ids are those of the list of command lines (CLI corpus).
"""

from __future__ import annotations

import errno
import os
import socket

import pytest

from dujiang.cli.exits import exit_code_of
from dujiang.cli.listen import HostRefused, PortInUse, bound, is_loopback, refusal_of, url_of


class TestBound:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_a_free_port_is_bound_and_listens(self, host: str) -> None:
        """The socket accepts from the moment it is bound, so a second start fails early."""
        with bound(host, 0) as listener, socket.create_connection(listener.getsockname()[:2], timeout=5):
            assert listener.getsockname()[0] == "127.0.0.1"

    def test_8_a_taken_port_names_the_process(self) -> None:
        """The message holds the pid of whoever listens; here that is this process."""
        with bound("127.0.0.1", 0) as listener, pytest.raises(PortInUse) as caught:
            bound("127.0.0.1", listener.getsockname()[1])

        assert f"process {os.getpid()} (" in caught.value.detail
        assert exit_code_of(caught.value) == 69

    @pytest.mark.parametrize(
        ("number", "why"),
        [(errno.EACCES, "Permission denied"), (errno.EADDRNOTAVAIL, "Cannot assign requested address")],
    )
    def test_9_what_the_system_refuses_is_said_in_its_words(self, number: int, why: str) -> None:
        """A port below 1024 without rights, or a foreign address: 78, with a port to choose."""
        error = refusal_of(OSError(number, os.strerror(number)), "127.0.0.1", 80)

        assert why in error.detail
        assert "from 1024 on" in error.hint
        assert exit_code_of(error) == 78

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", "::ffff:10.0.0.1", ""])
    def test_what_others_can_reach_is_refused(self, host: str) -> None:
        """Only addresses of this machine itself are taken."""
        with pytest.raises(HostRefused):
            bound(host, 0)

    def test_loopback_is_more_than_one_address(self) -> None:
        """All of 127.0.0.0/8, ::1 and localhost; an IPv6 address stands in brackets in a URL."""
        assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
        assert url_of("::1", 80) == "http://[::1]:80"
