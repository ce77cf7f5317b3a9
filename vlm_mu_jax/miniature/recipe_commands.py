"""The commands that bin/compare runs for a recipe: training, evaluation, relearning."""

from pathlib import Path

from vlm_mu_jax.training.recipes import Recipe

# What the relearning attack fine-tunes on
RELEARNING = {"forgotten": ["--forget=16"], "harmless": ["--harmless=llava_mix.json"]}


def train(recipe: Recipe, run: Path, workdir: Path, seed: int) -> list[str]:
    """Arguments of bin/train; `run` is a folder of bin/quickstart."""
    arguments = [
        f"--config={recipe.config}",
        f"--config.model.init={run / recipe.start}",
        f"--config.data.root={run / 'mini/data'}",
        f"--config.seed={seed}",
        f"--workdir={workdir}",
        *(f"--config.{path}={value}" for path, value in recipe.changes.items()),
    ]
    if not recipe.baseline:
        arguments.append(f"--config.data.forget_answers={run / 'forget/answers/unsafe_before.jsonl'}")
    return arguments


def evaluate(recipe: Recipe, run: Path, model: Path, workdir: Path, seed: int, sets: tuple[str, ...]) -> list[str]:
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


def relearn(recipe: Recipe, kind: str, run: Path, trained: Path, workdir: Path, seed: int) -> list[str]:
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
