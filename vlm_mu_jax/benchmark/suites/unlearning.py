"""bin/bench unlearn: one optimizer step, ours and PyTorch as public unlearning code writes it.

npo   language model and projector train; the peer runs a frozen second model in every step
rmu   three layers' down projections train, steered at a quarter of the depth; the peer runs whole forward passes

Each side is a process that does nothing else, and memory is the largest it ever had resident. Column ours_first_epoch
charges what we compute once per example (image features, NPO's reference log-probabilities) to a single epoch. Columns
floor and floor_peer are examples/s if each side's matrix products alone ran at the speed of one large float32 product.
"""

import functools
from typing import Any

import numpy as np

from vlm_mu_jax.benchmark import random_models, timing
from vlm_mu_jax.benchmark.options import BenchmarkOptions
from vlm_mu_jax.benchmark.workers import Ours, Peer
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.model import flops
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.objectives.rmu import control_vector

LEARNING_RATE, BETA, ALPHA, C = 1e-5, 0.1, 1.0, 10.0
LONGEST = 64  # words behind the image


def measure(options: BenchmarkOptions) -> dict[str, Any]:
    """Rows `npo` and `rmu`, in examples/s (forget and retain examples together)."""
    folder, file = options.workdir / "checkpoint", options.workdir / "inputs.npz"
    text, vision = random_models.SIZES[options.size]
    with Peer() as peer:
        peer.ask("make", folder=str(folder), text=text, vision=vision, seed=options.seed, family=options.family)
    cfg = from_hf(read_json(folder / "config.json"))
    pixels = random_models.picture_side(options.size)
    np.savez(file, **inputs(cfg, options.rows, options.seed, pixels))
    layer = max(cfg.text.L // 4 - 1, 0)  # 7 of 32, as published
    trained = list(range(max(layer - 2, 0), layer + 1))
    rmu = {"layer": layer, "trained": trained, "alpha": ALPHA, "learning_rate": LEARNING_RATE}
    jobs = {"npo": {"beta": BETA, "learning_rate": LEARNING_RATE}, "rmu": rmu}
    rows = []
    for name, arguments in jobs.items():
        with Ours() as ours, Peer() as peer:
            for side in (ours, peer):
                about = side.ask("load", folder=str(folder), arrays=str(file))
            row = timing.compare(
                name,
                ours.side(name, **arguments, remat="dots"),
                peer.side(name, **arguments),
                count=2 * options.rows,
                unit="examples/s",
                agrees=same_loss,
                repeats=options.repeats,
            )
            theirs = peer_flops(name, cfg, options.rows, arguments, pixels)
            rows.append(row | _columns(ours, peer, row["ours"], 2 * options.rows, theirs))
    return timing.result("unlearn", rows, about)


def _columns(ours: Ours, peer: Peer, speed: float, count: int, theirs: float) -> dict[str, Any]:
    """What stands beside the speeds. speed: ours, in examples/s; theirs: FLOPs of one of the peer's steps."""
    about = ours.ask("about")
    return {
        "floor": count * about["speed"] / about["flops"],
        "floor_peer": count * about["speed"] / theirs,
        "ours_first_epoch": count / (count / speed + about["once"]),
        "memory_ours": about["peak"],
        "memory_peer": peer.ask("peak")["bytes"],
    }


def peer_flops(name: str, cfg: ModelConfig, rows: int, arguments: dict[str, Any], side: int) -> float:
    """Matrix products of one step of the peer: whole forward passes, logits at every position, the tower each time."""
    P = random_models.image_tokens(cfg, side)
    length = P + 4 + LONGEST
    projector = 2.0 * P * sum(flops.projector_sizes(cfg).values())
    text = flops.decoder_flops(cfg.text, [length]) + flops.head_flops(cfg.text, length)
    forward = flops.vision_flops(cfg.vision, random_models.encoded_images(cfg, side)) + projector + text
    if name == "npo":  # forget and retain, forward and backward; the reference forward
        return rows * (3 * forward + 2 * 2 * (projector + text))
    depth = arguments["layer"] - arguments["trained"][0]  # blocks that the gradients of activations cross
    down = len(arguments["trained"]) * 2 * cfg.text.F * cfg.text.D * length
    return rows * (3 * forward + 2 * (flops.decoder_flops(cfg.text, [length], depth) + down))


def same_loss(ours: dict, peer: dict) -> bool:
    return abs(ours["loss"] - peer["loss"]) <= 1e-3 * abs(peer["loss"])


def inputs(cfg: ModelConfig, rows: int, seed: int, side: int) -> dict[str, np.ndarray]:
    """Forget and retain examples, and RMU's control vector."""
    rng = np.random.default_rng(seed)
    streams = [random_models.prompts(name, cfg, rows, LONGEST, rng, side) for name in ("forget", "retain")]
    return functools.reduce(dict.__or__, streams, {"control": np.asarray(control_vector(cfg.text.D, C, seed))})
