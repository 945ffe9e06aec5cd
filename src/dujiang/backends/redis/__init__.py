"""Redis, from 6.2 on; also Valkey."""
