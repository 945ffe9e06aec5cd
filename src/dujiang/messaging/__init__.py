"""Messaging: events that exist if and only if their transaction commits, handled with one effect each.

`message` declares events, `tx` publishes them, `outbox` keeps them, `relay` moves them to the `broker`, `work` holds what
each subscription has to do, `consumer` does it, `inbox` drops repeats, `deadletter` keeps what failed for good.
"""
