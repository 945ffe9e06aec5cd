"""The URL of a RabbitMQ broker: what it means, and that what means nothing is refused with the cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from dujiang.backends.rabbitmq.broker import BrokerOptionInvalid, options_of
from dujiang.settings.urls import checked


def test_a_url_says_everything() -> None:
    """Options of ours leave the driver's URL, others stay in it, and what is shown has no user and no password."""
    options = options_of("amqp://app:s%40crt@db:5673/shop?prefix=eu&queue_limit=7&confirm_timeout=2.5&cafile=/x.pem")

    assert options.driver_url == "amqp://app:s%40crt@db:5673/shop?cafile=%2Fx.pem&heartbeat=10"
    assert options.shown == "amqp://db:5673/shop"
    assert (options.prefix, options.exchange) == ("eu", "eu.events")
    assert (options.queue_limit, options.confirm_timeout_s, options.connect_timeout_s) == (7, 2.5, 10.0)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("prefix=a.b", "prefix"),
        ("prefix=", "prefix"),
        ("queue_limit=-1", "queue_limit"),
        ("confirm_timeout=x", "confirm"),
    ],
)
def test_an_option_that_means_nothing_is_refused(query: str, named: str) -> None:
    """The error names the option and its value, and says what to write."""
    with pytest.raises(BrokerOptionInvalid) as refused:
        options_of(f"amqp://db/shop?{query}")

    assert named in str(refused.value)
    assert refused.value.hint


def test_the_setting_asks_for_a_virtual_host() -> None:
    """A URL without a path is refused with the word for what is missing, and one with `%2F` is taken."""
    with pytest.raises(ValueError, match="virtual host"):
        checked("broker", "amqp://db:5672", folder=Path("/"))

    assert checked("broker", "amqp://db:5672/%2F?prefix=x", folder=Path("/")) == "amqp://db:5672/%2F?prefix=x"
