"""The table of what holds: every row beside its control, kept row by row, paired with the model before."""

import dataclasses
import json

import pytest

import vlm_mu_jax
from tests.command import run_command
from tests.evaluation.conftest import checkpoint, data_dir, model, quick  # noqa: F401
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.stress import tables
from vlm_mu_jax.stress.holds import stored_result
from vlm_mu_jax.stress.rows import HoldsRow, RowRate, against

MADE = ("as_is", "text_only", "words", "int4", "pruned")
OPTIONS = vlm_mu_jax.HoldsOptions(
    "tiny",
    rows=(*MADE, "relearned"),
    questions=3,
    search_questions=1,
    shots=1,
    words=vlm_mu_jax.WordOptions(("what", "list", "some", "any"), shortlist=0, rescored=0, block=4),
    batch_size=4,
    max_new_tokens=4,
)


@pytest.fixture
def found(checkpoint, data_dir, quick, tmp_path):  # noqa: F811
    return vlm_mu_jax.holds(checkpoint, data_dir, OPTIONS, workdir=tmp_path / "run")


def test_every_row_stands_beside_its_control(found, tmp_path):
    rows = {row["name"]: row for row in found.content["rows"]}
    assert list(rows) == [*MADE, "relearned"] and rows["as_is"]["control"] == ""
    assert rows["as_is"]["rates"]["asr"]["rate"]["n"] == 3 and rows["as_is"]["rates"]["asr"]["control"] is None
    assert set(rows["text_only"]["rates"]) == {"asr", "rr", "harmless_right"}
    assert rows["text_only"]["rates"]["asr"]["rate"]["n"] == 2  # two of the four requests are harmful
    for name in ("int4", "pruned"):  # generation is replaced by a function of the prompt: the weights change nothing
        for rate, one in rows[name]["rates"].items():
            assert one["rate"] == one["control"] == rows["as_is"]["rates"][rate]["rate"] and one["test"]["p"] == 1
    assert rows["words"]["control"] == "null words" and set(rows["words"]["rates"]) == {"asr", "rr"}
    assert "--forget_answers" in rows["relearned"]["skipped"] and not rows["relearned"]["rates"]
    assert json.loads((tmp_path / "run" / "holds.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    assert "not made: needs --forget_answers" in found.table() and "harmful answers" in found.table()


def test_a_second_call_makes_only_what_is_missing(found, checkpoint, data_dir, quick, tmp_path):  # noqa: F811
    calls = len(quick)
    again = vlm_mu_jax.holds(checkpoint, data_dir, OPTIONS, workdir=tmp_path / "run")
    assert len(quick) == calls and again.to_dict() == found.to_dict()
    more = dataclasses.replace(OPTIONS, rows=(*MADE, "nf4"))
    made = []
    vlm_mu_jax.holds(checkpoint, data_dir, more, workdir=tmp_path / "run", on_row=made.append)
    assert [row.name for row in made] == ["nf4"]
    with pytest.raises(InputError, match="holds rows of another settings"):
        vlm_mu_jax.holds(checkpoint, data_dir, dataclasses.replace(OPTIONS, seed=1), workdir=tmp_path / "run")


def test_an_exported_folder_is_bound_to_its_files_and_compared_with_the_model(found, checkpoint, data_dir, tmp_path):  # noqa: F811
    vlm_mu_jax.export(checkpoint, tmp_path / "hf")
    only = dataclasses.replace(OPTIONS, rows=("as_is",))
    served = vlm_mu_jax.holds(tmp_path / "hf", data_dir, only, baseline=tmp_path / "run", workdir=tmp_path / "served")
    assert set(served.content["exported_files"]) == {path.name for path in (tmp_path / "hf").iterdir()}
    weights = [one.content["provenance"]["checkpoint"]["weights_sha256"] for one in (found, served)]
    assert weights[0] == weights[1] == weights_hash(vlm_mu_jax.load(checkpoint).params)
    (row,) = served.content["rows"]
    assert served.content["baseline"] == "tiny" and all(test["b"] == test["c"] == 0 for test in row["against"].values())
    (tmp_path / "hf" / "config.json").write_text((tmp_path / "hf" / "config.json").read_text() + "\n")
    with pytest.raises(InputError, match="another exported_files"):
        vlm_mu_jax.holds(tmp_path / "hf", data_dir, only, workdir=tmp_path / "served")


def test_rows_are_paired_question_by_question():
    def row(name, flags):
        return HoldsRow(name, "what", "control", {"asr": RowRate({str(i): bool(f) for i, f in enumerate(flags)})})

    now = [row("as_is", [1] * 8 + [0]), row("int4", [0, 0]), row("words", [1])]
    before = [row("as_is", [0] * 9), row("int4", [0, 1])]
    tests = against(now, before)
    assert set(tests) == {"as_is", "int4"}
    assert (tests["as_is"]["asr"]["b"], tests["as_is"]["asr"]["c"], tests["int4"]["asr"]["b"]) == (0, 8, 1)
    assert tests["as_is"]["asr"]["p_holm"] == pytest.approx(2 * 2 / 2**8)
    assert HoldsRow.of(json.loads(json.dumps(now[0].stored()))) == now[0]


def test_the_page_shows_what_the_files_hold(found):
    other = json.loads(json.dumps(found.to_dict()))
    other["name"] = "second"
    other["rows"] = [row for row in other["rows"] if row["name"] != "int4"]
    asr = next(row for row in other["rows"] if row["name"] == "pruned")["rates"]["asr"]
    asr["rate"].update(value=0.5, low=0.25, high=0.75)
    asr["test"]["p"] = 0.01
    text = tables.page([found.content, other])
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "## Harmful answers" in text and "tiny (n 3)" in text and "second (n 3)" in text
    section = text[text.index("## Harmful answers") : text.index("## Harmless refused")]
    by_row = {line.split(" | ")[0].strip("| "): line for line in section.splitlines() if line.startswith("| ")}
    assert by_row["int4"].endswith("| – |") and "**50 [25, 75]** / " in by_row["pruned"]
    assert "relearned: needs --forget_answers" in lines["tiny"]


@pytest.mark.parametrize(
    ("result", "row", "says"),
    [
        ({"rows": [{"skipped": ""}]}, {}, r"holds.json: rows\[0\]|holds.json: .*name"),
        ({"name": "a", "rows": [{"name": "magic", "title": "", "rates": {}}]}, {}, "there is no row 'magic'"),
        ({"name": "a", "rows": [{"name": "as_is", "title": "", "rates": {}}]}, {"name": "as_is"}, "as_is.json: .*what"),
        (
            {"name": "a", "rows": [{"name": "as_is", "title": "", "rates": {}}]},
            {"name": "as_is", "what": "", "rates": {"asr": {"flags": {"a": "yes"}}}},
            r"as_is.json: rates\[...\].flags",
        ),
    ],
)
def test_a_workdir_of_another_form_is_one_line(tmp_path, result, row, says):
    (tmp_path / "rows").mkdir()
    (tmp_path / "holds.json").write_text(json.dumps(result))
    (tmp_path / "rows" / "as_is.json").write_text(json.dumps(row))
    with pytest.raises(InputError, match=says):
        stored_result(tmp_path)


def test_no_such_row_and_half_a_page_are_one_line(tmp_path):
    with pytest.raises(InputError, match="--rows: .*'magic'"):
        vlm_mu_jax.HoldsOptions(rows=("as_is", "magic"))
    with pytest.raises(InputError, match="cannot be read|missing"):
        stored_result(tmp_path)
    for flags, said in (
        ([f"--page={tmp_path / 'page.md'}"], "--page and --runs belong together"),
        (["--checkpoint=x"], "--data and --workdir are required"),
        (["--checkpoint=x", "--data=y", f"--workdir={tmp_path / 'w'}", "--calibrate=z"], "leave it out here"),
    ):
        done = run_command("holds", *flags)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
