"""bin/bench serve: clients of our server and of `transformers serve`."""

import pytest

from tests.benchmark.tiny import tiny_rows


@pytest.mark.slow
def test_rows():
    rows = tiny_rows("serve")
    assert list(rows) == ["tokens_1", "first_token_1", "tokens_4", "first_token_4"]
    assert all(row["ours"] > 0 and row["peer"] > 0 for row in rows.values())
