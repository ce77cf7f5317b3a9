"""Tiny models and random rows with unequal numbers of answer tokens."""

import jax
import numpy as np

from vlm_mu_jax.data.batches import Row, Stream
from vlm_mu_jax.model.config import LlavaConfig, TextConfig, VisionConfig
from vlm_mu_jax.model.llava import param_specs
from vlm_mu_jax.model.params import init_params

IMAGE = 31
TEXT = LlavaConfig(TextConfig(V=32, D=16, L=2, N=4, K=2, H=8, F=24))
LLAVA = LlavaConfig(TEXT.text, VisionConfig(8, 4, D=16, L=1, N=2, F=16, feature_layers=(-1,)), image_token_id=IMAGE)


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
        made.append(Row(f"row{i}", tuple(int(t) for t in (*prompt, *answer)), mask, pixels))
    return made


def stream(count=10, batch=8, seed=0, name="train", cfg=TEXT, length=16):
    return Stream(rows(count, seed, cfg), batch, seed, name=name, lengths=(length,) if cfg.vision is None else None)


def streams(objective, **options):
    return {name: stream(seed=i, name=name, **options) for i, name in enumerate(objective.streams)}
