"""A run is saved on some devices and goes on on others, for all pairs of places: same losses, weights and answers.

    .venv/bin/python -m tests.campaigns.devices --rounds=1 --out=/tmp/devices

A place is a number of processes and of fake CPU devices in all. In every round each place gets a mesh that is drawn, an
objective is drawn, and a tiny LLaVA is trained: to its end on one device, and on every place until after its first
checkpoint. Each of these checkpoints then goes on on every place. A pair fails when

- a loss or a weight differs from the run that was not interrupted by more than rounding,
- a greedy token behind one of eight prompts differs; the tokens are generated where the weights lie.

Figures are kept in OUT/figures.json. docs/reliability.md has those of a long run.
"""

import argparse
import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np

from tests import conftest  # the environment of all tests, before JAX reads it
from tests.multidevice.start import job, train_on

assert conftest
PLACES = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 8), (4, 8))  # processes, devices in all
OBJECTIVES = ("sft", "npo", "rmu")
STEPS, SAVED = 4, 2
MOST_LOSS, MOST_WEIGHT = 1e-4, 1e-3  # relative, of rounding
LEAST = 1e-10  # what stays below is rounding of zero: a bias of keys has no gradient


def mesh(devices: int, rng: random.Random) -> tuple[int, int, int]:
    """data, fsdp, tensor over so many devices; the tiny model's heads are split in two at most."""
    tensor = rng.choice([n for n in (1, 2) if devices % n == 0])
    fsdp = rng.choice([n for n in (1, 2, 4, 8) if devices // tensor % n == 0])
    return devices // tensor // fsdp, fsdp, tensor


def faults(found: dict, whole: dict) -> list[str]:
    """How what a place made of a checkpoint differs from the run that was not interrupted."""
    said = []
    if found["step"].tolist() != list(range(SAVED + 1, STEPS + 1)):
        said.append(f"went on with steps {found['step'].tolist()}")
    elif (loss := _furthest(found["loss"], whole["loss"][SAVED:])) > MOST_LOSS:
        said.append(f"loss differs by {loss:.1e}")
    names = [name for name in whole if name.startswith("weights/")]
    if (weight := max(_furthest(found[name], whole[name]) for name in names)) > MOST_WEIGHT:
        said.append(f"weights differ by {weight:.1e}")
    if not np.array_equal(found["tokens"], whole["tokens"]):
        said.append(f"{(found['tokens'] != whole['tokens']).sum()} greedy tokens differ")
    return said


def _furthest(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, relative to the largest number or LEAST; infinite where one is not finite."""
    difference = float(np.abs(one - other).max() / max(np.abs(other).max(), LEAST))
    return difference if np.isfinite(difference) else np.inf


def trial(folder: Path, rng: random.Random, places, show: bool) -> dict:
    """One round: every place saves, every place goes on with what each has saved."""
    objective = rng.choice(OBJECTIVES)
    meshes = {place: mesh(place[1], rng) for place in places}
    whole = None
    for place in places:
        jobs = [job(objective, *meshes[place], steps=STEPS, workdir=folder / _name(place), stop=SAVED + 1)]
        if place == places[0]:
            jobs.append(job(objective, 1, 1, 1, steps=STEPS, answers=True))
        results = _trained(folder, place, jobs)
        whole = results[1] if place == places[0] else whole
    failed = []
    for place in places:
        begun = {other: folder / f"{_name(other)}_on_{_name(place)}" for other in places}
        for other, copy in begun.items():
            shutil.copytree(folder / _name(other), copy)
        jobs = [job(objective, *meshes[place], steps=STEPS, workdir=copy, answers=True) for copy in begun.values()]
        for other, found in zip(begun, _trained(folder, place, jobs), strict=True):
            wrong = faults(found, whole)
            failed += [
                {"saved": other, "restored": place, "meshes": [meshes[other], meshes[place]], "faults": wrong}
            ] * bool(wrong)
            if show:
                print(f"{objective}: {_name(other)} to {_name(place)}: {'; '.join(wrong) or 'same'}", flush=True)
    return {"objective": objective, "pairs": len(places) ** 2, "failed": failed}


def _trained(folder: Path, place: tuple[int, int], jobs: list[dict]) -> list[dict | None]:
    (folder / "results").mkdir(exist_ok=True)
    return train_on(folder / "results", *jobs, processes=place[0], devices=place[1] // place[0])[0]


def _name(place: tuple[int, int]) -> str:
    return f"{place[0]}x{place[1] // place[0]}"


def campaign(out: Path, rounds: int, seed: int, places=PLACES, show: bool = False) -> dict:
    """Figures of all rounds; folders of rounds without a fault are removed."""
    rng, done = random.Random(seed), []
    for number in range(rounds):
        folder = out / f"round{number}"
        folder.mkdir(parents=True)
        done.append(trial(folder, rng, places, show))
        if not done[-1]["failed"]:
            shutil.rmtree(folder)
        figures = {"seed": seed, "pairs": sum(one["pairs"] for one in done), "rounds": done}
        (out / "figures.json").write_text(json.dumps(figures, indent=1))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    figures = campaign(given.out, given.rounds, given.seed, show=True)
    print(json.dumps(figures, indent=1))
    sys.exit(any(one["failed"] for one in figures["rounds"]))


if __name__ == "__main__":
    main()
