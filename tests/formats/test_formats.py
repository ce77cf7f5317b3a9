"""Files of every version are read, wrong fields are named, and the page says what is declared."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.formats import page
from vlm_mu_jax.formats.answers import AnswerLine
from vlm_mu_jax.formats.attack import AttackFile, MethodsFile
from vlm_mu_jax.formats.audit import AuditFile
from vlm_mu_jax.formats.guards import DefencesFile, DiagnosticsFile
from vlm_mu_jax.formats.provenance import ProvenanceFile
from vlm_mu_jax.formats.reading import check_value, read_file, read_lines
from vlm_mu_jax.formats.results import ResultsFile
from vlm_mu_jax.formats.stress import HoldsFile
from vlm_mu_jax.formats.training import RelearningFile, StepLine, SweepFile

OLD = Path(__file__).parent / "version_1"
KINDS = {
    "attack": AttackFile,
    "audit": AuditFile,
    "saliency": AuditFile,
    "diagnostics": DiagnosticsFile,
    "results": ResultsFile,
    "methods": MethodsFile,
    "defences": DefencesFile,
    "holds": HoldsFile,
    "relearning": RelearningFile,
    "sweep": SweepFile,
    "provenance": ProvenanceFile,
}


@pytest.mark.parametrize("name", KINDS)
def test_files_of_version_1_are_read_whole(name):
    path = OLD / f"{name}.json"
    assert read_file(path, KINDS[name]) == json.loads(path.read_text())


@pytest.mark.parametrize(("name", "kind"), [("answers", AnswerLine), ("metrics", StepLine)])
def test_lines_of_version_1_are_read_whole(name, kind):
    path = OLD / f"{name}.jsonl"
    assert read_lines(path, kind) == [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"jailbreak": [{"word": "what"}, {"word": 3}]}', r"a.json: jailbreak\[1\].word: expected `str`, got `int`"),
        ('{"jailbreak": [{"score": 1.0}]}', r"jailbreak\[0\]: object missing required field `word`"),
        ('{"jailbreak": [{"word": "a", "score": NaN}]}', "holds the number NaN"),
        ('{"jailbreak": [{"word": "a", "score": 1e999}]}', "holds the number 1e999"),
        ('{"any_of_k": {"asr": []}}', r"any_of_k\[...\]: expected `object`, got `array`"),
        ('{"schema": 2}', "schema is 2, this version reads schema 1"),
        ('{"schema": {"a": 1}}', "schema is .*, this version"),
        ("[" * 20_000, "cannot be read as JSON"),
        ('{"model": "\\ud800"}', "cannot be read as JSON"),
    ],
)
def test_a_wrong_field_is_one_line_that_names_it(tmp_path, content, says):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=says) as error:
        read_file(tmp_path / "a.json", AttackFile)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "value", "field"),
    [
        (DiagnosticsFile, {"auroc_interval": {"text": [[0.5]]}}, "auroc_interval"),
        (DiagnosticsFile, {"answers": {"conditions": {"own": []}}}, "answers.conditions"),
        (AuditFile, {"attribution": {"correlations": {"a": {"here": {"n": 9, "pearson": {}}}}}}, "pearson"),
        (DefencesFile, {"rows": [{"metrics": {"settings": {"direct": {"own_image": {"asr": "high"}}}}}]}, "metrics"),
        (SweepFile, {"rows": [{"metrics": []}]}, "metrics"),
        (RelearningFile, {"curve": [{"metrics": {}}]}, "step"),
        (HoldsFile, {"name": "a", "rows": [], "depth": {"conditions": {}, "n": []}}, "depth.n"),
        (ProvenanceFile, {"base": "llava"}, "base"),
    ],
)
def test_what_readers_count_on_is_declared(kind, value, field):
    with pytest.raises(InputError, match=field):
        check_value(value, kind, "here")


def test_unknown_fields_pass(tmp_path):
    value = {"schema": 1, "later": {"a": [1]}, "jailbreak": [{"word": "a", "more": True}]}
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert read_file(tmp_path / "a.json", AttackFile) == value


def test_a_line_cut_off_by_a_kill_is_left_out_and_any_other_is_named(tmp_path):
    whole = json.dumps({"id": "a", "answer": "b"})
    path = tmp_path / "a.jsonl"
    path.write_text(f"{whole}\n\n{whole[:9]}")
    assert read_lines(path, AnswerLine) == [json.loads(whole)]
    path.write_text(f"{whole}\n{whole[:9]}\n{whole}\n")
    with pytest.raises(InputError, match=r"a.jsonl:2: not JSON"):
        read_lines(path, AnswerLine)
    path.write_text(f'{whole}\n{{"id": "a"}}\n')
    with pytest.raises(InputError, match=r"a.jsonl:2: the whole: object missing required field `answer`"):
        read_lines(path, AnswerLine)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(kind=st.sampled_from(list(KINDS.values())), value=JSON, data=st.data())
def test_any_value_in_any_field_passes_or_is_refused(kind, value, data):
    field = data.draw(st.sampled_from(sorted(kind.__annotations__)))
    try:
        check_value({field: value}, kind, "here")
    except InputError as error:
        assert "\n" not in str(error)


def test_the_page_is_made_from_the_declarations(root):
    shown = (root / "docs" / "formats.md").read_text(encoding="utf-8")
    assert shown == page.markdown(), "run: python -m vlm_mu_jax.formats.page > docs/formats.md"


def test_reading_a_format_needs_no_jax():
    code = "import sys, vlm_mu_jax.formats.reading; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
