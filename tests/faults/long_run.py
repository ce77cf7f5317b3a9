"""Started by test_kill.py, and killed: a run of many small steps with a checkpoint every third.

python long_run.py WORKDIR STEPS; prints "from N" when the steps begin.
"""

import sys
from pathlib import Path

from tests.training import tiny
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.training.trainable import Selection


def main(workdir, steps):
    def progress(items, label, total=None):
        if label == "train":
            print("from", items.start, flush=True)
        return items

    objective = make_objective("npo", beta=0.5)
    tiny.fit(
        objective,
        tiny.params(tiny.TEXT),
        steps,
        trainable=Selection.of(select=["decoder/norm_D"], lora_rank=2),
        workdir=Path(workdir),
        checkpoint_every=3,
        progress=progress,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
