"""An error says what happened, whose move it is, and shows outsiders no more than is theirs."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest

from dujiang.kernel.errors import Declared, DujiangError, Overloaded, Refusal


@dataclass(eq=False, kw_only=True)
class PortInUse(DujiangError):
    """Another process already listens on the port.

    This sentence is for those who read the code.
    """

    code = "port_in_use"
    move = "fix"
    says = "port {port} is taken by process {pid}"
    cure = "stop process {pid}, or choose another port"

    port: int
    pid: int


class OutOfStock(Refusal):
    """There is less than was asked for."""

    code = "out_of_stock"
    status = 409


class TestWhatIsSaid:
    def test_the_message_holds_the_values_the_code_and_the_move(self) -> None:
        """One line is enough to act on."""
        error = PortInUse(port=8000, pid=17)

        assert str(error) == "port 8000 is taken by process 17 [port_in_use, fix]"
        assert error.hint == "stop process 17, or choose another port"
        assert error.values == {"port": 8000, "pid": 17}
        assert error.title() == "Another process already listens on the port"

    def test_a_response_shows_the_callers_own_move_and_nothing_of_the_inside(self) -> None:
        """What the caller can fix or choose is told whole; for the rest the kind must do."""
        inside = Overloaded(what="the outbox of db-3", size=10, limit=10)

        assert PortInUse(port=1, pid=2).public_detail == "port 1 is taken by process 2"
        assert inside.public_detail == "The system is full; trying later helps"
        assert "db-3" in str(inside)

    def test_braces_in_a_value_are_only_braces(self) -> None:
        """A value is never taken for a format."""
        error = Declared(where="shop", what="{secret}", how="{0}")

        assert error.detail == "shop: {secret}"
        assert error.hint == "{0}"


class TestWhatFollowsFromTheMove:
    @pytest.mark.parametrize(("move", "status"), [("fix", 400), ("choose", 409), ("wait", 503), ("report", 500)])
    def test_the_status_follows_from_the_move(self, move: str, status: int) -> None:
        """One fact decides, so gateway and worker cannot disagree."""
        error = type("Kind", (PortInUse,), {"move": move})(port=1, pid=2)

        assert error.http_status() == status

    def test_a_class_may_name_a_closer_status(self) -> None:
        """The class's own status stands before the one of its move."""
        error = type("Kind", (PortInUse,), {"move": "wait", "status": 504})(port=1, pid=2)

        assert error.http_status() == 504


class TestPickle:
    @pytest.mark.parametrize(
        "error",
        [
            PortInUse(port=8000, pid=17),
            Overloaded(what="x", size=1, limit=1),
            OutOfStock("only 3 of itemA are left", sku="itemA", left=3),
            OutOfStock(),
        ],
        ids=repr,
    )
    def test_an_error_survives_the_way_to_another_process(self, error: DujiangError) -> None:
        """Class, values and words are the same on the other side."""
        again = pickle.loads(pickle.dumps(error))

        assert type(again) is type(error)
        assert (str(again), again.values, again.hint) == (str(error), error.values, error.hint)


class TestRefusal:
    def test_it_says_what_was_given_and_carries_further_members(self) -> None:
        """The business's no has its own words, and JSON values beside them."""
        error = OutOfStock("only 3 of itemA are left", sku="itemA", left=3)

        assert error.detail == error.public_detail == "only 3 of itemA are left"
        assert error.values == {"sku": "itemA", "left": 3}
        assert (error.http_status(), error.move, error.code) == (409, "choose", "out_of_stock")

    def test_without_words_its_class_speaks(self) -> None:
        """The first sentence of the docstring is the detail."""
        assert OutOfStock().detail == "There is less than was asked for"
