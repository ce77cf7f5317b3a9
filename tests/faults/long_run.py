"""Started by test_kill.py: runs of many small steps with a checkpoint every third, to be killed.

It imports what a run needs and then reads workdirs, one a line. For each it forks a process, prints "process ID", and
runs there. A run prints "from N" when its steps begin. When it has ended, "ended CODE" is printed.
"""

import os
import sys
from pathlib import Path

from tests.training import tiny
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.training.trainable import Selection

STEPS = 60


def serve():
    """JAX starts no backend here, so that every fork has its own."""
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            run(Path(line.strip()))
            os._exit(0)
        print("process", process, flush=True)
        print("ended", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def run(workdir):
    def progress(items, label, total=None):
        if label == "train":
            print("from", items.start, flush=True)
        return items

    objective = make_objective("npo", beta=0.5)
    tiny.fit(
        objective,
        tiny.params(tiny.TEXT),
        STEPS,
        trainable=Selection.of(select=["decoder/norm_D"], lora_rank=2),
        workdir=workdir,
        checkpoint_every=3,
        progress=progress,
    )


if __name__ == "__main__":
    serve()
