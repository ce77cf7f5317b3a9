"""PyTorch .bin files without PyTorch: the same tensors, and nothing in the file is ever run."""

import collections
import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from tests.conversion.hf_checkpoints import make_llava, save
from vlm_mu_jax.conversion import importer, torch_pickle
from vlm_mu_jax.conversion.tensor_files import TensorFiles, open_tensors
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.params import flatten


def as_numpy(tensor):
    return tensor.float().numpy()


def read(path):
    with TensorFiles(path.parent, [path.name]) as files:
        return {key: np.array(files.read(key), np.float32) for key in files.tensors}


def message(path):
    with pytest.raises(InputError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def forged(path, content, **members):
    """A .bin file with any pickle and any further members."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        for name, data in members.items():
            archive.writestr(f"archive/data/{name.removeprefix('_')}", data)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_come_out_as_they_were_saved(dtype, tmp_path):
    base = torch.randn(6, 5).to(dtype)
    saved = {
        "plain": torch.randn(3, 4).to(dtype),
        "scalar": torch.tensor(2.5).to(dtype),
        "empty": torch.zeros(0, 3).to(dtype),
        "transposed": base.T,
        "part": base[2:4, 1:],
        "tied": base,
        "parameter": torch.nn.Parameter(torch.randn(7).to(dtype)),
    }
    torch.save(collections.OrderedDict(saved), tmp_path / "x.bin")
    got = read(tmp_path / "x.bin")
    assert got.keys() == saved.keys()
    for key, tensor in saved.items():
        np.testing.assert_array_equal(got[key], as_numpy(tensor.detach()))


def test_a_state_dict_with_its_metadata_is_read(tmp_path):
    model = torch.nn.Linear(3, 2)
    torch.save(model.state_dict(), tmp_path / "x.bin")  # carries `_metadata` as an attribute
    np.testing.assert_array_equal(read(tmp_path / "x.bin")["weight"], as_numpy(model.weight.detach()))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """One LLaVA as safetensors, as one .bin, and as two .bin files with an index."""
    folder = tmp_path_factory.mktemp("llava")
    source = save(make_llava(21).to(torch.bfloat16), folder / "safe")
    from safetensors.torch import load_file

    tensors = load_file(source / "model.safetensors")
    names = sorted(tensors)
    for name, parts in (("one", [names]), ("many", [names[::2], names[1::2]])):
        (folder / name).mkdir()
        (folder / name / "config.json").write_bytes((source / "config.json").read_bytes())
        files = ["pytorch_model.bin"] if len(parts) == 1 else [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
        for file, keys in zip(files, parts, strict=True):
            torch.save({key: tensors[key] for key in keys}, folder / name / file)
        if len(parts) > 1:
            weight_map = {key: file for file, keys in zip(files, parts, strict=True) for key in keys}
            (folder / name / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("name", ["one", "many"])
def test_a_pickled_checkpoint_equals_its_safetensors(name, checkpoints):
    want = flatten(importer.import_checkpoint(checkpoints / "safe").params)
    got = importer.import_checkpoint(checkpoints / name, importer.ConvertOptions(allow_pickle=True))
    for path, leaf in flatten(got.params).items():
        assert leaf.tobytes() == want[path].tobytes(), path
    assert all(file.endswith(".bin") for file in got.provenance["sha256"])


def test_pickles_are_read_only_when_allowed_and_only_without_safetensors(checkpoints, tmp_path):
    for name in ("one", "many"):
        with pytest.raises(InputError, match="--allow_pickle"):
            importer.import_checkpoint(checkpoints / name)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    (tmp_path / "model.safetensors").write_bytes((checkpoints / "safe" / "model.safetensors").read_bytes())
    with open_tensors(tmp_path, allow_pickle=True) as files:
        assert files.names == ["model.safetensors"]


def test_an_index_cannot_bring_in_pickles(tmp_path):
    index = {"weight_map": {"a": "pytorch_model.bin"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="--allow_pickle"):
        open_tensors(tmp_path)


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.mkdir, os.system, eval, exec, __import__, getattr, pickle.loads])
def test_nothing_is_called(function, protocol, tmp_path):
    made = tmp_path / "made"
    call = Calls(function, f"__import__('os').mkdir({str(made)!r})" if function in (eval, exec) else str(made))
    text = message(forged(tmp_path / "x.bin", pickle.dumps({"weight": call}, protocol)))
    assert "refused" in text and function.__name__ in text and not made.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # GLOBAL, REDUCE
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",  # STACK_GLOBAL
        b"(cos\nsystem\nS'true'\no.",  # OBJ
        b"(S'true'\nios\nsystem\n.",  # INST
        b"ctorch._utils\n_rebuild_tensor_v3\n.",
        b"ccollections\nOrderedDict.fromkeys\n.",
        b"ctorch\nload\n.",
        b"cnumpy.core.multiarray\n_reconstruct\n.",
    ],
)
def test_only_what_tensors_need_can_be_named(content, tmp_path):
    assert "refused: it names" in message(forged(tmp_path / "x.bin", content))


def test_a_name_cannot_break_the_line(tmp_path):
    name = "a\n\x1b[31merror"
    content = b"\x80\x04" + pickle.SHORT_BINUNICODE + bytes([len(name)]) + name.encode() + b"\x8c\x01b\x93."
    assert "\x1b" not in message(forged(tmp_path / "x.bin", content))


STORAGE = object()


def tensor_pickle(offset=0, shape=(2, 2), strides=(2, 1), size=4, name="0", kind="storage"):
    """A pickle with one tensor on storage `name`, by hand."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return (kind, torch.FloatStorage, name, "cpu", size) if value is STORAGE else None

    out = io.BytesIO()
    call = Calls(torch._utils._rebuild_tensor_v2, STORAGE, offset, shape, strides, False, collections.OrderedDict())
    Pickler(out, 2).dump({"w": call})
    return out.getvalue()


def test_a_tensor_by_hand(tmp_path):
    values = np.arange(4, dtype=np.float32)
    got = read(forged(tmp_path / "x.bin", tensor_pickle(), _0=values.tobytes()))
    np.testing.assert_array_equal(got["w"], values.reshape(2, 2))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"offset": 1}, "reaches to element 5"),
        ({"offset": -1}, "-1 where a size is needed"),
        ({"shape": (2, 10**12)}, "reaches to element"),
        ({"strides": (10**12, 1)}, "reaches to element"),
        ({"strides": (-2, 1)}, "-2 where a size is needed"),
        ({"shape": (2,)}, "differ in length"),
        ({"shape": (True, 2)}, "True where a size is needed"),
        ({"size": 5}, "shorter than it says"),
        ({"size": -1}, "-1 where a size is needed"),
        ({"name": "1"}, "KeyError"),
        ({"name": "../data.pkl"}, "KeyError"),
        ({"kind": "module"}, "'module'"),
    ],
)
def test_positions_outside_of_the_storage_are_errors(wrong, said, tmp_path):
    path = forged(tmp_path / "x.bin", tensor_pickle(**wrong), _0=bytes(16))
    assert said in message(path)


