"""Data: the port `database`, transactions on it, portable types, migrations.

`database` is the port, `sql` the platform's own statements, `transaction` what a handler holds, `statements` the short
path of SQLAlchemy statements, `types` and `columns` the portable field and column types, `process` the table of living
processes, `migrate` the schema's history.
"""
