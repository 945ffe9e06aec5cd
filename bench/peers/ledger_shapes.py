"""What both sides of the ledger claim share: how many accounts, clients and connections, and who pays whom."""

ACCOUNTS = 1_000
CLIENTS = 64
POOL = 10
WARM_S = 0.5
# The first account's id, which is the hot one; those below it belong to our system's own seed.
HOT = 1_000


def legs(number: int, *, hot: bool) -> tuple[int, int]:
    """The accounts of a transfer: everybody pays the hot one, or any two of many meet."""
    one = HOT + 1 + number * 7919 % (ACCOUNTS - 1)
    if hot:
        return one, HOT
    other = HOT + 1 + number * 104_729 % (ACCOUNTS - 1)
    return one, other if other != one else HOT
