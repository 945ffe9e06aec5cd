"""Composition: what follows from an app's declarations alone; made once, shared by every running copy of the app.

Which parameter of a handler is the body, which ones the app provides, what the answer's type is for a client, and the
FastAPI application with a route for each verb.
"""

from __future__ import annotations

from functools import cached_property
from inspect import Parameter
from typing import TYPE_CHECKING, Any, get_args, get_origin

from dujiang.accept import Accept, arguments_of, refuse_arguments
from dujiang.console.operations import OperatorOnly
from dujiang.gateway.handler import is_response, members_of, provided, union_of, where_of
from dujiang.gateway.openapi import complete_openapi
from dujiang.gateway.routes import RouteSpec, Table, VerbRoute, is_body
from dujiang.jobs.scheduler import Scheduled
from dujiang.kernel.errors import Declared, DujiangError, Refusal
from dujiang.react import Reaction
from dujiang.saga.verb import Orchestrated

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fastapi import FastAPI

    from dujiang.app.declaration import App
    from dujiang.messaging.message import Readable
    from dujiang.messaging.subscription import Subscription
    from dujiang.saga.kind import Kind


def composed(app: App) -> Composition:
    """The composition of an app, made once and kept with it; anew when something was mounted since."""
    found: tuple[int, Composition] | None = app.__dict__.get("dujiang_composed")
    if found is None or found[0] != len(app.mounts):
        found = app.__dict__["dujiang_composed"] = (len(app.mounts), Composition(app))
    return found[1]


