"""params/: what is written is what is read, Orbax reads it too, and a process reads its own shards alone."""

import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.multidevice.start import run_together
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.params import ParamSpec, flatten, unflatten
from vlm_mu_jax.parallel.mesh import make_mesh, replicated
from vlm_mu_jax.storage.stored_params import PARTS, ParamsReader, ParamsWriter, load, piece_shape, save

SPECS = {
    "decoder": {
        "embed_VD": ParamSpec((1000, 256), ("vocab", "embed")),
        "norm_D": ParamSpec((256,), ("embed",)),
        "layers": {
            "wq_LDNH": ParamSpec((3, 256, 8, 64), ("layers", "embed", "heads", "head")),
            "wup_LDF": ParamSpec((3, 256, 1024), ("layers", "embed", "mlp")),
            "norm_LD": ParamSpec((3, 256), ("layers", "embed")),
        },
    }
}


def draw(dtype="bfloat16"):
    rng = np.random.default_rng(1)
    return {path: rng.normal(size=spec.shape).astype(jnp.dtype(dtype)) for path, spec in flatten(SPECS).items()}


def same(got, want):
    got = flatten(got)
    assert got.keys() == want.keys()
    for path, leaf in want.items():
        assert got[path].dtype == leaf.dtype and np.asarray(got[path]).tobytes() == leaf.tobytes(), path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("order", [1, -1])
def test_layers_written_in_any_order_and_with_any_strides(dtype, order, tmp_path):
    want = draw(dtype)
    with ParamsWriter(tmp_path / "p", SPECS, {path: leaf.dtype for path, leaf in want.items()}) as writer:
        for path, leaf in list(want.items())[::order]:
            parts = list(enumerate(leaf)) if "layers" in path else [(None, leaf)]
            for layer, part in parts[::order]:
                writer.write(path, layer, np.asfortranarray(part))
    same(load(tmp_path / "p", SPECS), want)


def test_orbax_reads_it(tmp_path):
    want = draw()
    save(tmp_path / "p", unflatten(want), SPECS)
    same(ocp.PyTreeCheckpointer().restore(tmp_path / "p"), want)
    mesh = make_mesh()
    target = {path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)) for path, x in want.items()}
    got = ocp.StandardCheckpointer().restore(tmp_path / "p", unflatten(target))
    same(got, want)
    assert all(isinstance(leaf, jax.Array) for leaf in flatten(got).values())


@pytest.mark.parametrize("options", [{}, {"use_ocdbt": False}, {"use_zarr3": True}], ids=str)
def test_what_orbax_wrote_is_read(options, tmp_path):
    want = draw()
    tree = jax.tree.map(jnp.asarray, unflatten(want))
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)).save(tmp_path / "p", args=ocp.args.PyTreeSave(tree))
    same(load(tmp_path / "p", SPECS), want)


def test_one_layer_is_read_into_the_callers_memory(tmp_path):
    want = draw()
    save(tmp_path / "p", unflatten(want), SPECS)
    memory = np.full(10**6, 255, np.uint8)
    got = ParamsReader(tmp_path / "p").read("decoder/layers/wup_LDF", 1, memory)
    assert np.shares_memory(got, memory)
    np.testing.assert_array_equal(got, want["decoder/layers/wup_LDF"][1])


@pytest.mark.parametrize("spec", flatten(SPECS).values(), ids=flatten(SPECS).keys())
@pytest.mark.parametrize("itemsize", [2, 4])
def test_pieces_tile_a_layer_and_split_where_a_mesh_does(spec, itemsize):
    piece = piece_shape(spec, itemsize)
    assert all(size % part == 0 for size, part in zip(spec.shape, piece, strict=True))
    if spec.axes[0] == "layers":
        assert piece[0] == 1
    cuts = math.prod(size // part for size, part in zip(spec.shape, piece, strict=True) if part > 1)
    if cuts > 1:
        assert math.prod(piece) * itemsize >= 128 * 2**10


def test_a_7b_weight_is_cut_for_the_largest_mesh_named():
    gate = ParamSpec((32, 4096, 11008), ("layers", "embed", "mlp"))
    assert piece_shape(gate, 2) == (1, 4096 // PARTS["fsdp"], 11008 // PARTS["tensor"])


@pytest.mark.parametrize("damage", ["file", "cut", "metadata", "declaration"])
def test_damage_is_one_line_and_never_zeros(damage, tmp_path):
    save(tmp_path / "p", unflatten(draw()), SPECS)
    file = tmp_path / "p" / "decoder.layers.wup_LDF" / "c.2.0.0"
    if damage == "file":
        file.unlink()
    elif damage == "cut":
        os.truncate(file, file.stat().st_size - 7)
    elif damage == "metadata":
        (tmp_path / "p" / "_METADATA").write_text("{}")
    else:
        (tmp_path / "p" / "decoder.layers.wup_LDF" / "zarr.json").unlink()
    with pytest.raises(InputError, match="cannot be read") as caught:
        load(tmp_path / "p", SPECS)
    assert "\n" not in str(caught.value)


def test_an_interrupted_write_is_no_checkpoint(tmp_path):
    want = draw()
    with (
        pytest.raises(RuntimeError),
        ParamsWriter(tmp_path / "p", SPECS, {p: leaf.dtype for p, leaf in want.items()}) as w,
    ):
        w.write("decoder/norm_D", None, want["decoder/norm_D"])
        raise RuntimeError
    with pytest.raises(InputError):
        load(tmp_path / "p", SPECS)


MESHES = [(8, 1), (4, 2), (1, 8)]  # fsdp, tensor
SHARE = """
import json, sys
from pathlib import Path
import jax
folder, address, processes, process = sys.argv[1:]
jax.distributed.initialize(address, int(processes), int(process))
from tests.storage.test_stored_params import MESHES, SPECS
from vlm_mu_jax.parallel.mesh import make_mesh
from vlm_mu_jax.storage.stored_params import load
def read():
    return int(dict(line.split(": ") for line in open("/proc/self/io"))["rchar"])
load(Path(folder), SPECS)  # reads code as well
found = []
for sizes in MESHES:
    before = read()
    params = load(Path(folder), SPECS, make_mesh(-1, *sizes))
    taken = read() - before
    shards = [shard.data for leaf in jax.tree.leaves(params) for shard in leaf.addressable_shards]
    sums = [float(abs(data.astype("float32")).sum()) for data in shards]
    found.append({"read": taken, "held": sum(data.nbytes for data in shards), "sum": sum(sums)})
Path(folder + process).write_text(json.dumps(found))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="counts the bytes that Linux says were read")
def test_each_process_reads_the_bytes_of_its_own_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("vlm_mu_jax.storage.stored_params._SMALLEST_BYTES", 2048)  # these arrays are small
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)  # reading programs would count as well
    want = draw("float32")
    save(tmp_path / "p", unflatten(want), SPECS)
    total = sum(leaf.nbytes for leaf in want.values())
    whole = sum(float(np.abs(leaf).sum()) for leaf in want.values())
    (tmp_path / "share.py").write_text(SHARE)
    run_together(tmp_path / "share.py", tmp_path / "p", processes=2, devices=4)
    outputs = [json.loads((tmp_path / f"p{process}").read_text()) for process in range(2)]
    for (_, tensor), *answers in zip(MESHES, *outputs, strict=True):
        for answer in answers:
            assert answer["read"] < 1.02 * answer["held"] + 100_000  # the declarations and indexes
            assert answer["held"] < 0.7 * total
        if tensor == 1:  # nothing is held twice
            assert sum(answer["sum"] for answer in answers) == pytest.approx(whole, rel=1e-5)
