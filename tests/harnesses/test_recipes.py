"""docs/harnesses.md shows what `bin/check_harness` runs, and nothing else."""

from pathlib import Path

import pytest

from tests.harnesses.check import HARNESSES, RECIPES, of_garak

DOC = (Path(__file__).resolve().parents[2] / "docs" / "harnesses.md").read_text(encoding="utf-8")
FILES = sorted(path.relative_to(RECIPES).as_posix() for path in RECIPES.rglob("*.*") if path.suffix != ".pyc")


@pytest.mark.parametrize("file", FILES)
def test_every_recipe_stands_in_the_guide_as_it_is_run(file):
    assert f"\n{(RECIPES / file).read_text(encoding='utf-8').rstrip()}\n```" in DOC
    assert file in DOC


@pytest.mark.parametrize("name", HARNESSES)
def test_every_command_stands_in_the_guide_as_it_is_run(name):
    lines = DOC.replace(" \\\n      ", " ").replace("'", "")
    assert f"\n    {HARNESSES[name].command}\n" in lines
    assert f"\n    pip install {' '.join(HARNESSES[name].packages)}\n" in lines
    assert f"bin/check_harness {name}\n" in lines


def test_a_result_file_without_an_evaluation_is_noticed(tmp_path):
    (tmp_path / "signs.report.jsonl").write_text('{"entry_type": "init"}\n')
    with pytest.raises(AssertionError):
        of_garak(tmp_path)
