"""The tables of docs/results.md come from the files of quickstarts, and nothing else."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.reporting import runs_builder
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.reporting import results_page

PAGE = (
    "Prose.\n\n<!-- table: targets -->\nold figures\n<!-- end -->\n\nMore.\n\n<!-- table: recipes -->\n<!-- end -->\n"
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    root = tmp_path_factory.mktemp("quickstarts")
    write = runs_builder.write_quickstart
    kept = {"gap": {"text_only": {"rr": runs_builder.metric(0.84, 80), "asr": runs_builder.metric(0.0, 80)}}}
    return results_page.tables(
        {3: write(root / "seed3", 3, npo=(0.02, 0.94)), 4: write(root / "seed4", 4, kept, npo=(0.02, 0.03))}
    )


def rows(table: str, model: str) -> list[list[str]]:
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    return [row for row in cells if row[1] == model]


def test_a_missed_target_is_bold_and_its_seed_is_named(tables):
    found = rows(tables["targets"], "npo")
    assert [row[0] for row in found] == ["3", "4"]
    assert [row[7][:4] for row in found] == ["**94", "3 [1"]
    sentence = next(line for line in tables["targets"].splitlines() if line.startswith("- **npo**"))
    assert "1 of 2 seeds (4)" in sentence and "harmless refused under its own words (seed 3)" in sentence


def test_a_model_row_holds_the_measured_rates_and_the_worst_opening(tables):
    (row,) = [row for row in rows(tables["models"], "sft") if row[0] == "3"]
    assert row[2:5] == ["0", "97", "0"]
    assert row[-2:] == ["0", "93"]  # right under the worst opening; utility


def test_what_was_not_measured_stands_as_a_dash(tables):
    assert rows(tables["gap"], "guard")[0][5] == "-"
    assert tables["audit"].splitlines()[2] == "| 3 | 0.72 [0.39, 0.95], 27 words | - | - |"


def test_blocks_are_filled_and_filling_again_changes_nothing(tables):
    filled = results_page.fill(PAGE, {"targets": tables["targets"]})
    assert "old figures" not in filled and tables["targets"] in filled
    assert results_page.NOT_MEASURED in filled.partition("More.")[2]
    assert filled.startswith("Prose.\n\n") and results_page.fill(filled, {"targets": tables["targets"]}) == filled


def test_blocks_of_another_world_stay_as_they_are(tables):
    page = PAGE + "\n<!-- table: english_targets -->\nolder\n<!-- end -->\n"
    assert "\nolder\n" in results_page.fill(page, {"targets": tables["targets"]})
    filled = results_page.fill(page, {"targets": tables["targets"]}, "english")
    assert "old figures" in filled and "\nolder\n" not in filled and tables["targets"] in filled


def test_without_an_unlearned_model_its_targets_are_not_measured(tmp_path):
    folder = runs_builder.write_quickstart(tmp_path / "seed3", 3)
    for name in ("npo", "rmu"):
        shutil.rmtree(folder / f"eval_{name}", ignore_errors=True)
    assert results_page.tables({3: folder})["targets"] == results_page.NOT_MEASURED


def test_both_judges_stand_beside_each_other(tmp_path):
    folder = runs_builder.write_quickstart(tmp_path / "seed3", 3, npo=(0.02, 0.94))
    for file in folder.glob("eval_sft/answers/*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            line["labels"]["refusal"] = {"label": "refused"}
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for other in set(folder.glob("eval_*")) - {folder / "eval_sft"}:
        shutil.rmtree(other)
    ((_, _, agree, *asr),) = rows(results_page.judges({3: folder}), "sft")
    assert asr[1] == asr[3] == "0" and int(asr[0]) > 0  # one judge hears refusals alone
    assert 0 < int(agree) < 100
    results_page.record({3: folder}, tmp_path / "kept", two_judges=True)
    assert results_page.judges({3: tmp_path / "kept" / "seed3"}) == results_page.judges({3: folder})
    assert not list((tmp_path / "kept").rglob("*.jsonl"))  # without any answer


def test_a_table_without_a_block_is_an_error(tables):
    with pytest.raises(InputError, match="no block for models"):
        results_page.fill(PAGE, {"models": tables["models"]})


def test_no_table_of_the_results_is_typed_by_hand():
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    outside = re.sub(r"<!-- table: \w+ -->.*?<!-- end -->", "", page, flags=re.DOTALL)
    assert not [line for line in outside.splitlines() if line.startswith("|")]
    assert len(re.findall(r"<!-- table: ", page)) == 13


DOCS = Path(__file__).parents[2] / "docs"


def recorded(world: str) -> dict[int, Path]:
    """Folders of the files that the page's tables are made of, by seed."""
    return {int(folder.name.removeprefix("seed")): folder for folder in (DOCS / "measured" / world).iterdir()}


def test_the_miniature_tables_are_made_of_the_files_beside_them():
    """All but two, whose files are larger: those of the recipes."""
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"<!-- table: (\w+) -->\n\n(.*?)\n\n<!-- end -->", page, flags=re.DOTALL))
    tables = {name: blocks[name] for name in ("recipes", "relearning")}
    assert results_page.fill(page, {**results_page.tables(recorded("nonsense")), **tables}) == page


def test_the_english_tables_are_made_of_the_files_beside_them():
    page, measured = (DOCS / "results.md").read_text(encoding="utf-8"), recorded("english")
    tables = {**results_page.tables(measured), "judges": results_page.judges(measured)}
    assert results_page.fill(page, tables, "english") == page
