"""Programs compiled for chips that are not here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vlm_mu_jax.parallel.chips import CHIPS
from vlm_mu_jax.planning.compilation import (
    DoesNotFit,
    bytes_per_chip,
    compile_ahead,
    extrapolated,
    needed_bytes,
    roofline,
)
from vlm_mu_jax.planning.hlo import Collective, Work
from vlm_mu_jax.planning.topology import target

GIB = 2**30
pytestmark = pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")  # for absent chips


@pytest.fixture(scope="module")
def mesh():
    pytest.importorskip("libtpu", reason="needs the TPU compiler: pip install 'vlm_mu_jax[tpu]'")
    return Mesh(np.array(target("v5e:2x2").devices), ("x",))


def scan_of_layers(mesh, layers, rows=256, width=512):
    """Gradient of a stack of layers whose weights are split over four chips, and its inputs."""

    def loss(w, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0].astype(jnp.float32).sum()

    split = NamedSharding(mesh, PartitionSpec(None, "x"))
    w = jax.ShapeDtypeStruct((layers, width, width), jnp.bfloat16, sharding=split)
    x = jax.ShapeDtypeStruct((rows, width), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec("x")))
    return jax.jit(jax.grad(loss), out_shardings=split), (w, x)


def test_memory_products_and_collectives_of_a_split_program(mesh):
    layers, rows, width = 8, 256, 512
    jitted, args = scan_of_layers(mesh, layers)
    program = compile_ahead(jitted, args)
    assert program.argument == bytes_per_chip(args) == (layers * width * width + rows * width) * 2 / 4
    assert program.output == layers * width * width * 2 / 4
    assert program.peak >= program.argument + program.output
    assert program.work.flops == pytest.approx(3 * layers * 2 * rows * width * width / 4, rel=0.2)
    moved = sum(one.sent for one in program.work.collectives.values())
    weights = layers * width * width * 2
    assert weights < moved < 6 * weights  # gathered forward and backward, and the gradient summed


def test_everything_grows_linearly_with_scanned_layers(mesh):
    programs = {n: compile_ahead(*scan_of_layers(mesh, n)) for n in (8, 16, 32)}
    guess = extrapolated(programs[8], programs[16], (8, 16), 32)
    for name in ("argument", "output", "peak"):
        assert getattr(guess, name) == pytest.approx(getattr(programs[32], name), rel=0.1), name
    assert guess.work.flops == pytest.approx(programs[32].work.flops, rel=0.1)


def test_a_program_that_is_too_large_is_refused_with_what_it_needs(mesh):
    x = jax.ShapeDtypeStruct((4, 2**33), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec("x")))
    with pytest.raises(DoesNotFit) as caught:
        compile_ahead(jax.jit(lambda x: x + 1), (x,))
    assert caught.value.needed >= 2**34  # one row of 2^33 numbers per chip


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        ("RESOURCE_EXHAUSTED: ... Used 26.19G of 15.75G hbm. Exceeded hbm capacity by 10.44G.", 26.19 * GIB),
        ("... required for HLO temporaries (400.00G) exceeds available HBM (15.75G).", 400 * GIB),
        ("something else", None),
    ],
)
def test_the_compilers_own_total(message, needed):
    assert needed_bytes(message) == needed


def test_roofline_is_the_slowest_of_three():
    chip = CHIPS["v5e"]
    work = Work(chip.flops, 3 * chip.bandwidth, {"all-gather": Collective(1, 0, 2 * chip.links)}, {})
    bounds = roofline(work, chip)
    assert (bounds.compute, bounds.memory, bounds.links) == (1.0, 3.0, 2.0)
    assert (bounds.seconds, bounds.bound) == (3.0, "memory")
