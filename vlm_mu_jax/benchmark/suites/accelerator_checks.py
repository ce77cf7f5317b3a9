"""What a device must compute before its speed counts, each against XLA in float32 on the same device or on the CPU."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm_mu_jax.benchmark.suites.filled import filled
from vlm_mu_jax.model import flash
from vlm_mu_jax.model.config import ModelConfig, TextConfig
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.model.params import init_params
from vlm_mu_jax.model.vlm import Batch, forward, param_specs
from vlm_mu_jax.planning.training_step import planned_step
from vlm_mu_jax.training.settings import checked, defaults

TEXT = TextConfig(V=512, D=256, L=4, N=4, K=2, H=64, F=512, max_positions=512)
ROWS, TOKENS, NEW_TOKENS, STEPS = 4, 256, 24, 20
LOGITS = 3.0  # a kernel's bfloat16 error over that of XLA's bfloat16
LOSSES = 0.02  # relative difference of a loss curve from the CPU's


def checks(seed: int) -> list[dict[str, Any]]:
    """One row a check: {"name", "holds", "found", "limit"}."""
    platform = jax.devices()[0].platform
    rows = [_logits(platform, window, seed) for window in (None, 64)]
    return [*rows, _greedy(platform, seed), _losses(seed)]


def _row(name: str, found: float, limit: float) -> dict[str, Any]:
    return {"name": name, "holds": bool(found <= limit), "found": float(found), "limit": limit}


def _model(text: TextConfig, seed: int) -> tuple[ModelConfig, Any, Batch]:
    cfg = ModelConfig(text=text, vision=None, image_token_id=None)
    params = init_params(param_specs(cfg), jax.random.key(seed))
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, text.V, (ROWS, TOKENS)).astype(np.int32)
    lengths = np.asarray([TOKENS, TOKENS // 2, 17, 1], np.int32)  # right padding
    return cfg, params, Batch(tokens, lengths)


def _half(params: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)


def _chosen(cfg: ModelConfig, platform: str) -> tuple[str, ModelConfig]:
    cfg = dataclasses.replace(cfg, dtype="bfloat16")
    kernel = flash.choose("auto", platform, cfg.text, "bfloat16")
    return kernel, cfg.with_text(attention=kernel)


def _logits(platform: str, window: int | None, seed: int) -> dict[str, Any]:
    """The error of the platform's kernel in bfloat16, over that of XLA in bfloat16; both against float32."""
    cfg, params, batch = _model(dataclasses.replace(TEXT, sliding_window=window), seed)
    kernel, chosen = _chosen(cfg, platform)
    real = np.arange(TOKENS) < batch.lengths_B[:, None]
    logits = jax.jit(lambda params, cfg: forward(params, batch, cfg).logits_BTV, static_argnums=1)
    with jax.default_matmul_precision("highest"):
        exact = np.asarray(logits(params, cfg))[real]
    errors = [
        np.abs(np.asarray(logits(_half(params), one), np.float32)[real] - exact).mean()
        for one in (chosen, dataclasses.replace(cfg, dtype="bfloat16").with_text(attention="xla"))
    ]
    name = f"logits of {kernel}, {'window' if window else 'causal'}, padded rows: error over XLA's"
    return _row(name, errors[0] / errors[1], LOGITS)


def _greedy(platform: str, seed: int) -> dict[str, Any]:
    """The share of greedy tokens that differ between the platform's kernel and XLA, in float32 on both sides."""
    cfg, params, batch = _model(TEXT, seed)
    cfg = dataclasses.replace(cfg, eos_ids=())
    kernel = flash.choose("auto", platform, cfg.text, "float32")
    with jax.default_matmul_precision("highest"):
        made = [
            np.asarray(generate(params, batch, cfg.with_text(attention=name), max_new_tokens=NEW_TOKENS).tokens_BG)
            for name in (kernel, "xla")
        ]
    return _row(f"greedy tokens of {kernel} that differ from XLA's", float(np.mean(made[0] != made[1])), 0.0)


def _losses(seed: int) -> dict[str, Any]:
    """The largest relative difference of the losses of STEPS NPO steps, on this device and on the CPU."""
    cfg = ModelConfig(text=TEXT, vision=None, image_token_id=None)
    config = defaults("npo")
    config.optim.learning_rate = 1e-3
    config.data.max_length = 64
    config.train.select = ("decoder/.*",)
    config.update(batch_size=ROWS, steps=STEPS)
    settings, curves = checked(config), []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        step = planned_step(settings, cfg, [device])
        arguments = list(jax.device_put(_same(step.args, seed), jax.tree.map(lambda x: x.sharding, step.args)))
        losses = []
        for _ in range(STEPS):
            arguments[0], metrics = step.step(*arguments)
            losses.append(float(metrics["loss"]))
        curves.append(np.asarray(losses))
    return _row(
        f"losses of {STEPS} NPO steps, against the CPU's", float(np.abs(curves[0] / curves[1] - 1).max()), LOSSES
    )


def _same(shapes: Any, seed: int) -> Any:
    """The same numbers for every device: drawn on the CPU."""
    cpu = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cpu), shapes)
    return jax.tree.map(np.asarray, filled(placed, seed))
