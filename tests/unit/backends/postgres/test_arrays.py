"""Which INSERT takes arrays, and that it then does what it did."""

from __future__ import annotations

import pytest

from dujiang.backends.postgres.arrays import array_form


class TestArrayForm:
    def test_plain_parameters_become_arrays(self) -> None:
        """Each parameter keeps its place and its type."""
        text = 'INSERT INTO "Order" (id, "a b") VALUES ($1::BIGINT, $2::TIMESTAMP WITH TIME ZONE)'

        assert array_form(text) == (
            'INSERT INTO "Order" (id, "a b") SELECT * FROM unnest($1::BIGINT[], $2::TIMESTAMP WITH TIME ZONE[])'
        )

    def test_a_conflict_that_does_nothing_stays(self) -> None:
        """Rows that are there already are left out one by one, also when the statement holds one twice."""
        form = array_form("INSERT INTO t (a) VALUES ($1::BIGINT) ON CONFLICT DO NOTHING")

        assert form == "INSERT INTO t (a) SELECT * FROM unnest($1::BIGINT[]) ON CONFLICT DO NOTHING"

    @pytest.mark.parametrize(
        "text",
        [
            "INSERT INTO t (a) VALUES ($1::JSON)",
            "INSERT INTO t (a) VALUES ($1::BIGINT[])",
            "INSERT INTO t (a) VALUES ($1::NUMERIC(10, 2))",
            "INSERT INTO t (a, b) VALUES ($1::BIGINT, now())",
            "INSERT INTO t (a, b) VALUES ($2::BIGINT, $1::BIGINT)",
            "INSERT INTO t (a) VALUES ($1::BIGINT), ($2::BIGINT)",
            "INSERT INTO t (a) VALUES ($1::BIGINT) RETURNING t.a",
            "INSERT INTO t (a) VALUES ($1::BIGINT) ON CONFLICT (a) DO UPDATE SET a = $2::BIGINT",
            "UPDATE t SET a=$1::BIGINT WHERE t.b = $2::BIGINT",
        ],
    )
    def test_what_might_mean_something_else_is_left_alone(self, text: str) -> None:
        """Lists, types with codecs of the user's, expressions, several rows and anything behind them run row by row."""
        assert array_form(text) is None