class Composition:
    """The routes and signatures of an app.

    Args:
        app: The declaration.

    Raises:
        Declared: When a handler has two bodies, or a column type that is not portable.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self._provided = {verb: provided(verb.handler, app.provide) for verb in app.verbs()}
        for saga in self.sagas():
            refuse_unprovided(saga, self._provided[saga])
        for verb in self.jobs():
            refuse_arguments(verb, self._provided[verb])
        self._bodies = {verb: self._find_body(verb) for verb in app.verbs()}

    def provided(self, verb: Any) -> dict[str, Any]:
        """What the app injects into a verb, by parameter."""
        return self._provided[verb]

    def subscriptions(self) -> list[Subscription]:
        """Every reaction, job and saga of the app as messaging sees it."""
        owners = [verb for verb in self.app.verbs() if isinstance(verb, (Reaction, Accept))]
        own = [verb.subscription(self._provided[verb]) for verb in owners]
        return [*own, *(each for saga in self.sagas() for each in saga.subscriptions(self._provided[saga]))]

    def jobs(self) -> list[Accept[*tuple[Any, ...], Any]]:
        """Every job of the app."""
        return [verb for verb in self.app.verbs() if isinstance(verb, Accept)]

    def sagas(self) -> list[Orchestrated]:
        """Every saga of the app."""
        return [verb for verb in self.app.verbs() if isinstance(verb, Orchestrated)]

    def kinds(self) -> list[Kind]:
        """Every saga of the app as its runs see it."""
        return [saga.kind_of(self._provided[saga]) for saga in self.sagas()]

    def schedules(self) -> dict[str, Scheduled]:
        """Every job of the clock, by name."""
        return {
            verb.name: Scheduled(verb.schedule, arguments_of(verb, self._provided[verb]))
            for verb in self.jobs()
            if verb.schedule is not None
        }

    def readables(self) -> set[Readable]:
        """What reads the messages of each reaction, job and saga."""
        return {subscription.event for subscription in self.subscriptions()}

    def body_name(self, verb: Any) -> str | None:
        """The parameter that is the request's body, or None."""
        return self._bodies[verb]

    def body_type(self, verb: Any) -> Any:
        """The type of the body as a client sends it."""
        name = self.body_name(verb)
        if name is None:
            return None
        hint = verb.handler.parameters[name][0]
        return get_args(hint)[0] if getattr(verb, "batch", 0) else hint

    def answer_type(self, verb: Any) -> Any:
        """The type of a success as a client gets it: without refusals, and without what is no JSON; None = nothing."""
        if "response_model" in verb.options:
            return verb.options["response_model"]
        left = [member for member in self._answers(verb) if not is_refusal(member) and not is_response(member)]
        return union_of([member for member in left if member is not type(None)])

    def absent(self, verb: Any) -> bool:
        """Whether the handler may also return None."""
        return type(None) in self._answers(verb)

    def refuses(self, verb: Any) -> tuple[DujiangError, ...]:
        """An example of each refusal that the handler declares in its answer."""
        kinds = [member for member in self._answers(verb) if is_refusal(member) and member is not Refusal]
        return tuple(example_of(kind) for kind in kinds)

    def _answers(self, verb: Any) -> tuple[Any, ...]:
        """What the handler says it returns, by member."""
        hint = verb.handler.answer
        if getattr(verb, "batch", 0) and get_origin(hint) is list:
            hint = get_args(hint)[0]
        return tuple(type(None) if member is None else member for member in members_of(hint))

    def _find_body(self, verb: Any) -> str | None:
        if verb.kind in ("react", "saga"):
            return None
        names = [
            name
            for name, (hint, default) in verb.handler.parameters.items()
            if name not in self._provided[verb] and is_body(hint, default)
        ]
        if len(names) > 1:
            where = where_of(verb.function)
            raise Declared(where=where, what=f"has two bodies: {', '.join(names)}", how="put them into one model")
        others = set(verb.handler.parameters) - set(self._provided[verb]) - set(names)
        if getattr(verb, "batch", 0) and (others or not names):
            where, what = where_of(verb.function), f"is batched and takes {', '.join(sorted(others)) or 'no body'}"
            raise Declared(where=where, what=what, how="take one list of bodies, and what the app provides")
        return names[0] if names else None

    @cached_property
    def routes(self) -> list[VerbRoute]:
        """A route for each verb that has one, aliases included."""
        return [VerbRoute(spec) for spec in self._specs()]

    @cached_property
    def table(self) -> Table:
        """The routes by method and path."""
        return Table(self.routes)

    def _specs(self) -> Iterator[RouteSpec]:
        for verb in self.app.verbs():
            if verb.kind in ("react", "saga") or verb.route is None:
                continue
            for place, text in enumerate((verb.route, *getattr(verb, "aliases", ()))):
                method, path = text.split(" ", 1)
                options = dict(verb.options)
                options.setdefault("status_code", verb.status)
                options.setdefault("tags", [verb.name.split(".")[0]])
                refuses = self.refuses(verb)
                if path.startswith("/_dj/"):
                    refuses = (*refuses, OperatorOnly())
                options.setdefault("operation_id", verb.name.replace(".", "_") + (f"_{place}" if place else ""))
                yield RouteSpec(
                    verb=verb,
                    handler=verb.handler,
                    method=method,
                    path=path,
                    provided=frozenset(self._provided[verb]),
                    takes_key=verb.kind in ("write", "accept"),
                    key_required=getattr(verb, "key_required", False),
                    options=options,
                    body_name=self.body_name(verb),
                    body_type=self.body_type(verb),
                    answer_type=self.answer_type(verb),
                    absent=self.absent(verb),
                    refuses=refuses,
                )

    @cached_property
    def fastapi(self) -> FastAPI:
        """The FastAPI application: OpenAPI, documentation pages, and the routes as fall-back of the table."""
        from fastapi import FastAPI  # noqa: PLC0415

        application = FastAPI(title=self.app.title, version=self.app.version, redirect_slashes=False)
        complete_openapi(application)
        application.router.routes.extend(self.routes)
        for path, mounted in self.app.mounts:
            application.mount(path, mounted)
        return application

    @cached_property
    def fallback(self) -> Any:
        """The FastAPI application's router without its outer error pages: errors come out as exceptions."""
        application = self.fastapi

        async def serve(scope: Any, receive: Any, send: Any) -> None:
            scope["app"] = application
            await application.router(scope, receive, send)

        return serve

    def rows(self) -> Iterator[dict[str, str]]:
        """Every route, reaction and job without a route, for `dujiang routes`."""
        for verb in self.app.verbs():
            common = {"kind": verb.kind, "name": verb.name, "handler": where_of(verb.function)}
            if isinstance(verb, (Reaction, Orchestrated)):
                yield {"method": "", "path": verb.event.event_name, **common}
            elif isinstance(verb, Accept) and verb.route is None:
                yield {"method": "", "path": "" if verb.schedule is None else str(verb.schedule), **common}
            for text in (verb.route, *getattr(verb, "aliases", ())):
                if text:
                    method, path = text.split(" ", 1)
                    yield {"method": method, "path": path, **common}


def refuse_unprovided(saga: Orchestrated, given: Mapping[str, Any]) -> None:
    """Raise Declared when a function of a saga asks for what the app does not provide."""
    for name, (hint, default) in saga.handler.parameters.items():
        if name not in given and default is Parameter.empty:
            what = f"has a step that asks for {name}: {getattr(hint, '__name__', hint)}, which the app does not provide"
            how = "App(provide={...}); what else a step needs belongs into the state"
            raise Declared(where=saga.name, what=what, how=how)


def is_refusal(member: Any) -> bool:
    """Whether a member of an answer's type is a refusal."""
    return isinstance(member, type) and issubclass(member, Refusal)


def example_of(kind: type[Refusal]) -> Refusal:
    """A refusal for the documentation; a class that wants values gets none."""
    try:
        return kind()
    except TypeError:
        example = kind.__new__(kind)
        Refusal.__init__(example)
        return example
