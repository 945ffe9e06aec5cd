"""Echo as a bare ASGI callable with msgspec: what is left when there is no framework."""

from typing import Annotated, Any

import msgspec


class Item(msgspec.Struct, forbid_unknown_fields=True):
    """The body."""

    sku: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    quantity: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    note: str | None = None


decode = msgspec.json.Decoder(Item).decode
encode = msgspec.json.Encoder().encode


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Every path echoes a valid item; 422 otherwise."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    try:
        status, out = 200, encode(decode(body))
    except msgspec.MsgspecError as cause:
        status, out = 422, encode({"code": "invalid", "detail": str(cause)})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(out))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": out})
