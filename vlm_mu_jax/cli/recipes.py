"""The recipes that bin/compare trains on a miniature: SFT baselines, and unlearning with every objective."""

import dataclasses
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """config: file and variant under configs/. start: what it starts from, in the quickstart's folder."""

    name: str
    config: str
    start: str = "base"
    baseline: bool = False


_UNLEARN = (
    "ga",
    "graddiff",
    "npo",
    "simnpo",
    "dpo",
    "idkdpo",
    "rmu",
    "undial",
    "ceu",
    "wga",
    "satimp",
    "pdu",
)
_SFT = ("posthoc", "mixed", "diverse", "unsafe_filter")

RECIPES = (
    *(Recipe(f"sft_{variant}", f"miniature_sft.py:{variant}", baseline=True) for variant in _SFT),
    *(Recipe(name, f"miniature_unlearn.py:{name}") for name in _UNLEARN),
    Recipe("npo_after_sft", "miniature_unlearn.py:npo", start="sft/model"),
    Recipe("rmu_after_sft", "miniature_unlearn.py:rmu", start="sft/model"),
)

# what the relearning attack fine-tunes on
RELEARNING = {"forgotten": ["--forget=16"], "harmless": ["--harmless=llava_mix.json"]}


def train_command(recipe: Recipe, run: Path, workdir: Path, seed: int) -> list[str]:
    """Arguments of bin/train; `run` is a folder of bin/quickstart."""
    arguments = [
        f"--config={CONFIGS}/{recipe.config}",
        f"--config.model.init={run / recipe.start}",
        f"--config.data.root={run / 'mini/data'}",
        f"--config.seed={seed}",
        f"--workdir={workdir}",
    ]
    if not recipe.baseline:
        arguments.append(f"--config.data.forget_answers={run / 'forget/answers/unsafe_before.jsonl'}")
    return arguments


def eval_command(recipe: Recipe, run: Path, model: Path, workdir: Path, seed: int, sets: tuple[str, ...]) -> list[str]:
    """Arguments of bin/eval, with the words that were found against the quickstart's SFT model."""
    return [
        f"--checkpoint={model}",
        f"--data={run / 'mini/data'}",
        f"--workdir={workdir}",
        f"--name={recipe.name}",
        f"--kind={'sft' if recipe.baseline else recipe.name}",
        f"--seed={seed}",
        f"--attack_words={run / 'attack_sft.json'}",
        f"--sets={','.join(sets)}",
        "--judge=oracle",
        "--max_new_tokens=32",
        "--batch_size=96",
    ]


def relearn_command(recipe: Recipe, kind: str, run: Path, trained: Path, workdir: Path, seed: int) -> list[str]:
    """Arguments of bin/relearn; `trained` is the workdir of the recipe's training, `kind` one of `RELEARNING`."""
    return [
        f"--checkpoint={trained / 'model'}",
        f"--data={run / 'mini/data'}",
        f"--workdir={workdir}",
        f"--name={recipe.name}",
        f"--seed={seed}",
        f"--attack_words={run / 'attack_sft.json'}",
        f"--forget_answers={run / 'forget/answers/unsafe_before.jsonl'}",
        *RELEARNING[kind],
        "--steps=60",
        "--every=20",
        "--max_questions=48",
        "--max_new_tokens=32",
        "--eval_batch_size=96",
    ]
