"""Configs by path and by name, and what is said about one that does not exist."""

from pathlib import Path

import pytest

import vlm_mu_jax
from tests.conftest import ROOT
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.training.config_files import config_files, find_config, load_config

SHIPPED = {path.stem for path in (ROOT / "configs").glob("*.py")}


def test_a_name_is_a_path_then_in_configs_here_then_in_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(config_files()) == SHIPPED
    assert find_config("llava15_unlearn:7b_npo") == f"{ROOT / 'configs/llava15_unlearn.py'}:7b_npo"
    assert find_config("configs/sweep.py:rmu") == f"{ROOT / 'configs/sweep.py'}:rmu"
    Path("configs").mkdir()
    Path("configs/sweep.py").write_text("def get_config(name='here'):\n    return name\n")
    assert find_config("sweep:rmu") == "configs/sweep.py:rmu" and load_config("sweep") == "here"
    Path("sweep").write_text("")
    assert find_config("sweep:rmu") == "sweep:rmu"


def test_the_argument_reaches_the_config():
    assert load_config("miniature_unlearn:rmu").objective.name == "rmu"
    assert load_config(str(ROOT / "configs/miniature_unlearn.py")).objective.name == "npo"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("miniature_unlaern:npo", "did you mean miniature_unlearn:npo?"),
        ("configs/none.py", "use one of english_sft, english_unlearn, llava15_unlearn"),
        ("/nowhere/sweep.py", "there is no config file /nowhere/sweep.py"),
        ("miniature_unlearn:nope", "nope is unknown; use one of ga"),
        (__file__, "has no get_config()"),
        (str(ROOT / "pyproject.toml"), "no Python file"),
    ],
)
def test_what_is_no_config_is_named(name, message):
    with pytest.raises(InputError) as error:
        load_config(name)
    assert message in str(error.value)


def test_training_takes_a_name_and_changes(tmp_path):
    with pytest.raises(InputError, match="learningrate is no key; did you mean config.optim.learning_rate"):
        vlm_mu_jax.train("miniature_unlearn:npo", tmp_path, changes={"train.learningrate": 1e-3})
    with pytest.raises(InputError, match="config.optim.learning_rate"):
        vlm_mu_jax.train("miniature_unlearn:npo", tmp_path, changes={"optim.learning_rate": "fast"})
    with pytest.raises(InputError, match="config.sweep is set"):
        vlm_mu_jax.train("sweep:npo", tmp_path)
    with pytest.raises(InputError, match="/nowhere: no such folder"):
        vlm_mu_jax.train("miniature_unlearn:npo", tmp_path, changes={"model.init": "/nowhere"})
