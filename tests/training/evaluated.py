"""A training that is evaluated meanwhile, for several test files; they also import the fixtures of tests.evaluation."""

import json

import pytest

from vlm_mu_jax.training import settings as settings_lib


@pytest.fixture
def config(checkpoint, data_dir):
    c = settings_lib.defaults("sft")
    c.update(steps=2, batch_size=4)
    c.model.init = str(checkpoint)
    c.data.update(root=str(data_dir), safety="test.json")
    c.train.select = ("decoder/norm_D",)
    c.eval.update(every=1, data=str(data_dir), subset="test", questions=2, batch_size=4, max_new_tokens=3)
    return c


def evaluations(folder):
    return [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
