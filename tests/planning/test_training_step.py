"""What is planned is what runs."""

import dataclasses
import math

import jax
import pytest

from tests.training import tiny
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.parallel import rules
from vlm_mu_jax.parallel.mesh import make_mesh
from vlm_mu_jax.planning.training_step import planned_step
from vlm_mu_jax.training import prepare, settings
from vlm_mu_jax.training.feed import Feed
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.spec import TrainingSpec
from vlm_mu_jax.training.trainable import Selection

LENGTH, BATCH = 16, 4


def config(name, objective=(), train=(), quantize=""):
    c = settings.defaults(name, layer=1 if name == "rmu" else None)
    c.batch_size, c.accumulate, c.data.max_length, c.steps = BATCH, 2, LENGTH, 5
    c.objective.update(dict(objective))
    c.train.update(dict(train))
    c.model.quantize = quantize
    return settings.checked(c)


CASES = {
    "npo": config("npo"),
    "npo lora": config("npo", train={"select": (), "lora_rank": 2}),
    "npo lora int8": config("npo", train={"select": (), "lora_rank": 2}, quantize="int8"),
    "npo lora int4": config("npo", train={"select": (), "lora_rank": 2}, quantize="int4:8"),
    "rmu": config("rmu", train={"select": ("projector/.*",)}),
    "kl": config("graddiff", objective={"retain_kl": 1.0}),
    "dual": config("npo", objective={"retain_limit": 0.5}),
}
TEXT_ONLY = config("npo", train={"select": ("decoder/.*",)})


def scored(rows):
    """Rows that need their logits everywhere, as a plan presumes."""
    return [dataclasses.replace(one, mask=(False,) + (True,) * (len(one.ids) - 1)) for one in rows]


@pytest.mark.parametrize("name", CASES)
def test_shapes_dtypes_and_structure_are_those_of_a_real_run(name, monkeypatch):
    # A job of several processes, which is what is planned, runs the vision tower in every step.
    monkeypatch.setattr(prepare, "with_features", lambda params, streams, *_, **__: dict(streams))
    chosen, cfg, mesh = CASES[name], tiny.LLAVA, make_mesh()
    planned = planned_step(chosen, cfg, jax.devices())
    objective = make_objective(**chosen["objective"])
    streams = {
        stream: tiny.Stream(scored(tiny.rows(6, i, cfg)), BATCH, i, name=stream, lengths=(LENGTH,))
        for i, stream in enumerate(objective.streams)
    }
    selection = Selection.of(**chosen["train"])
    optim = OptimConfig(**chosen["optim"])
    spec = TrainingSpec(cfg, objective, optim, chosen["steps"], selection, chosen["accumulate"])
    spec = dataclasses.replace(spec, quantize=settings.scheme(chosen["model"]))
    params = rules.place(tiny.params(cfg), param_specs(cfg), mesh)
    job = prepare.prepare(spec, spec.held(params, mesh), streams, mesh)
    with Feed(job.streams, mesh, chosen["accumulate"], 0, 1) as feed:
        rows = feed.next().rows
    real = (job.state, job.frozen, rows, job.constants)
    assert jax.tree.structure(planned.args) == jax.tree.structure(real)
    for abstract, array in zip(jax.tree.leaves(planned.args), jax.tree.leaves(real), strict=True):
        assert (abstract.shape, abstract.dtype) == (array.shape, array.dtype)
        assert abstract.sharding.is_equivalent_to(array.sharding, array.ndim)
    assert planned.flops == job.flops(rows)


def test_the_planned_step_compiles_here_too():
    planned = planned_step(TEXT_ONLY, tiny.TEXT, jax.devices())
    compiled = planned.step.lower(*planned.args).compile()
    assert compiled.memory_analysis().temp_size_in_bytes > 0
    assert planned.tokens == 2 * BATCH * LENGTH
    assert planned.frozen == 0 and planned.trained == sum(x.size for x in jax.tree.leaves(tiny.params(tiny.TEXT)))


def test_rows_must_divide():
    chosen = {**TEXT_ONLY, "accumulate": 3}
    with pytest.raises(
        InputError, match="batch size of forget, 4, is not a multiple of accumulate x data x fsdp = 3 x 1"
    ):
        planned_step(chosen, tiny.TEXT, jax.devices())


def test_no_step_holds_the_logits_of_a_whole_row():
    """The largest array with the vocabulary's axis is a chunk of positions, forward and backward."""
    from vlm_mu_jax.objectives.logprobs import CHUNK
    from vlm_mu_jax.planning.hlo import Module

    chosen = config("npo", train={"select": ("decoder/.*",)})
    chosen["data"]["max_length"], chosen["accumulate"] = 4 * CHUNK, 1
    cfg = tiny.TEXT.with_text(V=41)  # no other axis has this size
    planned = planned_step(chosen, cfg, jax.devices())
    module = Module(planned.step.lower(*planned.args).compile().as_text())
    arrays = [shape for body in module.computations.values() for one in body.values() for shape in one.shapes]
    sizes = {math.prod(shape.dims) for shape in arrays if 41 in shape.dims}
    assert BATCH * CHUNK * 41 in sizes
    assert max(sizes) == BATCH * CHUNK * 41
