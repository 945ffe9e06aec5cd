"""The ledger's process is killed in the middle of its work: what was answered holds, what was not is done once."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cli.processes import LIMIT_S, Up, dujiang

APP = "dujiang.systems.ledger:app"
CLIENTS, KILLS, ANSWERS = 16, 2, 120


def asked(server: Up, number: int) -> bytes | None:
    """One transfer of a cent; its answer, or None when nobody answered. Odd ones go the other way."""
    legs = ("11", "12") if number % 2 else ("12", "11")
    body = {"user_id": "ann", "debit": legs[0], "credit": legs[1], "amount": "0.01"}
    try:
        answer = server.request(
            "POST", "/api/v1/transfers", {**body, "reference": f"n{number}"}, idempotency_key=f"n{number}"
        )
    except (OSError, http.client.HTTPException):
        return None
    return answer.body if answer.status == 201 else None


def insisted(server: Up, number: int) -> bytes:
    """Ask until there is an answer: a key that the dead process worked on is another's for a moment."""
    found = next((found for _ in range(200) if (found := asked(server, number)) is not None), None)
    assert found is not None
    return found


def asked_again(server: Up, answers: dict[int, bytes | None]) -> None:
    """Ask every key again; whoever was answered before gets the same bytes."""
    for number, before in sorted(answers.items()):
        answers[number] = insisted(server, number)
        assert before in (None, answers[number])


def killed_at_work(server: Up, numbers: itertools.count[int], answers: dict[int, bytes | None]) -> None:
    """Let clients ask until enough was answered, then kill the process under them."""
    enough, begun = threading.Event(), len([each for each in answers.values() if each])

    def client(_: int) -> None:
        while server.process.poll() is None:
            number = next(numbers)
            answers[number] = None
            answers[number] = asked(server, number)
            if len([each for each in list(answers.values()) if each]) >= begun + ANSWERS:
                enough.set()
            if answers[number] is None:
                return

    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(client, place) for place in range(CLIENTS)]
        reached = enough.wait(LIMIT_S)
        server.kill()
        for each in running:
            each.result()
    assert reached, server.err


def test_kill_dash_nine_in_the_middle_of_a_crowd(store: str, tmp_path: Path) -> None:
    """Killed twice while 16 clients pay back and forth: every key ends in one transfer, and the audit finds nothing.

    Method: after each start every key is asked again; what was answered before must be the same bytes.
    """
    settings = {"database": store} if store else {}
    answers: dict[int, bytes | None] = {}
    numbers = itertools.count()
    for _ in range(KILLS):
        with Up(tmp_path, APP, **settings) as server:
            asked_again(server.started(), answers)
            killed_at_work(server, numbers, answers)
    with Up(tmp_path, APP, **settings) as server:
        asked_again(server.started(), answers)
        chain = server.operate("GET", "/_dj/ledger/accounts/11/chain").json
        own = server.request("GET", "/api/v1/accounts/11?user_id=ann").json
        assert server.stop() == 0
    audit = dujiang(tmp_path, "audit", APP, "--json", **settings)

    assert len({json.loads(each or b"{}")["transfer_id"] for each in answers.values()}) == len(answers)
    assert (chain["intact"], chain["entries"], own["entries"]) == (True, len(answers) + 1, len(answers) + 1)
    assert audit.code == 0, audit.out + audit.err
