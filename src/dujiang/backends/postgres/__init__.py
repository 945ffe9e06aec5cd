"""PostgreSQL: the port `database` on asyncpg, for several processes that write at once."""
