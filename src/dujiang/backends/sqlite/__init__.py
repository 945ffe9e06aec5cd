"""The database port on one SQLite file: the embedded store. `database.py` is the adapter."""
