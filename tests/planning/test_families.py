"""Of every family: the step that is planned is the one that runs, argument by argument."""

import dataclasses

import jax
import pytest

import vlm_mu_jax
from tests.families import FAMILIES
from tests.parity.image_family import pictures
from vlm_mu_jax.data import batches
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.parallel import rules
from vlm_mu_jax.parallel.mesh import make_mesh
from vlm_mu_jax.planning.jobs import model_config
from vlm_mu_jax.planning.training_step import planned_step
from vlm_mu_jax.training import prepare, settings
from vlm_mu_jax.training.feed import Feed
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.spec import TrainingSpec
from vlm_mu_jax.training.trainable import Selection

BATCH = 2
LARGE = ((40, 40), (50, 9), (9, 50))  # one of them has the most tiles or patches that the family allows


def config(folder, length):
    c = settings.defaults("npo")
    c.batch_size, c.data.max_length, c.steps, c.model.init = BATCH, length, 5, str(folder)
    c.train.select, c.train.lora_rank = (), 2
    return settings.checked(c)


def rows(processor):
    """Examples about each picture whose every token needs its logits, as a plan presumes."""
    found = []
    for i, picture in enumerate(pictures(*LARGE)):
        image = processor.pixels(picture)
        example = processor.example("what is on this sign ?", "take it", [image])
        made = batches.row(example, [image], f"r{i}")
        found.append(dataclasses.replace(made, mask=(False,) + (True,) * (len(made.ids) - 1)))
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_the_planned_step_is_the_one_that_runs(name, tmp_path, monkeypatch):
    # A job of several processes, which is what is planned, runs the vision tower in every step.
    monkeypatch.setattr(prepare, "with_features", lambda params, streams, *_, **__: dict(streams))
    FAMILIES[name].write(tmp_path / "hf")
    vlm_mu_jax.convert(tmp_path / "hf", tmp_path / "ours")
    model, mesh = vlm_mu_jax.load(tmp_path / "ours"), make_mesh()
    made = rows(model.processor)
    (length,) = batches.bucket_lengths(made, 1)
    chosen = config(tmp_path / "ours", length)
    planned = planned_step(chosen, model_config(chosen), jax.devices())
    objective = make_objective(**chosen["objective"])
    given = {"image_token_id": model.config.image_token_id, "encoded": model.processor.encoded_images}
    streams = {
        stream: batches.Stream(made, BATCH, i, name=stream, lengths=(length,), **given)
        for i, stream in enumerate(objective.streams)
    }
    optim, selection = OptimConfig(**chosen["optim"]), Selection.of(**chosen["train"])
    spec = TrainingSpec(model.config, objective, optim, chosen["steps"], selection)
    params = rules.place(model.params, param_specs(model.config), mesh)
    job = prepare.prepare(spec, params, streams, mesh)
    with Feed(job.streams, mesh, 1, 0, 1) as feed:
        fed = feed.next().rows
    real = (job.state, job.frozen, fed, job.constants)
    assert jax.tree.structure(planned.args) == jax.tree.structure(real)
    paths = jax.tree_util.tree_leaves_with_path(planned.args)
    for (path, abstract), array in zip(paths, jax.tree.leaves(real), strict=True):
        assert (abstract.shape, abstract.dtype) == (array.shape, array.dtype), jax.tree_util.keystr(path)
    assert planned.flops == job.flops(fed)
