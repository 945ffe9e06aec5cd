"""The declaration of a job: what is refused at import, what is listed, how its parameters are stored."""

from inspect import Parameter

import pytest
from fastapi import Depends, Request

from dujiang import App, Job, Model, Module
from dujiang.app.composition import composed
from dujiang.jobs.arguments import Arguments
from dujiang.jobs.job import StepRefused
from dujiang.kernel.errors import Declared


class Ask(Model):
    """A body."""

    n: int


async def nothing() -> None:
    """A dependency."""


async def step() -> int:
    """A step."""
    return 1


def test_what_asks_for_a_request_is_refused() -> None:
    """When the job runs there is no request any more: neither it nor a dependency can be asked for."""
    desk = Module("desk")

    async def by_request(job: Job, request: Request) -> None: ...

    async def by_dependency(job: Job, value: None = Depends(nothing)) -> None: ...

    for function in (by_request, by_dependency):
        with pytest.raises(Declared, match="asks for the request by"):
            desk.accept("POST /x")(function)


def test_what_cannot_be_stored_is_refused() -> None:
    """A parameter without a JSON form, that the app does not provide, is named when the app is put together."""

    class Mailer:
        """A service."""

    desk = Module("desk")

    @desk.accept()
    async def send(job: Job, mailer: Mailer) -> None: ...

    composed(App(modules=[desk], provide={Mailer: Mailer()})).subscriptions()
    with pytest.raises(Declared, match="has the parameter mailer, which cannot be stored"):
        composed(App(modules=[desk])).subscriptions()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"limit": 0}, "limit=0"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"timeout": "soon"}, "soon"),
        ({"keep": "1"}, "'1'"),
    ],
)
def test_numbers_that_say_nothing_are_refused(options: dict[str, object], says: str) -> None:
    """At import, with the value."""

    async def send(job: Job) -> None: ...

    with pytest.raises(Declared, match=says):
        Module("desk").accept(**options)(send)  # type: ignore[arg-type]


def test_jobs_are_listed_with_their_addresses() -> None:
    """`dujiang routes` shows jobs, also those without a route, and where their state is read."""
    desk = Module("desk")

    @desk.accept("POST /send")
    async def send(job: Job, body: Ask) -> None: ...

    @desk.accept()
    async def sweep(job: Job) -> None: ...

    app = App(modules=[desk])
    rows = [(row["method"], row["path"], row["kind"], row["name"]) for row in composed(app).rows()]

    assert rows == [
        ("POST", "/send", "accept", "desk.send"),
        ("", "", "accept", "desk.sweep"),
        ("GET", "/api/v1/jobs/{job_id}", "read", "dujiang.job"),
        ("DELETE", "/api/v1/jobs/{job_id}", "write", "dujiang.cancel_job"),
    ]


def test_an_app_without_jobs_has_no_addresses_for_them() -> None:
    """Nothing is added to an app that declares none."""
    assert App(modules=[Module("desk")]).verbs() == []


def test_parameters_survive_a_release_that_adds_one() -> None:
    """What is missing takes the function's default, what is unknown is left alone, what is needed is named."""
    old = Arguments("desk.send", {"n": (int, Parameter.empty)}, "here")
    new = Arguments("desk.send", {"n": (int, Parameter.empty), "word": (str, "x")}, "here")

    assert new.from_bytes(old.to_bytes({"n": 1})) == {"n": 1}
    assert old.from_bytes(new.to_bytes({"n": 1, "word": "y"})) == {"n": 1}
    for payload, says in ((b"{}", "lack n"), (b"[1]", "one JSON object"), (b'{"n":"x"}', "valid integer")):
        with pytest.raises(ValueError, match=says):
            old.from_bytes(payload)
    with pytest.raises(TypeError, match="takes 1 parameters"):
        old.values_of((1, 2), {})
    with pytest.raises(TypeError, match="needs n"):
        old.values_of((), {})


async def test_steps_of_one_name_are_refused() -> None:
    """The second step could only get the result of the first; so could one without a name."""
    job = Job("key", name="desk.send")

    assert await job.step("one", step) == 1
    for name in ("one", "", "x" * 256):
        with pytest.raises(StepRefused):
            await job.step(name, step)
