"""Metrics reach the tracker that config.log names. W&B and trackio run for real where they are installed."""

import json
import sqlite3
import sys
from types import SimpleNamespace

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.training import trackers


class FakeRun:
    def __init__(self, given):
        self.given, self.rows, self.closed = given, [], False

    def log(self, values, step):
        self.rows.append((step, values))

    def finish(self):
        self.closed = True


def written(tracker, workdir):
    tracker.add(1, {"train/loss": 0.5})
    tracker.add(1, {"evaluation/asr": 0.25})
    tracker.close()
    return workdir


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_numbers_go_where_the_config_says_and_stay_on_the_machine(name, tmp_path, monkeypatch):
    runs = []

    def init(project=None, **given):
        runs.append(FakeRun({"project": project, **given}))
        return runs[-1]

    monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=init, Settings=lambda **given: given))
    monkeypatch.setattr(trackers, "find_spec", lambda _: True)
    for variable in ("WANDB_MODE", "TRACKIO_DIR"):
        monkeypatch.setenv(variable, "x")
        monkeypatch.delenv(variable)
    for _ in range(2):
        written(trackers.opened(name, tmp_path, 0), tmp_path)
    first, second = runs
    assert first.rows == [(1, {"train/loss": 0.5}), (1, {"evaluation/asr": 0.25})] and first.closed
    assert first.given == second.given and first.given["resume"] == "allow", "a run goes on under its name"
    if name == "wandb":
        assert first.given["mode"] == "offline" and first.given["dir"] == str(tmp_path)
    else:
        assert trackers.os.environ["TRACKIO_DIR"].startswith(str(tmp_path)) and "space_id" not in first.given


def test_trackio_itself_keeps_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio")
    written(trackers.opened("trackio", tmp_path, 0), tmp_path)
    with sqlite3.connect(next((tmp_path / "trackio").glob("*.db"))) as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    kept = [(step, json.loads(values)) for step, values in rows]
    assert kept == [(1, {"train/loss": 0.5}), (1, {"evaluation/asr": 0.25})]


def test_wandb_itself_writes_an_offline_run(tmp_path):
    pytest.importorskip("wandb")
    written(trackers.opened("wandb", tmp_path, 0), tmp_path)
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_what_is_unknown_or_not_installed_is_said(monkeypatch):
    with pytest.raises(InputError, match="config.log: 'wandbb' is unknown; did you mean wandb?"):
        trackers.check("wandbb")
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"config.log=trackio needs a package; pip install 'vlm_mu_jax\[trackio\]'"):
        trackers.check("trackio")
