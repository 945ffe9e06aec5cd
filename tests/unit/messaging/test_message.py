"""Event classes: their class arguments."""

from __future__ import annotations

import pytest

from dujiang import Event
from dujiang.kernel.errors import Declared


def test_an_event_has_the_stored_name_and_version_that_its_class_says() -> None:
    """Without arguments it is the class's name and 1; a class argument of pydantic's is left to pydantic."""

    class Plain(Event):
        """Nothing said."""

    class Noted(Event, name="Plain", version=2, title="noted"):
        """Both said."""

    assert (Plain.event_name, Plain.event_version) == ("Plain", 1)
    assert (Noted.event_name, Noted.event_version) == ("Plain", 2)
    assert Noted.model_config["title"] == "noted"


def test_an_unknown_class_argument_is_refused() -> None:
    """A slip would otherwise give the event another stored name than was meant."""
    with pytest.raises(Declared, match="nam"):

        class Slip(Event, nam="Plain"):
            """A slip."""
