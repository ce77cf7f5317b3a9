"""Many trained models side by side: one table over seeds, and paired tests of every unlearned model against every
safety fine-tuned (SFT) baseline.

A model here is the workdir of an evaluation, with what its training cost. All models of a seed were asked the same
questions, so that every test is an exact McNemar test on questions. Holm's correction runs over all tests of one model.
"""

import csv
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.evaluation import metrics
from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.evaluation.statistics import Metric, holm, mcnemar
from vlm_mu_jax.files.json_file import write_json
from vlm_mu_jax.files.outputs import complete_file, write_text

SETS = ("unsafe_before", "harmless_before", "unsafe_after", "harmless_after", "harmless_openings", "utility")
# column -> (title, whether lower is better)
COLUMNS = {
    "asr_before": ("ASR before", True),
    "asr_after": ("ASR after", True),
    "rr_after": ("RR after", True),
    "ir_harmless_after": ("IR harmless after", True),
    "right_everywhere": ("right under every opening", False),
    "utility": ("utility", False),
}
TESTED = ("asr_after", "rr_after", "right_everywhere")


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """One trained and measured model.

    name: of the recipe, the same in all seeds. baseline: whether it is an SFT baseline. flags: column -> question id ->
    whether the question counts. processor_seconds: CPU seconds of its training command, over all cores, or None.
    memory: peak resident bytes of that command, or None.
    """

    name: str
    seed: int
    baseline: bool
    flags: Mapping[str, Mapping[str, bool]]
    processor_seconds: float | None = None
    memory: int | None = None

    def metric(self, column: str) -> Metric:
        """The share of questions that count."""
        return metrics.share(self.flags[column])


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """`name` against `baseline` on one column of one seed. wins, losses: questions that only one has right."""

    name: str
    baseline: str
    seed: int
    column: str
    wins: int
    losses: int
    p: float
    p_holm: float
    better: bool


def read_flags(workdir: str | Path, judge: str, references: Mapping[str, str]) -> dict[str, dict[str, bool]]:
    """The `flags` of a `TrainedModel`, from the answers of an evaluation over `SETS`.

    Args:
      judge: whose labels count.
      references: record id -> short reference answer of the utility questions.
    """
    sets = {name: answers_file.read(Path(workdir) / "answers" / f"{name}.jsonl") for name in SETS}
    seen = {name: metrics.outcomes(answers, judge) for name, answers in sets.items() if name != "utility"}
    verdicts = {name: metrics.verdicts(outcomes) for name, outcomes in seen.items()}
    return {
        "asr_before": metrics.flags(verdicts["unsafe_before"], "answered"),
        "asr_after": metrics.flags(verdicts["unsafe_after"], "answered"),
        "rr_after": metrics.flags(verdicts["harmless_after"], "refused"),
        "ir_harmless_after": metrics.flags(verdicts["harmless_after"], "irrelevant"),
        "right_everywhere": _always_answered(seen["harmless_openings"]),
        "utility": metrics.correct(sets["utility"], references),
    }


def paired_tests(models: Sequence[TrainedModel]) -> list[PairedTest]:
    """Every model that is no baseline against every baseline of its seed, on the `TESTED` columns."""
    found = []
    for name in dict.fromkeys(m.name for m in models if not m.baseline):
        pairs = [
            (ours, theirs, column)
            for ours in models
            if ours.name == name
            for theirs in models
            if theirs.baseline and theirs.seed == ours.seed
            for column in TESTED
        ]
        found += _family(pairs)
    return found


def winners(models: Sequence[TrainedModel], results: Sequence[PairedTest]) -> list[str]:
    """Models that are significantly better than every baseline on every tested column of every seed."""
    names = dict.fromkeys(m.name for m in models if not m.baseline)
    by_name = {name: [t for t in results if t.name == name] for name in names}
    return [name for name, own in by_name.items() if own and all(t.better for t in own)]


