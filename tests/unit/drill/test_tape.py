"""The tape: decisions by label and number, each of which can be taken back without moving the others."""

from __future__ import annotations

from typing import Any

from dujiang.drill.tape import BASE_S, Plan, Tape

RATES = {"cut": 0.5, "kill": 0.5, "lost.reply": 0.3}
LABELS = ("cut.db.reply", "kill.worker1", "lost.reply", "kill.worker2")


def rolling(seed: str = "7", keep: Any = None, rates: Any = None) -> Tape:
    """A tape on which faults happen."""
    tape = Tape(seed, Plan(rates=RATES if rates is None else rates), keep)
    tape.on = True
    return tape


def played(tape: Tape, draws: int = 50) -> dict[tuple[str, int], int]:
    """Every label in turn, with three forms; what was drawn, without the zeros."""
    for _ in range(draws):
        for label in LABELS:
            tape.draw(label, 3)
    return tape.deviations


class TestRates:
    def test_the_longest_first_words_decide(self) -> None:
        """A label has the rate of itself, else of its first words, else none."""
        plan = Plan(rates={"cut": 0.1, "cut.db.commit": 0.9, "kill.worker1": 1.0})

        assert plan.rate("cut.db.request") == 0.1
        assert plan.rate("cut.db.commit.reply") == 0.9
        assert plan.rate("kill.worker1") == 1.0
        assert plan.rate("kill.worker10") == 0.0
        assert plan.rate("kill") == 0.0

    def test_nothing_happens_without_a_rate_or_before_it_is_on(self) -> None:
        """A label of rate 0 never fails, one of rate 1 always, and none while faults are off; then nothing is counted."""
        tape = rolling(rates={"cut": 1.0})
        tape.on = False
        assert [tape.draw("cut.x") for _ in range(5)] == [0] * 5
        tape.on = True

        assert [tape.draw("cut.x") for _ in range(3)] == [1, 1, 1]
        assert [tape.draw("lost.x") for _ in range(3)] == [0, 0, 0]
        assert tape.deviations == {("cut.x", 0): 1, ("cut.x", 1): 1, ("cut.x", 2): 1}

    def test_every_form_is_drawn(self) -> None:
        """A fault of three forms takes each."""
        assert set(played(rolling()).values()) == {1, 2, 3}


class TestReplay:
    def test_the_same_seed_draws_the_same_and_another_does_not(self) -> None:
        """Everything follows from the seed."""
        assert played(rolling("7")) == played(rolling("7"))
        assert played(rolling("7")) != played(rolling("8"))

    def test_a_label_has_a_stream_of_its_own(self) -> None:
        """How often others are drawn, and in which order, changes nothing for it."""
        full, alone = played(rolling()), rolling()
        for _ in range(50):
            alone.draw("kill.worker2", 3)

        assert alone.deviations == {name: value for name, value in full.items() if name[0] == "kill.worker2"}

    def test_exactly_what_is_kept_happens(self) -> None:
        """A replay takes the kept deviations at their numbers and nothing else, whatever the rates are."""
        full = played(rolling())
        names = sorted(full)
        kept = {name: full[name] for name in names[::3]}

        assert 10 < len(kept) < len(full)
        assert played(rolling(keep=kept)) == kept
        assert played(rolling(keep=kept, rates={"cut": 1.0})) == kept
        assert played(rolling(keep={})) == {}

    def test_taking_one_back_leaves_the_others_where_they_were(self) -> None:
        """Without one deviation every other is at the same number, with the same form."""
        full = played(rolling())
        gone = sorted(full)[len(full) // 2]
        rest = {name: value for name, value in full.items() if name != gone}

        assert played(rolling(keep=rest)) == rest

    def test_a_kept_form_that_does_not_exist_any_more_is_the_last(self) -> None:
        """A schedule from where a fault had more forms still plays."""
        tape = rolling(keep={("lost.reply", 0): 9})

        assert tape.draw("lost.reply", 2) == 2

    def test_the_last_draw_can_be_made_a_fault(self) -> None:
        """The sweep decides after the draw, and its decision is replayed like any other."""
        tape = rolling(rates={})
        tape.draw("kill.api1")
        assert tape.draw("kill.api1") == 0
        tape.insist("kill.api1")

        again = rolling(rates={}, keep=tape.deviations)
        assert [again.draw("kill.api1") for _ in range(3)] == [0, 1, 0]


class TestDelaysAndChoices:
    def test_they_are_no_faults_and_do_not_move_them(self) -> None:
        """Delays and choices come from the seed alone, and leave every draw as it was."""
        tape, plain = rolling(), rolling()
        found = []
        for _ in range(50):
            found.append((tape.delay("db.request"), tape.pick("client", 9)))
            for label in LABELS:
                tape.draw(label, 3)

        assert tape.deviations == played(plain)
        assert found == [(plain.delay("db.request"), plain.pick("client", 9)) for _ in range(50)]
        assert {pick for _, pick in found} == set(range(10))

    def test_delays_vary_only_while_faults_are_on_and_when_wanted(self) -> None:
        """Without jitter everything takes the same short time."""
        tape = rolling()
        flat = Tape("7", Plan(jitter=False))
        flat.on = True

        assert len({tape.delay("x") for _ in range(200)}) > 10
        assert {flat.delay("x") for _ in range(200)} == {BASE_S}
        tape.on = False
        assert {tape.delay("x") for _ in range(200)} == {BASE_S}