def test_files_that_are_no_such_archive(tmp_path):
    path = tmp_path / "x.bin"
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert "before 1.6" in message(path)
    torch.save({"w": torch.ones(50_000)}, path)
    os.truncate(path, 100_000)
    assert "cut short" in message(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert "data.pkl" in message(path)
    assert "list" in message(forged(path, pickle.dumps([1, 2])))
    assert "'epoch' is no tensor" in message(forged(path, pickle.dumps({"epoch": 3})))
    assert "not readable" in message(forged(path, b"\x80\x02}q\x00(X"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:  # the storages could not be read in place
        archive.writestr("archive/data.pkl", tensor_pickle())
        archive.writestr("archive/data/0", bytes(16))
    assert "compressed" in message(path)


def test_a_pickle_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("vlm_mu_jax.conversion.torch_pickle._PICKLE_BYTES", 5000)
    path = tmp_path / "x.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 5001)
    assert path.stat().st_size < 500 and "5001 bytes, too many" in message(path)


def test_big_endian_files_are_refused(tmp_path):
    path = forged(tmp_path / "x.bin", tensor_pickle(), _0=bytes(16))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", "big")
    assert "little-endian" in message(path)


def test_a_pickle_that_names_a_huge_memo_index_takes_no_memory(tmp_path):
    """LONG_BINPUT with an index of 2^30 had the unpickler in C allocate gigabytes."""
    import resource
    import zipfile

    data = b"\x80\x02}r" + (2**30).to_bytes(4, "little") + b"."
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert torch_pickle.tensors(tmp_path / "pytorch_model.bin") == {}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB
