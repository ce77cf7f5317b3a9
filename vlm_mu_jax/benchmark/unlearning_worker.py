"""Our side of bin/bench unlearn, as a process of its own: training steps asked for in JSON lines on stdin.

{"do": "load", "folder", "arrays": NPZ}    the model and the examples
{"do": "npo" | "rmu" | "npo_lora", ...}    one training step; the first also prepares, as bin/train does;
                                           "once": seconds that all examples cost before the first step
{"do": "peak"}                             the most memory this process ever had, bytes
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vlm_mu_jax.benchmark import random_models, timing
from vlm_mu_jax.data.batches import Stream, TrainRow
from vlm_mu_jax.model.vlm import encode_tower
from vlm_mu_jax.objectives.objective import Objective
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.parallel.mesh import single_device_mesh
from vlm_mu_jax.training.feed import put_rows
from vlm_mu_jax.training.model_policy import ModelPolicy
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.prepare import prepare
from vlm_mu_jax.training.spec import TrainingSpec
from vlm_mu_jax.training.trainable import FROZEN_VISION, Selection

DOWN = "decoder/layers/wdown_LFD"


class Steps:
    """Holds the model, the examples and the state of training between jobs."""

    def load(self, folder: str, arrays: str) -> dict[str, Any]:
        self.params, self.cfg = random_models.load(folder)
        self.arrays = dict(np.load(arrays))
        self.step: Callable[[], dict[str, Any]] | None = None
        return {}

    def npo(self, beta: float, learning_rate: float, remat: str) -> dict[str, Any]:
        objective = make_objective("npo", reading="as_code", beta=beta, retain_preference=0.0)
        return self._run(objective, FROZEN_VISION, learning_rate, remat)

    def npo_lora(self, beta: float, learning_rate: float, rank: int, remat: str) -> dict[str, Any]:
        objective = make_objective("npo", reading="as_code", beta=beta, retain_preference=0.0)
        return self._run(objective, Selection.of(select=(), lora_rank=rank), learning_rate, remat)

    def rmu(self, layer: int, trained: list[int], alpha: float, learning_rate: float, remat: str) -> dict[str, Any]:
        objective = make_objective("rmu", reading="as_code", layer=layer, retain_alpha=alpha, retain_weight=0.0)
        return self._run(objective, Selection.of(select=(), slices={DOWN: trained}), learning_rate, remat)

    def about(self) -> dict[str, Any]:
        peak = timing.peak_memory()  # before the product below
        return {"flops": self.flops, "once": self.once, "peak": peak, "speed": timing.matmul_speed()}

    def _run(self, objective: Objective, selection: Selection, learning_rate: float, remat: str) -> dict[str, Any]:
        if self.step is None:
            self.step = self._prepare(objective, selection, learning_rate, remat)
        return self.step()

    def _prepare(
        self, objective: Objective, selection: Selection, learning_rate: float, remat: str
    ) -> Callable[[], dict]:
        """A function that makes one more step. The start weights are given up, as in bin/train."""
        optim = OptimConfig(learning_rate, schedule="constant", warmup=0.0, clip=0.0)
        spec = TrainingSpec(self.cfg.with_text(remat=remat), objective, optim, 1000, selection)
        streams = {name: self._stream(name) for name in objective.streams}
        self.once = self._once(spec, streams)
        mesh, params = single_device_mesh(), self.params
        self.params = None
        job = prepare(spec, params, streams, mesh, donate=True)
        rows = {
            name: put_rows(stream, stream.indices(0), mesh, 1, stream.lengths[-1])
            for name, stream in job.streams.items()
        }
        step = job.step.lower(job.state, job.frozen, rows, job.constants).compile()
        state, frozen, constants = job.state, job.frozen, job.constants
        self.flops = job.flops(rows)
        del params, job  # the first state, which the first step takes over

        def run() -> dict[str, Any]:
            nonlocal state
            state, metrics = step(state, frozen, rows, constants)
            jax.block_until_ready(state)
            return {"loss": float(metrics["loss"])}

        return run

    def _once(self, spec: TrainingSpec, streams: dict[str, Stream]) -> float:
        """Seconds for the image features and reference log-probabilities of all examples, without compilation."""
        encode = jax.jit(lambda params, batch: encode_tower(params, batch.pixels_BMHWC, spec.cfg, batch.grid_BI2))
        score = jax.jit(lambda params, rows: ModelPolicy(params, None, None, spec.cfg, {}).nll(rows)[0])

        def prepared(name: str) -> Any:
            rows = streams[name][0]
            if rows.batch.pixels_BMHWC is None:
                return score(self.params, rows) if name in spec.objective.reference_nll_streams else ()
            features = encode(self.params, rows.batch)
            rows = rows.replace(batch=rows.batch.replace(pixels_BMHWC=None, vision_BMPE=features))
            return score(self.params, rows) if name in spec.objective.reference_nll_streams else features

        for _ in range(2):  # the first time compiles
            start = time.perf_counter()
            jax.block_until_ready([prepared(name) for name in streams])
        return time.perf_counter() - start

    def _stream(self, name: str) -> Stream:
        """All examples as one batch."""
        tokens, lengths, mask = (self.arrays[f"{name}_{part}"] for part in ("tokens", "lengths", "mask"))
        pixels = self.arrays.get(f"{name}_pixels")
        shown = [()] * len(lengths) if pixels is None else [(random_models.picture(x, self.cfg),) for x in pixels[:, 0]]
        rows = [
            TrainRow(f"{name}{i}", tuple(map(int, tokens[i, :n])), tuple(map(bool, mask[i, :n])), shown[i])
            for i, n in enumerate(lengths)
        ]
        image = self.cfg.image_token_id
        return Stream(rows, len(rows), 0, name=name, lengths=tokens.shape[1:], image_token_id=image)


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    steps = Steps()
    for line in sys.stdin:
        job = json.loads(line)
        start = time.perf_counter()
        answer = getattr(steps, job.pop("do"))(**job)
        print(json.dumps({"seconds": time.perf_counter() - start, **answer}), file=answers, flush=True)


if __name__ == "__main__":
    main()
