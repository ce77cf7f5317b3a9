"""The published tables: as printed, with source and trust on every number."""

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.reporting.inputs import published

TRUSTS = {
    "exact table",
    "transcription",
    "transcription, also in the authors' teaser figure",
    "single transcription",
    "read by eye",
    "unknown",
}


def test_every_number_has_source_and_known_trust():
    tables = published.load()
    assert len(tables) == 5
    for table in tables.values():
        for row in table.cells.values():
            for cell in filter(None, row.values()):
                assert cell.source and cell.trust in TRUSTS and cell.unit in ("%", "s")
                assert (cell.text == "") == (cell.trust == "unknown")
                assert not cell.text or 0 <= float(cell.text) <= 200


def test_the_outcomes_of_table_2_add_up():
    for row in published.load()["safety_mirage_table2"].cells.values():
        assert sum(float(cell.text) for cell in row.values()) == pytest.approx(100, abs=0.011)


def test_counts_in_the_notes_give_the_printed_percentages():
    checked = 0
    for table in published.load().values():
        for row in table.cells.values():
            for cell in filter(None, row.values()):
                parts = cell.note.split()
                if len(parts) == 3 and parts[1] == "of":
                    assert f"{100 * int(parts[0]) / int(parts[2]):.2f}" == cell.text
                    checked += 1
    assert checked >= 20


def test_a_table_of_another_layout_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="columns must be"):
        published.load(tmp_path)
