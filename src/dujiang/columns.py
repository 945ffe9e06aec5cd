"""Portable SQLAlchemy column types, with the names of the field types in `dujiang`."""

from __future__ import annotations

from dujiang.data.columns import Choice, Id, Instant, Json, Key, Money

__all__ = ["Choice", "Id", "Instant", "Json", "Key", "Money"]
