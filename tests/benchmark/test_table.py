"""The table shows every column."""

from vlm_mu_jax.benchmark import table, timing


def test_the_table_shows_further_columns_and_memory_in_gib():
    rows = [timing.row("a", 4.0, 2.0, "tokens/s", memory_ours=3 << 30), timing.row("b", 1.0, None, "x")]
    shown = table.text({"suite": "s", "device": "d", "rows": rows})
    head, names, first, second = shown.splitlines()
    assert head == "s on d" and names.split() == "name ours peer unit ratio floor memory_ours".split()
    assert first.split() == "a 4 2 tokens/s 2 - 3.00 GiB".split()
    assert second.split() == "b 1 - x - - -".split()