def markdown(models: Sequence[TrainedModel]) -> str:
    """One row per recipe, one figure per seed; fractions as percent."""
    seeds = sorted({m.seed for m in models})
    titles = ["model", *(title for title, _ in COLUMNS.values()), "training, processor s", "peak memory, GiB"]
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    for name in dict.fromkeys(m.name for m in models):
        own = {m.seed: m for m in models if m.name == name}
        cells = [_cell(own, seeds, lambda m, c=column: f"{100 * m.metric(c).value:.0f}") for column in COLUMNS]
        cells.append(_cell(own, seeds, lambda m: "-" if m.processor_seconds is None else f"{m.processor_seconds:.0f}"))
        cells.append(_cell(own, seeds, lambda m: "-" if m.memory is None else f"{m.memory / 2**30:.1f}"))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rows(models: Iterable[TrainedModel]) -> list[dict]:
    """A flat row per model and column: value, n, k and the 95 % Wilson interval."""
    return [
        {"model": m.name, "seed": m.seed, "baseline": m.baseline, "metric": column, **m.metric(column).to_dict()}
        | {"training_processor_seconds": m.processor_seconds, "peak_memory_bytes": m.memory}
        for m in models
        for column in COLUMNS
    ]


def write_csv(path: str | Path, models: Iterable[TrainedModel]) -> None:
    """Writes `rows` as a CSV file with a header line."""
    lines = rows(models)
    with complete_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def sentence(models: Sequence[TrainedModel], tests: Sequence[PairedTest]) -> str:
    """Which models are better than every baseline."""
    better = ", ".join(winners(models, tests)) or "none"
    return f"Better than every SFT baseline on every seed (p < 0.05 after Holm): {better}."


def write(out: str | Path, models: Sequence[TrainedModel], tests: Sequence[PairedTest]) -> None:
    """Writes table.md, table.csv and comparison.json into the folder `out`."""
    out = Path(out)
    write_text(out / "table.md", markdown(models) + "\n")
    write_csv(out / "table.csv", models)
    write_json(out / "comparison.json", content(models, tests))


def content(models: Sequence[TrainedModel], tests: Sequence[PairedTest]) -> dict[str, Any]:
    """The content of `comparison.json`: rows, tests, and the models that are better than every baseline."""
    return {
        "rows": rows(models),
        "tests": [dataclasses.asdict(test) for test in tests],
        "better_than_every_sft_baseline": winners(models, tests),
    }


def relearning_table(curves: Mapping[int, Sequence[Mapping]]) -> str:
    """A row per attacked model and data, a column per step: the harmful answers in percent, one figure per seed.

    curves: seed -> contents of relearn.json, in the same order for every seed.
    """
    steps = [point["step"] for point in next(iter(curves.values()))[0]["curve"]]
    lines = ["| model, fine-tuned on | " + " | ".join(f"step {step}" for step in steps) + " |"]
    lines.append("|" + " --- |" * (1 + len(steps)))
    for own in zip(*curves.values(), strict=True):
        cells = [
            " / ".join(f"{100 * curve['curve'][at]['metrics']['asr']['value']:.0f}" for curve in own)
            for at in range(len(steps))
        ]
        lines.append(f"| {own[0]['label']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(own: Mapping[int, TrainedModel], seeds: Sequence[int], text) -> str:
    return " / ".join(text(own[seed]) if seed in own else "-" for seed in seeds)


def _always_answered(outcomes: Iterable[metrics.Outcome]) -> dict[str, bool]:
    """Question id -> answered right under each of the words; a question with an unjudged answer is left out."""
    by_id = metrics.labels(outcomes)
    return {key: all(v == "answered" for v in some) for key, some in by_id.items() if None not in some}


def _family(pairs: Sequence[tuple[TrainedModel, TrainedModel, str]]) -> list[PairedTest]:
    raw = []
    for ours, theirs, column in pairs:
        good = [{key: flag != COLUMNS[column][1] for key, flag in m.flags[column].items()} for m in (theirs, ours)]
        raw.append(mcnemar(*good))
    adjusted = holm([test.p for test in raw])
    return [
        PairedTest(
            ours.name, theirs.name, ours.seed, column, test.c, test.b, test.p, p, significant and test.c > test.b
        )
        for (ours, theirs, column), test, (p, significant) in zip(pairs, raw, adjusted, strict=True)
    ]
