"""Conversion tensor by tensor: bounded memory, the order of the files, and nothing half done."""

import os
import signal
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import vlm_mu_jax
from tests.conftest import ROOT
from tests.conversion.hf_checkpoints import make_llama, make_llava, save
from vlm_mu_jax.conversion import exporter, importer, stream
from vlm_mu_jax.conversion.convert import convert
from vlm_mu_jax.conversion.tensor_files import SINGLE, TensorFiles, open_tensors
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.model.params import flatten


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(make_llava(31), tmp_path_factory.mktemp("hf"), max_shard_size="20KB")


def run(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_converted_folder_holds_what_is_read_into_memory(dtype, checkpoint, tmp_path):
    want = importer.import_checkpoint(checkpoint, importer.ConvertOptions(dtype=dtype))
    done = convert(checkpoint, tmp_path / "m", importer.ConvertOptions(dtype=dtype))
    model = vlm_mu_jax.load(tmp_path / "m", with_processor=False)
    got = flatten(model.params)
    for path, leaf in flatten(want.params).items():
        assert np.asarray(got[path]).tobytes() == leaf.tobytes(), path
    assert done.dtype == (dtype or "float32") and done.parameters == sum(leaf.size for leaf in got.values())
    assert model.config == want.config


def test_provenance_stays_with_the_folder(checkpoint, tmp_path):

    convert(checkpoint, tmp_path / "m")
    provenance = read_json(tmp_path / "m" / "provenance.json")
    assert provenance.pop("chat_template")["name"] == read_json(tmp_path / "m" / "vlm_mu_jax.json")["template"]
    assert provenance.pop("license") is None  # the checkpoint has no card
    assert provenance == importer.import_checkpoint(checkpoint).provenance
    assert len(provenance["sha256"]) == len(list(checkpoint.glob("*.safetensors"))) > 2


def test_files_are_read_from_their_beginning_to_their_end(checkpoint, tmp_path, monkeypatch):
    read, seen = TensorFiles.read, []

    def spy(self, key, into=None):
        seen.append((self.tensors[key].file, self.tensors[key].start))
        return read(self, key, into)

    monkeypatch.setattr(TensorFiles, "read", spy)
    convert(checkpoint, tmp_path / "m")
    assert seen == sorted(seen) and len(seen) == len(set(seen))


def test_no_more_tensors_are_held_than_there_are_buffers(checkpoint, monkeypatch):
    held, most, lock = set(), [], threading.Lock()
    read = TensorFiles.read

    def spy(self, key, into=None):
        with lock:
            held.add(into.ctypes.data)
            most.append(len(held))
        return read(self, key, into)

    monkeypatch.setattr(TensorFiles, "read", spy)
    importer.import_checkpoint(checkpoint)
    assert max(most) <= stream._BUFFERS


def test_what_goes_wrong_while_writing_is_raised_and_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vlm_mu_jax.storage.stored_params.ParamsWriter.write", full)
    with pytest.raises(OSError, match="No space left"):
        convert(checkpoint, tmp_path / "m")
    assert not any(tmp_path.iterdir())


def test_numbers_that_float16_cannot_hold_are_refused(tmp_path):
    source = save(make_llama(32), tmp_path / "hf")
    tensors = load_file(source / SINGLE)
    tensors["model.norm.weight"][3] = 1e6
    save_file(tensors, source / SINGLE, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model\.norm\.weight has numbers above 65504"):
        convert(source, tmp_path / "m", importer.ConvertOptions(dtype="float16"))
    assert not (tmp_path / "m").exists()
    convert(source, tmp_path / "m", importer.ConvertOptions(dtype="bfloat16"))


KILLED = """
import os, signal, sys
from vlm_mu_jax.conversion import exporter
from vlm_mu_jax.conversion.convert import convert
def progress(items, label, total):
    for i, item in enumerate(items):
        if i == total // 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item
source, out, way = sys.argv[1:]
if way == "import":
    convert(source, out, progress=progress)
else:
    exporter.export(source, out, progress=progress)
"""


def test_a_killed_conversion_leaves_nothing_finished_and_can_be_run_again(checkpoint, tmp_path):
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert run(KILLED, checkpoint, ours, "import").returncode == -signal.SIGKILL
    assert not ours.exists() and any(tmp_path.iterdir())  # what it wrote is there, under another name
    convert(checkpoint, ours)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
    before = vlm_mu_jax.load(ours, with_processor=False)
    assert run(KILLED, checkpoint, ours, "import").returncode == -signal.SIGKILL
    after = vlm_mu_jax.load(ours, with_processor=False)  # an earlier folder stays whole
    for path, leaf in flatten(before.params).items():
        np.testing.assert_array_equal(leaf, flatten(after.params)[path])
    assert run(KILLED, ours, back, "export").returncode == -signal.SIGKILL
    assert not back.exists()
    exporter.export(ours, back)
    assert len(list(back.glob("*.safetensors"))) == 1


PEAK = """
import sys
import jax
from vlm_mu_jax.conversion import exporter
from vlm_mu_jax.conversion.convert import convert
import tensorstore, vlm_mu_jax.storage.stored_params
from vlm_mu_jax.files.json_file import read_json
jax.device_put(1.0)
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
source, out, back = sys.argv[1:]
convert(source, out)
exporter.export(out, back, exporter.ExportOptions(shard_bytes=2 * 10**9))
print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak memory that Linux kept")
def test_peak_memory_is_a_few_tensors(tmp_path):
    layers, wide = 24, 1024
    source = save(
        make_llama(
            33,
            num_hidden_layers=layers,
            hidden_size=wide,
            intermediate_size=2 * wide,
            num_attention_heads=8,
            num_key_value_heads=8,
            head_dim=wide // 8,
        ).bfloat16(),
        tmp_path / "hf",
    )
    size = (source / SINGLE).stat().st_size
    done = run(PEAK, source, tmp_path / "ours", tmp_path / "back")
    assert done.returncode == 0, done.stderr
    assert size > 240e6 and int(done.stdout) < 150e6  # buffers 2 x 13 MB, staging, and what JAX and TensorStore keep


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple),
    order=st.randoms(use_true_random=False),
    dtype=st.sampled_from([np.float32, ml_dtypes.bfloat16]),
)
def test_panels_are_the_array_in_order(shape, order, dtype):
    axes = list(range(len(shape)))
    order.shuffle(axes)
    array = np.arange(np.prod(shape)).astype(dtype).reshape(shape).transpose(axes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_PANEL_BYTES", 24)
        parts = list(stream.panels(array))
        assert all(part.flags.c_contiguous for part in parts)
        np.testing.assert_array_equal(np.concatenate(parts), array)
        out = np.zeros(array.shape, dtype)
        stream.copy(out, array)
        np.testing.assert_array_equal(out, array)


def test_an_open_folder_is_closed_again(checkpoint):
    with open_tensors(checkpoint) as files:
        pass
    with pytest.raises(ValueError, match="closed file"):
        files.read(next(iter(files.tensors)))


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_parts_of_large_tensors_make_the_same_parameters(dtype, checkpoint, monkeypatch):
    want = flatten(importer.import_checkpoint(checkpoint, importer.ConvertOptions(dtype=dtype)).params)
    monkeypatch.setattr(stream, "_PIECE_BYTES", 600)  # a few rows, whose number does not divide the tensors'
    buffers = []
    made = stream._buffers
    monkeypatch.setattr(stream, "_buffers", lambda size: buffers.append(size) or made(size))
    got = flatten(importer.import_checkpoint(checkpoint, importer.ConvertOptions(dtype=dtype)).params)
    assert buffers[0] <= 600
    assert all(got[path].tobytes() == leaf.tobytes() for path, leaf in want.items())
