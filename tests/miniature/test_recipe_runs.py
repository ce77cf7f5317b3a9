"""What bin/compare runs: a seed's folder is read, what is done is not run again, and a failure says which command."""

import json

import pytest

from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.miniature import commands, recipe_runs
from vlm_mu_jax.training.recipes import RECIPES

NPO = next(recipe for recipe in RECIPES if recipe.name == "npo")


@pytest.fixture
def finished(tmp_path):
    """A folder that holds what a finished quickstart of seed 3 does, as far as it is looked at."""
    run = tmp_path / "run"
    for name in ("base", "sft/model", "attack_sft.json", "forget/answers/unsafe_before.jsonl"):
        (run / name).mkdir(parents=True)
    (run / "seed.txt").write_text("3\n")
    return run


def test_a_finished_folder_is_known_by_its_seed_and_world(finished, tmp_path):
    assert recipe_runs.quickstarts([finished], [], tmp_path / "out") == {3: finished}
    with pytest.raises(InputError, match="is of the nonsense world"):
        recipe_runs.quickstarts([finished], [], tmp_path / "out", "english")
    (finished / "base").rmdir()
    with pytest.raises(InputError, match=r"lacks base; give a finished folder .* --only=none"):
        recipe_runs.trained_models([NPO], {3: finished}, tmp_path / "out")
    (finished / "seed.txt").unlink()
    with pytest.raises(InputError, match=r"lacks seed.txt; give a finished folder"):
        recipe_runs.quickstarts([finished], [], tmp_path / "out")


def test_curves_that_are_there_are_read_and_others_are_run(finished, tmp_path, monkeypatch):
    out, ran = tmp_path / "out", []

    def run(name, arguments, quiet):
        ran.append((name, *arguments))
        return commands.Done(1, 0.0, 0)

    monkeypatch.setattr(commands, "run", run)
    for kind in ("forgotten", "harmless"):
        workdir = out / "seed3" / f"relearn_npo_{kind}"
        workdir.mkdir(parents=True)
        (workdir / "relearn.json").write_text(json.dumps({"label": kind}))
    found = recipe_runs.relearning_curves([NPO], {3: finished}, out)
    assert found == {3: [{"label": "forgotten"}, {"label": "harmless"}]} and not ran
    (workdir / "relearn.json").unlink()
    with pytest.raises(JobError, match=r"bin/relearn --checkpoint=\S+npo/model .* failed"):
        recipe_runs.relearning_curves([NPO], {3: finished}, out)
    assert [words[0] for words in ran] == ["relearn"] and f"--workdir={workdir}" in ran[0]
