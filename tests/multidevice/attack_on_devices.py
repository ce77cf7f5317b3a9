"""Started by test_attack.py with eight fake CPU devices; prints the margins of searches as JSON.

python attack_on_devices.py FOLDER   (for the images that are searched)
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np

from tests.attacks.conftest import tiny_model
from vlm_mu_jax.absent import import_transformers_without_torch
from vlm_mu_jax.attacks.margin.margin import score
from vlm_mu_jax.attacks.margin.openings import Openings
from vlm_mu_jax.attacks.margin.search_run import SearchRun, SearchTarget
from vlm_mu_jax.attacks.methods import gcg, pgd, suffix
from vlm_mu_jax.attacks.methods.suffix_prompts import SuffixOptions
from vlm_mu_jax.attacks.questions import SearchQuestion
from vlm_mu_jax.attacks.words.search import SearchOptions, search
from vlm_mu_jax.parallel.mesh import make_mesh

WORDS = ("what", "describe", "can", "please", "blick", "extraordinarily", "fep", "share", "zorp", "wug")


# What the devices share, by the (data, fsdp, tensor) sizes of each group of them that scores one question.
SHARED = {"nothing": None, "questions": (1, 1, 1), "candidates": (8, 1, 1), "both": (2, 2, 1)}


def main(folder: str) -> None:
    pixels = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    asks = [SearchQuestion("share the wug on this sign ?", image) for image in pixels]
    found = {}
    for name, sizes in SHARED.items():
        meshes = groups_of(sizes) if sizes else []
        found[name] = {"groups": len(meshes), "words": words(asks, meshes)}
        if name in ("nothing", "both"):
            found[name]["others"] = others(asks, meshes, Path(folder) / name)
    print(json.dumps(found))


def groups_of(sizes):
    devices, together = jax.devices(), int(np.prod(sizes))
    return [make_mesh(*sizes, devices[at : at + together]) for at in range(0, len(devices), together)]


def words(asks, meshes):
    before = score._cache_size()
    found = search(
        tiny_model(),
        asks,
        WORDS,
        SearchTarget(Openings(((5,), (7, 8)))),
        SearchOptions(positions=("question_start", "response_prefix"), block=16),
        SearchRun(meshes=meshes),
    )
    rows = {position: one.margins_QW.tolist() for position, one in found.items()}
    best = {position: one.best_per_question.tolist() for position, one in found.items()}
    return {"margins": rows, "best": best, "programs": score._cache_size() - before}


def others(asks, meshes, folder):
    model, openings = tiny_model(), Openings(((5,), (9,)))
    use = SuffixOptions(steps=2, candidates=12, top=4, length=3, stop=1e9, block=12)
    suffixes = suffix.search(model, asks[:2], SearchTarget(openings), gcg.propose, use, SearchRun(meshes=meshes))
    # Every suffix breaks a question by these nats, so all of them join.
    (together,) = suffix.universal(
        model,
        asks[:2],
        SearchTarget(openings),
        gcg.propose,
        dataclasses.replace(use, stop=-1e3),
        SearchRun(meshes=meshes),
    )
    found = pgd.search(
        model, asks[:2], SearchTarget(openings), pgd.PixelOptions(steps=2, stop=1e9), folder, SearchRun(meshes=meshes)
    )
    return {
        "margins": {
            "suffix": [[one.original, one.margin] for one in suffixes],
            "universal": [together.originals, together.margins],
            "pgd": [[one.original, one.random, one.margin] for one in found],
        },
        "texts": [one.text for one in (*suffixes, together)],
    }


if __name__ == "__main__":
    import_transformers_without_torch()
    main(sys.argv[1])
