"""Tiny models, random rows with unequal numbers of answer tokens, and a short way to train on them."""

import dataclasses

import jax
import numpy as np

from tests.model.tiny import clip_vision
from vlm_mu_jax.data.batches import Stream, TrainRow
from vlm_mu_jax.model.config import ModelConfig, TextConfig
from vlm_mu_jax.model.params import init_params
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.training import loop
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.spec import Observers, RunStorage, TrainingSpec

IMAGE = 31
TEXT = ModelConfig(TextConfig(V=32, D=16, L=2, N=4, K=2, H=8, F=24))
VISION = clip_vision(image_size=8, patch_size=4, D=16, L=1, N=2, F=16, feature_layers=(-1,))
LLAVA = ModelConfig(TEXT.text, VISION, image_token_id=IMAGE)


def params(cfg, seed=0):
    return init_params(param_specs(cfg), jax.random.key(seed))


def rows(count, seed=0, cfg=TEXT):
    generator = np.random.default_rng(seed)
    made = []
    for i in range(count):
        image = [] if cfg.vision is None else [IMAGE] * cfg.vision.P
        prompt = [1, *image, *generator.integers(2, IMAGE, generator.integers(2, 5))]
        answer = generator.integers(2, IMAGE, generator.integers(1, 7))
        pixels = () if cfg.vision is None else (generator.normal(size=(8, 8, 3)).astype(np.float32),)
        mask = (False,) * len(prompt) + (True,) * len(answer)
        made.append(TrainRow(f"row{i}", tuple(int(t) for t in (*prompt, *answer)), mask, pixels))
    return made


def stream(count=10, batch=8, seed=0, name="train", cfg=TEXT, length=16):
    return Stream(rows(count, seed, cfg), batch, seed, name=name, lengths=(length,) if cfg.vision is None else None)


def streams(objective, **options):
    return {name: stream(seed=i, name=name, **options) for i, name in enumerate(objective.streams)}


def fit(objective, params, steps=12, streams_=None, mesh=None, donate=False, cfg=TEXT, optim=None, **options):
    """`loop.fit` with every option by name, whichever of spec, storage and observers it belongs to."""
    parts = []
    for kind in (TrainingSpec, RunStorage, Observers):
        names = {field.name for field in dataclasses.fields(kind)} & options.keys()
        parts.append({name: options.pop(name) for name in names})
    assert not options, f"unknown: {options}"
    spec = TrainingSpec(cfg, objective, optim or OptimConfig(1e-2), steps, **parts[0])
    return loop.fit(
        spec,
        params,
        streams_ or streams(objective, cfg=cfg),
        mesh=mesh,
        donate=donate,
        storage=RunStorage(**parts[1]),
        observers=Observers(**parts[2]),
    )
