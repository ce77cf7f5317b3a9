"""One defence measured: which model and guard it means, asking, judging, scoring, writing.

A defence is named by its parts, joined by "+": a name of `wrappers.DEFENCES` (how the model is asked), `guard` or the
name of another guard (steering), and `unlearned` (other weights).
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation import provenance, workdir
from vlm_mu_jax.evaluation.answers.answers_file import Answer
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
from vlm_mu_jax.evaluation.defences import table, text_alone, wrappers
from vlm_mu_jax.evaluation.defences.instruction_settings import UTILITY
from vlm_mu_jax.evaluation.defences.wrappers import DEFENCES, GATED, VANILLA, Wording
from vlm_mu_jax.evaluation.judges import BatchJudge, Judge
from vlm_mu_jax.evaluation.judging import judge_suite
from vlm_mu_jax.evaluation.perplexity import AnswerLikelihood, Perplexity
from vlm_mu_jax.evaluation.questions.question import Question
from vlm_mu_jax.evaluation.questions.suite import Suite
from vlm_mu_jax.evaluation.results import rates
from vlm_mu_jax.evaluation.results.rates import SCHEMA
from vlm_mu_jax.steering.guard import open_guard
from vlm_mu_jax.steering.guard_folder import validation_ids
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.storage.model_folder import Model

GUARD, UNLEARNED = "guard", "unlearned"


@dataclasses.dataclass(frozen=True)
class Defence:
    """name: as given. wrapper: a name of `wrappers.DEFENCES`. guard: name of the guard, or None. unlearned: whether it
    has this part."""

    name: str
    wrapper: str
    guard: str | None
    unlearned: bool

    @property
    def kind(self) -> str:
        """How results and report call it."""
        if self.unlearned:
            return UNLEARNED
        return "base" if self.wrapper == VANILLA and self.guard is None else GUARD


@dataclasses.dataclass(frozen=True)
class DefencePlan:
    """What all defences of one comparison share.

    workdir: gets one folder per defence; None writes nothing. data: the data folder. judges: all that label the
    answers. judge: the one whose labels count. answering: how questions are answered; its `steer` is the guard's to
    set. perplexity: scores every answer, or None.
    """

    workdir: Path | None
    data: Path
    judges: Mapping[str, Judge | BatchJudge]
    judge: Judge | BatchJudge
    wording: Wording = Wording()
    answering: AnswerOptions = AnswerOptions()
    seed: int = 0
    perplexity: Perplexity | None = None


def parse(names: Iterable[str], guards: Iterable[str] = ()) -> list[Defence]:
    """The defences of these names.

    Args:
      guards: names of further guards.

    Raises:
      InputError: an unknown part, two wrappers or two guards, a wrapper without the guard that it needs, or a name
        given twice.
    """
    found, guards = [], {GUARD, *guards}
    if taken := sorted(guards & {*DEFENCES, UNLEARNED}):
        raise InputError(f"--guard={taken[0]}=FOLDER: {taken[0]} is another part's name; choose one of your own")
    for name in names:
        parts = name.split("+")
        known = {*DEFENCES, *guards, UNLEARNED}
        if unknown := [part for part in parts if part not in known]:
            raise InputError(f"--defences: {', '.join(unknown)} is unknown; use parts of {', '.join(sorted(known))}")
        ways, steers = ([part for part in parts if part in some] for some in (DEFENCES, guards))
        if max(len(ways), len(steers)) > 1 or len(set(parts)) < len(parts):
            raise InputError(
                f"--defences={name}: takes each part once, and one guard and one of {', '.join(DEFENCES)} at most"
            )
        if GATED in ways and not steers:
            raise InputError(f"--defences={name}: {GATED} asks a guard's gate; join it to one, as in {GATED}+{GUARD}")
        found.append(Defence(name, ways[0] if ways else VANILLA, steers[0] if steers else None, UNLEARNED in parts))
    if len({d.name for d in found}) < len(found):
        raise InputError("--defences: names a defence twice; give each once")
    return found


def unseen(suite: Suite, guard_folders: Iterable[str | None]) -> tuple[Suite, int]:
    """(the suite without requests that the selection of one of these guards has seen, how many requests that were)."""
    seen: set[str] = set()
    for folder in filter(None, guard_folders):
        seen |= validation_ids(folder)
    sets = {name: [q for q in questions if q.id not in seen] for name, questions in suite.sets.items()}
    left_out = {q.id for questions in suite.sets.values() for q in questions} & seen
    sets = {name: questions for name, questions in sets.items() if questions}
    if not sets:
        raise InputError("--guard: its selection has seen every request of --data; evaluate it on other requests")
    return dataclasses.replace(suite, sets=sets), len(left_out)


def run(
    model: Model, defence: Defence, guard_folder: str | None, suite: Suite, plan: DefencePlan
) -> tuple[dict[str, Any], dict[str, table.Judged]]:
    """Asks, judges and scores everything; what WORKDIR/NAME already holds is not asked again.

    Returns (the run's entry of results.json with `defence` facts, {set: table.Judged}).
    """
    folder = None if plan.workdir is None else plan.workdir / defence.name
    steer, guard = open_guard(model, guard_folder)
    answering = dataclasses.replace(plan.answering, steer=steer)
    if folder is not None:
        workdir.open_workdir(folder, *_facts(model, defence, guard, suite, plan))
    asked, facts = wrappers.defend_suite(model, suite, defence.wrapper, folder, answering, plan.wording)
    answers = judge_suite(asked, suite, plan.judges, folder, progress=answering.progress)
    judged = {
        name: table.Judged(
            some, suite.records[name], _scores(plan, some, suite.sets[name]) if name != UTILITY else None
        )
        for name, some in answers.items()
    }
    if text_alone.ASKED in judged:
        facts |= {"language_model": _alone(model, suite, judged[text_alone.ASKED], folder, plan)}
    entry = {
        "name": defence.name,
        "kind": defence.kind,
        "seed": plan.seed,
        "judge": plan.judge.name,
        "unjudged": rates.unjudged(answers, plan.judge.name),
        "judge_error": rates.common_error(answers, plan.judge.name),
        "defence": facts,
        "metrics": table.measure(judged, plan.judge.name, plan.judge.exact),
    }
    return entry, judged


def _alone(
    model: Model, suite: Suite, defended: table.Judged, folder: Path | None, plan: DefencePlan
) -> dict[str, Any]:
    """What the model alone says to the words' prompts as text."""
    asked, path = suite.sets[text_alone.ASKED], None if folder is None else folder / "language_model.jsonl"
    return text_alone.text_alone(
        model, asked, defended.answers, suite.records[text_alone.ASKED], plan.judge, plan.answering, path
    )


def write(plan: DefencePlan, entry: Mapping[str, Any], comparisons: list[dict[str, Any]]) -> None:
    """WORKDIR/NAME/results.json in the form of bin/eval; nothing without a workdir."""
    if plan.workdir is None:
        return
    folder = plan.workdir / entry["name"]
    provenance = workdir.read_workdir(folder)[1]
    content = {"schema": SCHEMA, "runs": [dict(entry)], "comparisons": comparisons, "provenance": provenance}
    workdir.write_results(folder, content)


def _facts(model: Model, defence: Defence, guard: dict | None, suite: Suite, plan: DefencePlan) -> tuple[dict, dict]:
    """(config.json, provenance.json) of the run's folder."""
    weights = weights_hash(model.params)
    settings = {
        "checkpoint": str(model.folder),
        "data": str(plan.data),
        "max_new_tokens": plan.answering.max_new_tokens,
        "batch_size": plan.answering.batch_size,
        "seed": plan.seed,
        "sets": list(suite.sets),
        "weights_sha256": weights,
        "guard_sha256": guard and guard["sha256"],
        **wrappers.settings(defence.wrapper, plan.wording),
    }
    return settings, provenance.collect(model, weights, plan.data, suite.files, guard)


def _scores(
    plan: DefencePlan, answers: Sequence[Answer], questions: Sequence[Question]
) -> list[AnswerLikelihood] | None:
    """Of the answers, in the order of their questions; nothing is said of questions that were not asked."""
    if plan.perplexity is None:
        return None
    pairs = [pair for pair in zip(answers, questions, strict=True) if not pair[0].left_out]
    texts = [(answer.question, answer.answer, question.context) for answer, question in pairs]
    asked, said, contexts = zip(*texts, strict=True) if texts else ((), (), ())
    found = iter(plan.perplexity(asked, said, plan.answering.progress, contexts))
    return [AnswerLikelihood(0.0, 0) if answer.left_out else next(found) for answer in answers]
