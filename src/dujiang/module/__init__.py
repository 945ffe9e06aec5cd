"""Module: what one system declares."""

from __future__ import annotations

from dujiang.module.module import Module

__all__ = ["Module"]
