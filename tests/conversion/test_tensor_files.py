"""Weights files: positions, reading into given memory, and hashes computed in passing."""

import hashlib
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from vlm_mu_jax.conversion import tensor_files
from vlm_mu_jax.conversion.tensor_files import INDEX, SINGLE, open_tensors
from vlm_mu_jax.errors import InputError

RNG = np.random.default_rng(0)
TENSORS = {
    "a": RNG.normal(size=(7, 5)).astype(np.float32),
    "b": RNG.normal(size=(300, 1001)).astype(ml_dtypes.bfloat16),
    "c": RNG.normal(size=(2, 3, 4)).astype(np.float16),
    "d": np.array(3.5, np.float32),
    "e": np.zeros((0, 4), np.float32),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "_PIECE_BYTES", 1000)  # several pieces per tensor
    save_file(TENSORS, tmp_path / SINGLE)
    return tmp_path


def digest(folder):
    return {SINGLE: hashlib.sha256((folder / SINGLE).read_bytes()).hexdigest()}


def test_tensors_are_what_was_saved_in_new_and_in_given_memory(folder):
    with open_tensors(folder) as files:
        for key, want in TENSORS.items():
            memory = np.full(10**6, 255, np.uint8)
            for got in (files.read(key), files.read(key, memory)):
                assert got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == want.tobytes()
            assert got.base is not None and np.shares_memory(got, memory) == (got.size > 0)


@pytest.mark.parametrize("keys", ["", "abcde", "edcba", "bb", "cabcab", "b", "ec"])
def test_the_hash_is_the_files_whatever_was_read(keys, folder):
    with open_tensors(folder) as files:
        for key in keys:
            files.read(key)
        assert dict(files.sha256()) == digest(folder)
        assert dict(files.sha256()) == digest(folder)


def test_reading_in_the_order_of_the_file_reads_every_byte_once(folder, monkeypatch):
    passes = []
    fill = tensor_files.HashedFile._fill
    monkeypatch.setattr(
        tensor_files.HashedFile, "_fill", lambda self, at, piece: (passes.append(len(piece)), fill(self, at, piece))
    )
    with open_tensors(folder) as files:
        for key in sorted(files.tensors, key=lambda key: files.tensors[key].start):
            files.read(key)
        dict(files.sha256())
    assert sum(passes) == (folder / SINGLE).stat().st_size


def test_one_file_by_its_stem(folder):
    (folder / SINGLE).rename(folder / "adapter_model.safetensors")
    with open_tensors(folder, stem="adapter_model") as files:
        assert files.tensors.keys() == TENSORS.keys()
    assert open_tensors(folder, stem="non_lora_trainables") is None


def test_a_file_that_shrinks_while_it_is_read(folder):
    with open_tensors(folder) as files:
        with open(folder / SINGLE, "r+b") as file:
            file.truncate(2000)
        with pytest.raises(InputError, match="became shorter"):
            files.read("b")


def test_an_index_names_files_of_its_own_folder_only(folder):
    for index in ({"weight_map": {"a": "../secret.safetensors"}}, {"weight_map": ["a"]}, {}):
        (folder / INDEX).write_text(json.dumps(index))
        with pytest.raises(InputError, match=INDEX):
            open_tensors(folder)


def test_a_key_that_the_index_puts_elsewhere_is_a_problem(folder):
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys([*TENSORS, "x"], SINGLE)}))
    with open_tensors(folder) as files:
        assert files.problems == [f"x is not in {SINGLE}, where {INDEX} puts it"]
