"""Any path that a shell accepts works: one test over all functions that write or find a file or folder."""

import os
import subprocess
from pathlib import Path

import pytest

import vlm_mu_jax
from tests.conversion.hf_checkpoints import make_llama, save
from vlm_mu_jax.conversion.convert import convert
from vlm_mu_jax.conversion.exporter import export
from vlm_mu_jax.conversion.locate import locate
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.folders import complete_folder
from vlm_mu_jax.files.json_file import read_json, write_json
from vlm_mu_jax.files.paths import at_home, resolved

# Spelled from a working folder `here` beside `there`, with the home folder above both; `link` leads to `there`.
SPELLINGS = [
    "plain",
    "./dot",
    "../up",
    "../there/../there/around",
    "../there/",
    "~/home",
    "../with space/and  two",
    "../ünïcödé/模型",
    "../link/through",
    "link_to_nothing_yet",
    "quote'\"$&;",
    "trailing/",
    "a.b/c.partial",
    "%41",
    "-dash",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(make_llama(3, num_hidden_layers=1), tmp_path_factory.mktemp("hf"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    os.symlink("there", tmp_path / "link")
    os.symlink("../there/later", tmp_path / "here" / "link_to_nothing_yet")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.mark.parametrize("path", SPELLINGS)
def test_models_go_there_and_back_under_every_path(path, here, checkpoint):
    convert(checkpoint, path)
    model = vlm_mu_jax.load(path, with_processor=False)
    assert model.folder.is_dir() and os.path.realpath(os.path.expanduser(path)) == str(model.folder)
    out = path.rstrip("/") + "_hf"
    assert export(path, out).folder == locate(out if "/" in out else f"./{out}")


@pytest.mark.parametrize("path", SPELLINGS)
def test_files_and_folders_appear_under_every_path(path, here):
    with complete_folder(path, "mark") as folder:
        (folder / "mark").write_text("1")
    assert (Path(path).expanduser() / "mark").is_file()
    write_json(f"{path}/file.json", {"a": 1})
    assert read_json(f"{path}/file.json") == {"a": 1}


@pytest.mark.parametrize("path", SPELLINGS)
def test_a_workdir_is_where_its_files_are_written(path, here):
    """Functions look into a workdir by its own path, and write JSON files by the resolved one."""
    write_json(f"{path}/config.json", {"a": 1})
    assert (at_home(path) / "config.json").is_file()


def test_a_command_takes_them(here, checkpoint, root):
    command = [root / "bin" / "convert_hf", f"--source={checkpoint}"]
    for path in ("../runs/base", "~/my models/模型/"):
        done = subprocess.run([*command, f"--out={path}"], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert (Path(path).expanduser() / "vlm_mu_jax.json").is_file()


@pytest.mark.parametrize("path", ["", os.fsdecode(b"\xff"), "null\0", "~nobody-of-this-name/x", "loop/x"])
def test_what_is_no_path_is_one_line(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    with pytest.raises(InputError) as caught:
        resolved(path)
    assert "\n" not in str(caught.value)
    str(caught.value).encode("utf-8")


def test_nobody_spells_a_path_by_hand(root):
    """`Path.absolute` keeps `..`, which TensorStore and Orbax refuse."""
    found = [
        str(file.relative_to(root))
        for file in (root / "vlm_mu_jax").rglob("*.py")
        if ".absolute(" + ")" in file.read_text(encoding="utf-8")
    ]
    assert not found, f"use files/paths.py: {found}"
