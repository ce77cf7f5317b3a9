"""The card of an export says what is known of the model, and nothing else; a dry run sends nothing."""

import json

import huggingface_hub
import pytest

from vlm_mu_jax.conversion.model_card import card
from vlm_mu_jax.conversion.push import check_name, push
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.storage.origin import base_of, licence_of

TRAINED = {
    "kind": "npo",
    "objective": {"name": "npo", "beta": 0.1},
    "seed": 3,
    "weights_of_step": 40,
    "start_weights_sha256": "a" * 64,
    "weights_sha256": "b" * 64,
    "data": {"files": {"safety": "c" * 64}},
    "packages": {"jax": "0.10.2"},
    "base": {"source": "llava-hf/llava-1.5-7b-hf", "license": "llama2"},
}


def metric(value):
    return {"value": value, "low": value / 2, "high": min(1.0, value * 2), "n": 40, "k": round(40 * value)}


@pytest.fixture
def trained(tmp_path):
    (tmp_path / "npo").mkdir()
    (tmp_path / "npo" / "provenance.json").write_text(json.dumps(TRAINED))
    return tmp_path / "npo"


def evaluation(folder, weights):
    folder.mkdir()
    made = {"checkpoint": {"weights_sha256": weights, "source": None}, "data": {"sha256": {"test.json": "d" * 64}}}
    metrics = {"asr_after": metric(0.05), "gap": {"blank": {"asr": metric(0.25)}}, "note": 3}
    run = {"name": "npo", "judge": "refusal", "unjudged": {"errors": 2, "abstained": 0}, "metrics": metrics}
    (folder / "results.json").write_text(json.dumps({"schema": 1, "runs": [run], "provenance": made}))
    return folder


def test_a_trained_models_card(trained, tmp_path):
    text = card("npo_hf", trained, {"vision_config": {}}, [evaluation(tmp_path / "eval", "b" * 64)])
    (tmp_path / "README.md").write_text(text)
    assert huggingface_hub.metadata_load(tmp_path / "README.md") == {
        "license": "llama2",
        "base_model": "llava-hf/llava-1.5-7b-hf",
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["vlm_mu_jax"],
    }
    assert "| `asr_after` | 5.0 % | 2.5 % to 10.0 % | 40 |" in text
    assert "| `gap/blank/asr` | 25.0 % | 12.5 % to 50.0 % | 40 |" in text
    for words in (
        "Judge: `refusal`. 2 answers have no verdict",
        "c" * 64,
        "d" * 64,
        '"beta": 0.1',
        "Steps: 40, seed 3",
    ):
        assert words in text
    assert "That of the base model: `llama2`" in text


def test_what_is_not_known_is_said_to_be_unknown(tmp_path):
    (tmp_path / "provenance.json").write_text(json.dumps({"source": str(tmp_path), "sha256": {}}))
    text = card("x", tmp_path, {})
    (tmp_path / "README.md").write_text(text)
    assert huggingface_hub.metadata_load(tmp_path / "README.md").keys() == {"library_name", "pipeline_tag", "tags"}
    assert "Nothing was measured" in text and "card was not at hand" in text and "converted" in text


def test_results_of_other_weights_are_refused(trained, tmp_path):
    with pytest.raises(InputError, match="measured other weights"):
        card("npo", trained, {}, [evaluation(tmp_path / "other", "e" * 64)])
    for wrong in ("{}", '{"schema": 1, "runs": [], "provenance": {"checkpoint": "npo"}}', '{"schema": 1, "runs": [3]}'):
        (tmp_path / "results.json").write_text(wrong)
        with pytest.raises(InputError, match="no results of bin/eval"):
            card("npo", trained, {}, [tmp_path / "results.json"])


def test_a_provenance_of_another_form_is_named(trained):
    (trained / "provenance.json").write_text('{"source": 7}')
    with pytest.raises(InputError, match=r"provenance.json: source: expected `str \| null`, got `int`"):
        card("npo", trained, {})


def test_the_licence_comes_from_the_card_of_the_checkpoint_through_every_training(trained, tmp_path):
    assert base_of(trained) == TRAINED["base"] and base_of(tmp_path / "nothing") == {}
    (tmp_path / "provenance.json").write_text('{"source": "a/b", "license": "mit", "sha256": {}}')
    assert base_of(tmp_path) == {"source": "a/b", "license": "mit"}
    assert licence_of(tmp_path) is None
    for content, licence in (("---\nlicense: mit\n---\n# x", "mit"), ("---\n{ [\n---\n", None), ("# x", None)):
        (tmp_path / "README.md").write_text(content)
        assert licence_of(tmp_path) == licence


def test_a_push_says_what_goes_and_a_dry_run_sends_nothing(trained, monkeypatch):
    calls, said = [], []

    class Hub:
        def create_repo(self, name, **options):
            calls.append((name, options))

        def upload_folder(self, repo_id, folder_path):
            calls.append((repo_id, folder_path))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    push(trained, "org/npo", True, said.append)
    assert not calls and said[0].startswith("would go to org/npo") and "provenance.json" in said[1]
    push(trained, "org/npo", False, said.append)
    assert calls == [("org/npo", {"private": True, "exist_ok": True}), ("org/npo", trained)]
    monkeypatch.setattr(Hub, "upload_folder", lambda *_, **__: 1 / 0)
    with pytest.raises(JobError, match="--push=org/npo: ZeroDivisionError"):
        push(trained, "org/npo", False, said.append)
    with pytest.raises(InputError, match="write ORG/NAME"):
        check_name("npo")
