"""A campaign over several seeds: each has its own figures, those that are there are not made again, all add up."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

LARGEST = ("slowest", "largest", "first_paint")  # figures of which the largest counts


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--seed and --out."""
    parser.add_argument("--seed", default="0", help="one, or a range such as 1-20; seeds that are done are left out")
    parser.add_argument("--out", type=Path, required=True)


def run(given: argparse.Namespace, campaign: Callable[[int], dict]) -> None:
    """Makes the figures of every seed, prints their sum, and leaves with 1 if anything failed.

    campaign: a seed -> its figures. It is asked in the order of the seeds; what it has written of one that was cut
      short does not count, and that one is made again.
    """
    first, _, last = given.seed.partition("-")
    all_figures = []
    for seed in range(int(first), int(last or first) + 1):
        path = given.out / f"figures_{seed}.json"
        if not path.exists():
            figures = campaign(seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(figures, indent=1))
        all_figures.append(json.loads(path.read_text()))
    whole = total(all_figures)
    print(json.dumps(whole, indent=1))
    sys.exit(bool(whole["failed"]))


def total(all_figures: Iterable[dict]) -> dict:
    """The sum: numbers are added, lists joined, and of the LARGEST the largest is taken."""
    whole: dict = {}
    for figures in all_figures:
        _add(whole, figures)
    return whole


def _add(whole: dict, figures: dict) -> None:
    for name, value in figures.items():
        if name == "seed":
            whole.setdefault("seeds", []).append(value)
        elif isinstance(value, dict):
            _add(whole.setdefault(name, {}), value)
        elif name.startswith(LARGEST):
            whole[name] = max(whole.get(name, value), value)
        else:
            whole[name] = whole[name] + value if name in whole else value


if __name__ == "__main__":  # the sum of what stands in a folder
    print(json.dumps(total(json.loads(path.read_text()) for path in sorted(Path(sys.argv[1]).glob("figures_*.json")))))
