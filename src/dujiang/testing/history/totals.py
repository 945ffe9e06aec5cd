"""Totals: ids that are one, money that is conserved, a counter within its bounds.

`check_unique_ids`: no two answers hold one id. O(n). It says nothing about order or about ids that no client saw.

`check_bank`: every read of all accounts adds up to one total, and none is below its floor. A read that is no snapshot (one
account before a transfer, another after) shows here, which is why the test is worth more than its size. O(total length of
all reads). It does not see a transfer done twice in both directions, nor money moved to the wrong account.

`check_counter`: a read lies between what must be in it and what may be in it.

      must: positive adds that had ended before the read began      may: every add that had begun when the read ended
      lower = must of the positive + may of the negative            upper = may of the positive + must of the negative

`info` adds are in `may` from their beginning on, for ever, and never in `must`; failed ones are in neither. The bounds are
exact, what lies between them is not looked at (7 may be impossible between 5 and 10; deciding that is subset sum).
O(n log n).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from dujiang.testing.history.anomaly import Anomaly, begin, by_key, named

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from dujiang.testing.history.record import Operation


def check_unique_ids(history: Iterable[Operation]) -> list[Anomaly]:
    """Ids that were handed out twice. Kind: `generate` (result = the id)."""
    first: dict[Any, Operation] = {}
    found = []
    for operation in history:
        if operation.kind == "generate" and operation.certain:
            other = first.setdefault(operation.result, operation)
            if other is not operation:
                says = f"the id {operation.result!r} was handed out twice"
                found.append(Anomaly("duplicated_id", says, (other, operation)))
    return found


def check_bank(
    history: Iterable[Operation], *, total: int, least: int | None = 0, accounts: Collection[str] = ()
) -> list[Anomaly]:
    """Reads whose sum is not the total, or that show an account below its floor, or not all accounts.

    Kind: `read` (result = mapping of account to whole amount).

    Args:
        history: The operations.
        total: What all accounts hold together, always.
        least: The floor of every account; None where any amount is allowed.
        accounts: The accounts that every read must show; empty = whatever it shows.
    """
    found = []
    for operation in history:
        if operation.kind != "read" or not operation.certain:
            continue
        amounts = operation.result
        if accounts and set(amounts) != set(accounts):
            differ = ", ".join(sorted(set(amounts) ^ set(accounts)))
            found.append(Anomaly("wrong_accounts", f"a read and the accounts differ in {differ}", (operation,)))
        if (added := sum(amounts.values())) != total:
            found.append(Anomaly("wrong_total", f"the accounts hold {added}, not {total}", (operation,)))
        for account, amount in amounts.items():
            if least is not None and amount < least:
                says = f"{account} holds {amount}, less than {least}"
                found.append(Anomaly("overdrawn", says, (operation,)))
    return found


def check_counter(history: Iterable[Operation]) -> list[Anomaly]:
    """Reads that show less than must be there, or more than may be; counter by counter (the key).

    Kinds: `add` (value = a whole number, also a negative one), `read` (result = the count). A counter begins at 0.
    """
    found = []
    for key, operations in by_key(history, ("add", "read")):
        adds = [operation for operation in operations if operation.kind == "add"]
        ended = sorted((o.effective_at, o.value) for o in adds if o.certain)
        moments = [moment for moment, _ in ended], [begin(add) for add in adds]
        must = sums([value for _, value in ended])
        may = sums([add.value for add in adds])
        for read in operations:
            if read.kind != "read" or not read.certain:
                continue
            done = bisect_left(moments[0], read.invoked_at)
            begun = bisect_right(moments[1], read.ended_at)
            lower, upper = must[0][done] + may[1][begun], may[0][begun] + must[1][done]
            if not lower <= read.result <= upper:
                says = f"a read{named(key)} shows {read.result}, which is not in {lower}..{upper}"
                found.append(Anomaly("out_of_bounds", says, (read,)))
    return found


def sums(values: list[int]) -> tuple[list[int], list[int]]:
    """Running sums, from 0, of the positive values and of the negative ones."""
    rising = list(accumulate((max(value, 0) for value in values), initial=0))
    return rising, list(accumulate((min(value, 0) for value in values), initial=0))
