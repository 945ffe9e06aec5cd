"""SQLite in the place of a database server, for simulations."""
