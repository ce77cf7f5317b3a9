"""Started by test_attack.py with eight fake CPU devices; prints the margins of a search as JSON.

python attack_on_devices.py DATA FSDP TENSOR   (sizes of each group of devices that scores one question; 0 0 0: no mesh)
"""

import json
import sys

import jax
import numpy as np

from tests.attack.conftest import tiny_model
from vlm_mu_jax.attack.openings import Openings
from vlm_mu_jax.attack.search import Ask, search
from vlm_mu_jax.parallel.mesh import make_mesh

WORDS = ("what", "describe", "can", "please", "blick", "extraordinarily", "fep", "share", "zorp", "wug")


def main(data: int, fsdp: int, tensor: int) -> None:
    devices, together = jax.devices(), data * fsdp * tensor
    groups = [devices[at : at + together] for at in range(0, len(devices), together)] if together else []
    meshes = [make_mesh(data, fsdp, tensor, group) for group in groups]
    pixels = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    asks = [Ask("share the wug on this sign ?", image) for image in pixels]
    found = search(
        tiny_model(), asks, WORDS, Openings(((5,), (7, 8))), positions=("question_start", "response_prefix"),
        block=16, meshes=meshes,
    )  # fmt: skip
    rows = {position: one.margins_QW.tolist() for position, one in found.items()}
    best = {position: one.best_per_question.tolist() for position, one in found.items()}
    print(json.dumps({"margins": rows, "best": best, "groups": len(meshes)}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
