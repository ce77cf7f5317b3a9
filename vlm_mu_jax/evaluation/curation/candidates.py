"""From candidate answers of several models to the one harmful answer per request that is to be unlearned.

Source: step 2 of the data pipeline of OPTML-Group/VLM-Safety-Unlearn (arXiv 2503.11832). There a judge picks the most
harmful of the candidates from the answers and the image's path. Three things differ here. The judge is shown question
and image. A refusal is never chosen, since unlearning it would teach the model to comply. An output of this step is
refused as its input.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.evaluation.answers.answers_file import Answer
from vlm_mu_jax.evaluation.answers.record_answers import read_provenance
from vlm_mu_jax.evaluation.judges import BatchJudge, Case, Judge, Label, RefusalJudge, judge_many
from vlm_mu_jax.files.hashes import sha256
from vlm_mu_jax.progress import Progress

CHOSEN = "curated"  # a label of this name marks the lines that `choose` wrote
_PLACEHOLDER = re.compile(r"\W*(n\W?a|none|null)?\W*", re.IGNORECASE)  # VLGuard's train file has 14 such "questions"


@dataclasses.dataclass(frozen=True)
class Candidates:
    """One model's answers by record id. provenance: what `bin/generate --data` wrote beside the file, or None."""

    path: Path
    sha256: str
    answers: dict[str, Answer]
    provenance: dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class ChosenAnswers:
    """The chosen answers, one per request that has a harmful one, in the order of the requests; and the counts."""

    answers: tuple[Answer, ...]
    counts: dict[str, Any]


def read_candidates(paths: Sequence[str | Path], requests: Sequence[Record]) -> list[Candidates]:
    """The candidates files; answers under an attack and to other records are left out.

    Raises InputError for a file that is missing, is given twice, is an output of curation, or answers other questions.
    """
    found: list[Candidates] = []
    questions = {record.id: record.question for record in requests}
    for path in map(Path, paths):
        if not path.is_file():
            raise InputError(f"--candidates: {path}: no such file; make it with bin/generate --data")
        digest = sha256(path)
        same = next((other.path for other in found if other.sha256 == digest), None)
        if same is not None:
            raise InputError(f"--candidates: {path} and {same} hold the same answers; give each model once")
        lines = answers_file.read(path)
        if any(CHOSEN in line.labels for line in lines):
            raise InputError(f"--candidates: {path} was chosen by bin/curate; give the models' own answers")
        found.append(Candidates(path, digest, _own_answers(path, lines, questions), read_provenance(path)))
    return found


def choose(
    requests: Records,
    candidates: Sequence[Candidates],
    judge: Judge | BatchJudge,
    progress: Progress | None = None,
) -> ChosenAnswers:
    """The most harmful answer to every request, as the judge sees it.

    An answer is eligible when the judge and the judge `refusal` both call it "answered". The one with the highest
    probability of harm is taken; without probabilities, or between equal ones, that of the file given first.

    Args:
      requests: the unsafe records.
      progress: shows progress of a judge that asks a model.
    """
    asked = [r for r in requests if not _PLACEHOLDER.fullmatch(r.question)]
    pairs = [(r, i) for r in asked for i, c in enumerate(candidates) if r.id in c.answers]
    cases = [_case(requests, r, candidates[i].answers[r.id]) for r, i in pairs]
    labels = judge_many(judge, cases, progress)
    wording = judge_many(RefusalJudge(), cases)
    kept: dict[str, list[tuple[float, int, Answer]]] = {}
    tallies = [dict.fromkeys(("answers", "refused", "irrelevant", "unjudged", "chosen"), 0) for _ in candidates]
    for (record, i), label, words in zip(pairs, labels, wording, strict=True):
        tallies[i]["answers"] += 1
        why = _ineligible(label, words)
        if why:
            tallies[i][why] += 1
        else:
            line = _marked(candidates[i], record, judge.name, label, words)
            kept.setdefault(record.id, []).append((label.probability or 0.0, -i, line))
    best = {name: max(some, key=lambda one: one[:2]) for name, some in kept.items()}
    for _, i, _ in best.values():
        tallies[-i]["chosen"] += 1
    answered = {record.id for record, _ in pairs}
    counts = {
        "judge": judge.name,
        "requests": len(requests),
        "dropped_placeholder_question": len(requests) - len(asked),
        "dropped_unanswered": sum(r.id not in answered for r in asked),
        "dropped_no_harmful_answer": len(answered) - len(best),
        "chosen": len(best),
        "chosen_among_equals": sum(sum(p == best[name][0] for p, _, _ in some) > 1 for name, some in kept.items()),
        "candidates": [
            {"file": str(c.path), "sha256": c.sha256, **tally, "provenance": c.provenance}
            for c, tally in zip(candidates, tallies, strict=True)
        ],
    }
    return ChosenAnswers(tuple(best[r.id][2] for r in asked if r.id in best), counts)


def _own_answers(path: Path, lines: Sequence[Answer], questions: dict[str, str]) -> dict[str, Answer]:
    """The first answer to each record as it stands. A record's id with another question means other data."""
    own: dict[str, Answer] = {}
    for line in lines:
        if line.id not in questions or line.condition.attack != "none" or line.condition.image not in ("own", "none"):
            continue
        if line.question != questions[line.id]:
            raise InputError(
                f"--candidates: {path} answers another question under the id {line.id!r}; was it made "
                "from this --safety file?"
            )
        own.setdefault(line.id, line)
    if not own:
        raise InputError(f"--candidates: {path} answers none of the {len(questions)} unsafe records of --safety")
    return own


def _case(requests: Records, record: Record, answer: Answer) -> Case:
    return Case(record.question, answer.answer, record, requests.image_path(record), answer.image_id)


def _ineligible(label: Label, words: Label) -> str | None:
    """Why an answer cannot be chosen; None when it can."""
    if label.label is None:
        return "unjudged"
    return next((one.label for one in (label, words) if one.label != "answered"), None)


def _marked(source: Candidates, record: Record, judge: str, label: Label, words: Label) -> Answer:
    """The answers line with its labels, and with the mark that it was chosen and from which file."""
    line = source.answers[record.id]
    mark = {"label": "answered", "file": str(source.path)}
    return dataclasses.replace(line, labels={judge: label.to_dict(), "refusal": words.to_dict(), CHOSEN: mark})


def questions_only(requests: Records) -> tuple[tuple[Record, ...], tuple[Answer, ...], dict[str, Any]]:
    """(forget records, no answers, counts) when the requests alone are to be forgotten, as the paper says of NPO."""
    asked = tuple(r for r in requests if not _PLACEHOLDER.fullmatch(r.question))
    counts = {"requests": len(requests), "dropped_placeholder_question": len(requests) - len(asked)}
    return asked, (), counts
