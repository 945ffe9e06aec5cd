"""The ledger's tables; the migrations beside this file make them, and forbid changes of entries."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, Table, UniqueConstraint

from dujiang.columns import Choice, Id, Instant, Key, Money

metadata = MetaData()

# available = balance - held - floor. `held` is what pending transfers may still take, `incoming` what they may still bring.
# `entries`, `head` and `last_at` are number, hash and time of the account's last entry: the next one follows them.
account = Table(
    "ledger_account",
    metadata,
    Column("account_id", Id, primary_key=True),
    Column("owner", Key(64), nullable=False),
    Column("currency", Choice("EUR", "USD", "JPY"), nullable=False),
    Column("floor", Money(2)),
    Column("ceiling", Money(2)),
    Column("frozen", Boolean, nullable=False),
    Column("balance", Money(2), nullable=False),
    Column("held", Money(2), nullable=False),
    Column("incoming", Money(2), nullable=False),
    Column("entries", BigInteger, nullable=False),
    Column("head", Key(64), nullable=False),
    Column("last_at", Instant, nullable=False),
)

# `amount` was asked for, `posted` of it moved, `refunded` of that went back. Under one reference an account is debited
# once by each kind of each source: the row is the second half of idempotency, after the request's key.
transfer = Table(
    "ledger_transfer",
    metadata,
    Column("transfer_id", Id, primary_key=True),
    Column("source", Choice("client", "operator", "provider"), nullable=False),
    Column("reference", Key(80), nullable=False),
    Column("kind", Choice("transfer", "hold", "refund"), nullable=False),
    Column("state", Choice("pending", "posted", "voided", "expired"), nullable=False),
    Column("debit", Id, nullable=False),
    Column("credit", Id, nullable=False),
    Column("currency", Choice("EUR", "USD", "JPY"), nullable=False),
    Column("amount", Money(2), nullable=False),
    Column("posted", Money(2), nullable=False),
    Column("refunded", Money(2), nullable=False),
    Column("refund_of", Id),
    Column("expires_at", Instant),
    Column("created_at", Instant, nullable=False),
    Column("closed_at", Instant),
    UniqueConstraint("debit", "reference", "source", "kind", name="ledger_transfer_reference"),
    Index("ledger_transfer_refund_of", "refund_of"),
    Index("ledger_transfer_source", "source", "created_at"),
)

# Two for each posted transfer, the debit negative. The database refuses UPDATE and DELETE; a transfer cannot have a third.
entry = Table(
    "ledger_entry",
    metadata,
    Column("account_id", Id, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("transfer_id", Id, nullable=False),
    Column("amount", Money(2), nullable=False),
    Column("balance", Money(2), nullable=False),
    Column("posted_at", Instant, nullable=False),
    Column("hash", Key(64), nullable=False),
    UniqueConstraint("transfer_id", "account_id", name="ledger_entry_transfer"),
    Index("ledger_entry_time", "account_id", "posted_at"),
)

# Secrets that an operator trusts while the system runs; those of the environment stand beside them.
provider_secret = Table(
    "ledger_provider_secret",
    metadata,
    Column("name", Key(32), primary_key=True),
    Column("secret", Key(200), nullable=False),
    Column("active_from", Instant, nullable=False),
)

provider_event = Table(
    "ledger_provider_event",
    metadata,
    Column("event_id", Key(64), primary_key=True),
    Column("kind", Key(32), nullable=False),
    Column("payment_id", Key(64), nullable=False),
    Column("account_id", Id, nullable=False),
    Column("currency", Choice("EUR", "USD", "JPY"), nullable=False),
    Column("amount", Money(2), nullable=False),
    Column("occurred_at", Instant, nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("outcome", Choice("applied", "waiting", "ignored", "refused"), nullable=False),
    Column("reason", Key(64), nullable=False),
    Index("ledger_provider_event_payment", "payment_id"),
)

settlement = Table(
    "ledger_settlement",
    metadata,
    Column("file_id", Key(64), primary_key=True),
    Column("state", Choice("reading", "reconciled"), nullable=False),
    Column("first_at", Instant, nullable=False),
    Column("final_at", Instant, nullable=False),
    Column("received_at", Instant, nullable=False),
)

settlement_line = Table(
    "ledger_settlement_line",
    metadata,
    Column("file_id", Key(64), primary_key=True),
    Column("line", Integer, primary_key=True, autoincrement=False),
    Column("verdict", Choice("matched", "missing_here", "amount_differs", "repeated", "bad"), nullable=False),
    Column("reference", Key(80)),
    Column("amount", Money(2)),
    Column("why", Key(200), nullable=False),
    Index("ledger_settlement_line_reference", "file_id", "reference"),
)
