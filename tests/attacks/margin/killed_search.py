"""Started by test_resume.py: searches three questions, one block after the other; prints the scores as JSON.

python killed_search.py FILE [PAUSE]   (PAUSE: seconds to wait after every tick of progress)
"""

import json
import sys
import time

import numpy as np

from tests.attacks.conftest import tiny_model
from vlm_mu_jax.absent import import_transformers_without_torch
from vlm_mu_jax.attacks.margin.openings import Openings
from vlm_mu_jax.attacks.margin.search_run import MarginsFile, SearchRun, SearchTarget
from vlm_mu_jax.attacks.questions import SearchQuestion
from vlm_mu_jax.attacks.words.search import SearchOptions, search

WORDS = ("what", "describe", "can", "please", "blick", "extraordinarily", "fep", "share")


def main(path: str, pause: float) -> None:
    pixels = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    asks = [SearchQuestion("share the wug on this sign ?", image) for image in pixels]
    ticks = 0

    def progress(steps, label, total):
        nonlocal ticks
        for ticks, step in enumerate(steps, start=1):  # noqa: B007 (read by the enclosing function)
            time.sleep(pause)
            yield step

    with MarginsFile(path, {"search": "test"}) as file:
        found = search(
            tiny_model(),
            asks,
            WORDS,
            SearchTarget(Openings(((5,),))),
            SearchOptions(block=1),
            SearchRun(file=file, progress=progress),
        )
    print(json.dumps({"margins": found["question_start"].margins_QW.tolist(), "ticks": ticks}))


if __name__ == "__main__":
    import_transformers_without_torch()
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
