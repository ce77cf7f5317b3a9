"""JSON files: whole or not at all, and every fault on reading is one line that names the file."""

import os

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_json, write_json


def test_what_is_written_is_what_is_read(tmp_path):
    value = {"text": "ä \u2028 \U0001f600", "number": 0.1, "list": [None, True, -3]}
    write_json(tmp_path / "deep" / "file.json", value)
    assert read_json(tmp_path / "deep" / "file.json") == value
    assert (tmp_path / "deep" / "file.json").read_text(encoding="utf-8").endswith("}\n")


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"new": float("nan")})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*file\.json'"):
        write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1} and [found.name for found in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"{", "cannot be read as JSON"),
        (b"[" * 20_000, "cannot be read as JSON"),
        (b"\xff\xfe{}", "cannot be read as JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
        (b"[1]", "holds a list, not a JSON object"),
        (b"null", "holds a NoneType, not a JSON object"),
    ],
)
def test_a_broken_file_is_one_line(content, what, tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=what) as caught:
        read_json(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_says_which(tmp_path):
    with pytest.raises(InputError, match=r"config\.json: missing; is .* a complete folder"):
        read_json(tmp_path / "config.json")


def test_half_a_surrogate_pair_is_refused(tmp_path):
    """json.loads takes it, but nothing that writes UTF-8 can keep it."""
    (tmp_path / "file.json").write_text('{"a": "\\ud800"}')
    with pytest.raises(InputError, match="surrogate"):
        read_json(tmp_path / "file.json")


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a folder"):
        write_json(tmp_path / "folder", {})
    with pytest.raises(InputError, match="cannot be made"):
        write_json(tmp_path / "file" / "under.json", {})
