"""Refusals of the guard: each says what is wrong with the form of a request, and what to send instead."""

from __future__ import annotations

from dataclasses import dataclass

from dujiang.gateway.problems import RequestRefused


@dataclass(eq=False, kw_only=True)
class BadHost(RequestRefused):
    """The request does not name exactly one host."""

    code = "bad_host"
    says = "{why}"
    cure = "send exactly one Host header: a name or address, with a port if it is not the default"

    why: str


@dataclass(eq=False, kw_only=True)
class ForeignHost(RequestRefused):
    """The request names a host that is not served."""

    code = "foreign_host"
    status = 421
    says = "the host {host} is not served"
    cure = "use a name of this service; its operator adds one to the allowed hosts"

    host: str


@dataclass(eq=False, kw_only=True)
class HeadersTooLarge(RequestRefused):
    """The headers are too many or too large."""

    code = "headers_too_large"
    status = 431
    says = "{size} {what} are more than {limit}"
    cure = "send at most {limit} {what}"

    what: str
    size: int
    limit: int


@dataclass(eq=False, kw_only=True)
class TargetTooLong(RequestRefused):
    """The address is too long."""

    code = "target_too_long"
    status = 414
    says = "path and query have {size} bytes; at most {limit} are taken"
    cure = "send at most {limit} bytes; put the rest into the body"

    size: int
    limit: int


@dataclass(eq=False, kw_only=True)
class BadPath(RequestRefused):
    """The address holds what two readers may read in two ways."""

    code = "bad_path"
    says = "{why}"
    cure = "send the path without control characters, escaped slashes, backslashes, `.` and `..`"

    why: str


@dataclass(eq=False, kw_only=True)
class BadFraming(RequestRefused):
    """The request does not say clearly where its body ends."""

    code = "bad_framing"
    says = "{why}"
    cure = "send either one Content-Length or `Transfer-Encoding: chunked`"

    why: str


@dataclass(eq=False, kw_only=True)
class TransferRefused(RequestRefused):
    """The transfer coding is not known."""

    code = "transfer_coding"
    status = 501
    says = "the transfer coding {coding} is not known"
    cure = "send `Transfer-Encoding: chunked`, or a Content-Length"

    coding: str


@dataclass(eq=False, kw_only=True)
class VersionRefused(RequestRefused):
    """The request speaks a version of HTTP that is not served."""

    code = "http_version"
    status = 505
    says = "HTTP/{version} is not served"
    cure = "speak HTTP/1.1"

    version: str


@dataclass(eq=False, kw_only=True)
class CodingRefused(RequestRefused):
    """The body is compressed or encoded otherwise."""

    code = "content_coding"
    status = 415
    says = "the content coding {coding} is not taken; only identity is"
    cure = "send the body as it is, without Content-Encoding"

    coding: str

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """`Accept-Encoding` (RFC 9110, 15.5.16)."""
        return [(b"accept-encoding", b"identity")]


@dataclass(eq=False, kw_only=True)
class BodyTooSlow(RequestRefused):
    """The body did not arrive in time."""

    code = "body_too_slow"
    status = 408
    says = "{received_bytes} bytes of the body arrived in {after_s:.1f} s, and its end did not"
    cure = "send all bytes that Content-Length promises, at 1 KiB/s or faster"

    received_bytes: int
    after_s: float
