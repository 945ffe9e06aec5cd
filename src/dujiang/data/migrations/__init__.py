"""The platform's migrations: scripts of Alembic, numbered, in `versions`.

A script is written for both kinds of store and asks data/portable.py what its store can do. It runs in one transaction
with the row that records it, so a script that fails leaves nothing behind. A script that was released is not changed.
"""
