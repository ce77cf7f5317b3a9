"""bin/bench unlearn: one optimizer step, ours and PyTorch as public unlearning code writes it.

npo   language model and projector train; the peer runs a frozen second model in every step
rmu   three layers' down projections train, steered at a quarter of the depth; the peer runs whole forward passes

Each side is a process that does nothing else, and its largest resident memory is printed beside its speed.
"""

import functools
from typing import Any

import numpy as np

from vlm_mu_jax.cli import bench_jobs
from vlm_mu_jax.cli.bench_options import Options
from vlm_mu_jax.cli.bench_peer import Ours, Peer
from vlm_mu_jax.model.config import from_hf
from vlm_mu_jax.model_folder import read_json
from vlm_mu_jax.objectives.rmu import control_vector

LEARNING_RATE, BETA, ALPHA, C = 1e-5, 0.1, 1.0, 10.0


def measure(options: Options) -> dict[str, Any]:
    """Rows `npo` and `rmu`, in examples/s (forget and retain examples together)."""
    folder, file = options.workdir / "checkpoint", options.workdir / "inputs.npz"
    text, vision = bench_jobs.SIZES[options.size]
    with Peer() as peer:
        peer.ask("make", folder=str(folder), text=text, vision=vision, seed=options.seed)
    cfg = from_hf(read_json(folder / "config.json"))
    np.savez(file, **inputs(cfg, options.rows, options.seed))
    layer = max(cfg.text.L // 4 - 1, 0)  # 7 of 32, as published
    trained = list(range(max(layer - 2, 0), layer + 1))
    rmu = {"layer": layer, "trained": trained, "alpha": ALPHA, "learning_rate": LEARNING_RATE}
    jobs = {"npo": {"beta": BETA, "learning_rate": LEARNING_RATE}, "rmu": rmu}
    rows = []
    for name, arguments in jobs.items():
        with Ours() as ours, Peer() as peer:
            for side in (ours, peer):
                about = side.ask("load", folder=str(folder), arrays=str(file))
            mine, theirs = ours.side(name, **arguments, remat="dots"), peer.side(name, **arguments)
            row = bench_jobs.compare(
                name, mine, theirs, count=2 * options.rows, unit="examples/s", agrees=same_loss,
                repeats=options.repeats,
            )  # fmt: skip
            rows.append(
                row | {f"memory_{who}": side.ask("peak")["bytes"] for who, side in (("ours", ours), ("peer", peer))}
            )
    return bench_jobs.result("unlearn", rows, about)


def same_loss(ours: dict, peer: dict) -> bool:
    return abs(ours["loss"] - peer["loss"]) <= 1e-3 * abs(peer["loss"])


def inputs(cfg: Any, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Forget and retain examples, and RMU's control vector."""
    rng = np.random.default_rng(seed)
    streams = [bench_jobs.prompts(name, cfg, rows, 64, rng) for name in ("forget", "retain")]
    return functools.reduce(dict.__or__, streams, {"control": np.asarray(control_vector(cfg.text.D, C, seed))})
