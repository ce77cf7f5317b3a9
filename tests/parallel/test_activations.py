"""Rows of activations stay split, whatever the weights' own split is."""

import jax
import jax.numpy as jnp

from tests.multidevice.start import run_together
from vlm_mu_jax.parallel.activations import OnMesh, on_mesh_of, row_axes, spread_rows
from vlm_mu_jax.parallel.mesh import single_device_mesh

PROGRAM = """
import jax, jax.numpy as jnp
from vlm_mu_jax.model.config import ModelConfig, TextConfig
from vlm_mu_jax.model.vlm import Batch, forward, param_specs
from vlm_mu_jax.model.params import abstract_params
from vlm_mu_jax.parallel import rules
from vlm_mu_jax.parallel.activations import OnMesh, on_mesh_of, row_axes
from vlm_mu_jax.planning.hlo import Module
from vlm_mu_jax.parallel.mesh import make_mesh, batch_sharding

def placed(tree, places):
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, places)

B, T = 8, 32
cfg = ModelConfig(TextConfig(V=64, D=64, L=2, N=4, K=4, H=16, F=96))
mesh = make_mesh(data=1, fsdp=4)
params = placed(abstract_params(param_specs(cfg)), rules.shardings(param_specs(cfg), mesh))
rows = batch_sharding(mesh)
batch = Batch(jax.ShapeDtypeStruct((B, T), jnp.int32), jax.ShapeDtypeStruct((B,), jnp.int32))
batch = placed(batch, jax.tree.map(lambda _: rows, batch))
with on_mesh_of(params):
    print("axes", row_axes(B), row_axes(3))
jitted = jax.jit(lambda p, batch: forward(p, batch, cfg, logits=False).hidden_BTD)
for program in (OnMesh(jitted, mesh), jitted):
    module = Module(program.lower(params, batch).compile().as_text())
    dims = [shape.dims for body in module.computations.values() for one in body.values() for shape in one.shapes]
    print(sum(d[:3] == (B, T, cfg.text.F) for d in dims), sum(d[:3] == (B // 4, T, cfg.text.F) for d in dims))
"""


def test_every_chip_holds_its_own_rows_only(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    (stdout,) = run_together(script, processes=1, devices=4)
    assert "axes ('data', 'fsdp') None" in stdout
    with_mesh, without = (tuple(map(int, line.split())) for line in stdout.splitlines()[-2:])
    assert with_mesh[0] == 0 and with_mesh[1] > 0
    assert without[0] > 0  # what the compiler does when it is not told; if this changes, the constraint can go


def test_nothing_is_constrained_without_a_mesh_or_rows_that_divide():
    assert row_axes(8) is None
    with on_mesh_of({"w": jnp.ones(3)}):
        assert row_axes(8) is None
    jaxpr = jax.make_jaxpr(spread_rows)(jnp.zeros((8, 3)))
    assert not jaxpr.eqns


def test_a_function_on_a_mesh_computes_the_same():
    double = OnMesh(jax.jit(lambda x: spread_rows(x) * 2), single_device_mesh())
    assert double(jnp.ones(3)).tolist() == [2, 2, 2]
    assert double.lower(jnp.ones(3)).compile() is not None
