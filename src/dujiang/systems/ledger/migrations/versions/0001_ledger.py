"""The ledger's first tables; an entry that was written is neither changed nor deleted, whoever asks."""

from __future__ import annotations

from alembic import op

from dujiang.systems.ledger.tables import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SAYS = "entries of the ledger are neither changed nor deleted"
ON_POSTGRESQL = (
    f"CREATE FUNCTION ledger_entry_stays() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{SAYS}'; END $$",
    "CREATE TRIGGER ledger_entry_is_kept BEFORE UPDATE OR DELETE ON ledger_entry FOR EACH ROW EXECUTE FUNCTION ledger_entry_stays()",
    "CREATE TRIGGER ledger_entry_is_not_cleared BEFORE TRUNCATE ON ledger_entry EXECUTE FUNCTION ledger_entry_stays()",
)
ON_SQLITE = (
    f"CREATE TRIGGER ledger_entry_is_kept BEFORE UPDATE ON ledger_entry BEGIN SELECT RAISE(ABORT, '{SAYS}'); END",
    f"CREATE TRIGGER ledger_entry_is_not_deleted BEFORE DELETE ON ledger_entry BEGIN SELECT RAISE(ABORT, '{SAYS}'); END",
)


def upgrade() -> None:
    """Create the tables, then what keeps the entries."""
    bind = op.get_bind()
    metadata.create_all(bind, checkfirst=False)
    for statement in ON_POSTGRESQL if bind.dialect.name == "postgresql" else ON_SQLITE:
        op.execute(statement)
