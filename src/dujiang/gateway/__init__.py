"""Gateway: what stands between the server and a verb: limits, routes, bodies, idempotency keys, problem documents."""
