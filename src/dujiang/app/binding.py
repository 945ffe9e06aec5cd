"""Binding: the verbs of an app inside one running copy; an accept is bound as the write that enqueues its job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dujiang.accept import Accept, accepting
from dujiang.read import BoundRead, ReadVerb
from dujiang.write import BoundWrite, Write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.responses import Response

    from dujiang.app.runtime import Runtime
    from dujiang.gateway.problems import Answer
    from dujiang.jobs.view import JobView


class BoundAccept(BoundWrite):
    """An accept inside one running copy.

    Args:
        verb: The declaration.
        given: What the app injects when the job runs; nothing of it is stored.
        parts: The arguments of BoundWrite.
    """

    def __init__(self, verb: Accept[*tuple[Any, ...], Any], *, given: Mapping[str, Any], **parts: Any) -> None:
        write: Write[Any, JobView] = Write(
            function=accepting(verb, given),
            handler=verb.handler,
            name=verb.name,
            route=verb.route,
            status=verb.status,
            key_required=verb.key_required,
            requires=verb.requires,
        )
        super().__init__(write, provided={}, **parts)

    def answer(self, value: Any, response: Response | None = None) -> Answer:
        """The answer of an accepted job: its view, and where to ask again."""
        answer = super().answer(value, response)
        answer.headers.append((b"location", value.url.encode()))
        return answer


def bound_verbs(runtime: Runtime) -> dict[Any, Any]:
    """What answers requests, by verb; a reaction answers none."""
    found: dict[Any, Any] = {}
    for verb in runtime.app.verbs():
        provided = runtime.composition.provided(verb)
        if isinstance(verb, ReadVerb):
            answer_type = runtime.composition.answer_type(verb)
            kept = (runtime.database, runtime.caching)
            found[verb] = BoundRead(verb, *kept, provided=provided, answer_type=answer_type)
        elif isinstance(verb, (Write, Accept)):
            parts = {
                "body_name": runtime.composition.body_name(verb),
                "answer_type": runtime.composition.answer_type(verb),
                "node": runtime.node,
                "database": runtime.database,
                "idempotency": runtime.idempotency,
                "make_tx": runtime.make_tx,
                "requires": required(runtime, verb),
            }
            if isinstance(verb, Write):
                found[verb] = BoundWrite(verb, provided=provided, **parts)
            else:
                found[verb] = BoundAccept(verb, given=provided, **parts)
    return found


def required(runtime: Runtime, verb: Any) -> list[Callable[[], Awaitable[None]]]:
    """What raises while something that a write requires is away. A broker in the database is there if that is."""
    standing = runtime.broker.standing
    return [standing.prove] if verb.requires and standing is not None else []
