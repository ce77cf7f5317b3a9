"""Output folders: all or nothing, and never over somebody else's files."""

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.folders import complete_folder


def test_the_folder_appears_when_it_is_complete(tmp_path):
    out = tmp_path / "deep" / "out"
    with complete_folder(out, "mark") as folder:
        (folder / "mark").write_text("1")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_error_leaves_nothing_and_keeps_the_old_folder(tmp_path):
    out = tmp_path / "out"
    with complete_folder(out, "mark") as folder:
        (folder / "mark").write_text("old")
    with pytest.raises(RuntimeError), complete_folder(out, "mark") as folder:
        (folder / "mark").write_text("new")
        raise RuntimeError("stop")
    assert (out / "mark").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_our_own_folder_and_an_empty_one_are_replaced(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for text in ("first", "second"):
        with complete_folder(out, "mark") as folder:
            (folder / "mark").write_text(text)
    assert (out / "mark").read_text() == "second"


def test_leftovers_of_a_killed_run_are_cleared(tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half").write_text("x")
    with complete_folder(tmp_path / "out", "mark") as folder:
        assert not any(folder.iterdir())


def test_foreign_folders_and_files_are_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("data", "file"):
        with pytest.raises(InputError, match=name), complete_folder(tmp_path / name, "mark"):
            pass
    assert (tmp_path / "data" / "thesis.txt").read_text() == "precious"
