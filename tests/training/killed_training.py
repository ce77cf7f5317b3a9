"""Started by test_train.py: bin/train with every file read as long files are, and killed before the step KILL_AT."""

import os
import runpy
import signal

from vlm_mu_jax import progress
from vlm_mu_jax.data.readers import long_files
from vlm_mu_jax.training import sources


def bar(items, label, total=None):
    for item in items:
        if label == "sft" and str(item) == os.environ.get("KILL_AT"):
            os.kill(os.getpid(), signal.SIGKILL)
        yield item


if __name__ == "__main__":
    long_files.LONG = sources.AT_ONCE = 0
    progress.bar = bar
    runpy.run_module("vlm_mu_jax.cli.train", run_name="__main__", alter_sys=True)
