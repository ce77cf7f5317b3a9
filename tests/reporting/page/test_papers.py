"""The papers' tables: runs stand beside published rows of their kind, and neither half takes numbers of the other."""

import pytest

from tests.reporting import runs_builder
from vlm_mu_jax.reporting.inputs import content, published
from vlm_mu_jax.reporting.page import papers


@pytest.fixture(scope="module")
def tables(story):
    return papers.papers(content.collect(story[0]).runs, published.load())


def test_kinds_pair(tables):
    lines = [(line.run and line.run.name, line.row) for line in tables["safety_mirage_table1"].lines]
    assert lines == [
        ("base", "LLaVA-1.5-7B"),
        ("sft", "Mixed-SFT"),
        (None, "Posthoc-SFT"),
        ("npo", "NPO"),
        ("rmu", "RMU"),
    ]
    lines = [(line.run and line.run.name, line.row) for line in tables["vlm_guard_blank_image"].lines]
    assert lines == [("base", "LLaVA-1.5-7B"), ("guard", "LLaVA-1.5-7B + VLM-Guard")]


def test_each_half_keeps_its_own_numbers(tables):
    paper = tables["safety_mirage_table1"]
    sft = paper.lines[1]
    assert sft.measured[1] is sft.run.metric("asr_after") and sft.cells[1].text == "54.98"
    assert paper.lines[2].measured == (None,) * 5 and paper.lines[2].cells[1].text == "46.83"
    assert [heading for _, heading in paper.measured][-1] == "Utility" and paper.columns[-1] == "VQAv2 accuracy"


def test_a_column_that_nothing_measures_is_published_only(tables):
    paper = tables["safety_mirage_table3"]
    assert "ASR after GCG suffix" in paper.columns
    assert "ASR after GCG suffix" not in [heading for _, heading in paper.measured]


def test_every_column_and_row_asked_for_is_published(tables):
    for name, paper in tables.items():
        table = published.load()[name]
        assert set(paper.columns) == set(table.columns), name
        assert {line.row for line in paper.lines} - {""} == set(table.cells), name


def test_without_runs_of_its_kinds_only_the_published_half_is_left(tmp_path):
    runs = content.collect([runs_builder.write_run(tmp_path / "guard", "guard")]).runs
    paper = papers.papers(runs, published.load())["safety_mirage_table2"]
    assert paper.measured == () and all(line.run is None for line in paper.lines)


def test_seeds_stand_one_under_the_other(tmp_path):
    runs = content.collect(runs_builder.write_story(tmp_path, seeds=(0, 1, 2))).runs
    lines = papers.papers(runs, published.load())["safety_mirage_table1"].lines
    assert [line.row for line in lines if line.run and line.run.kind == "sft"] == ["Mixed-SFT", "Posthoc-SFT", ""]
