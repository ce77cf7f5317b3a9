"""bin/bench attack: all sides give the same margins (it fails otherwise), and a block keeps no copies of the prefix."""

import pytest

from tests.benchmark.tiny import tiny_rows


@pytest.mark.slow
def test_rows():
    pytest.importorskip("torch")
    rows = tiny_rows("attack")
    assert list(rows) == ["full_prompts", "prefix_cache", "own_full_forward", "block_memory"]
    assert rows["prefix_cache"]["words"] == rows["prefix_cache"]["peer_words"] > rows["full_prompts"]["peer_words"]
    assert max(row.get("max_difference", 0) for row in rows.values()) < 1e-4
    assert 0 < rows["block_memory"]["kib_grown"] <= 1.5 * rows["block_memory"]["kib_own_activations"]
