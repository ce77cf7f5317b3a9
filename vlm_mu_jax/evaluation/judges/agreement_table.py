"""How far the judges that ask no model agree with people, on refusals or on harm: one row a labelled file and judge."""

import csv
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges import refusal_fit
from vlm_mu_jax.evaluation.judges.choice import NAMES, get
from vlm_mu_jax.evaluation.statistics import proportion
from vlm_mu_jax.files.json_file import parse_json, read_value

EXAMPLES = Path(__file__).with_name("refusal_examples.json")
WITHOUT_MODEL = tuple(name for name in NAMES if name != "oracle")
_HEADS = {"refused": ("refusals found", "answers let be"), "answered": ("harmful found", "others let be")}


@dataclasses.dataclass(frozen=True)
class LabelledFile:
    """Answers that people labelled.

    Attributes:
      rows: (question, answer, what people say of it: yes or no).
      target: the label of a judge that stands for yes. "refused" of refusals; "answered" of harmful answers, where a
        judge that sees refusals alone takes all else for harmful.
      others: verdicts that the file itself has, by judge.
    """

    rows: Sequence[tuple[str, str, bool]]
    target: str = "refused"
    others: Mapping[str, Sequence[bool]] = dataclasses.field(default_factory=dict)


def read_labelled(paths: Sequence[str | Path]) -> dict[str, LabelledFile]:
    """Labelled answers by file name.

    Three layouts are read. XSTest's completions have the columns `prompt`, `completion` and `final_label`:
    1_full_compliance, 2_full_refusal, or 3_partial_refusal, which is left out. HarmBench's validation set of its
    classifier (centerforaisafety/HarmBench `data/classifier_val_sets/text_behaviors_val_set.json`) says whether an
    answer is harmful, by the majority of `human_0` to `human_2`. Other files have `question`, `answer` and `label`:
    refused, answered or irrelevant.

    Raises:
      InputError: a file is missing, or holds none of them.
    """
    files = [file for path in paths for file in _files(Path(path))]
    return {file.name: _harmbench(file) if file.suffix == ".json" else LabelledFile(_rows(file)) for file in files}


def compare(labelled: Mapping[str, LabelledFile]) -> list[dict[str, Any]]:
    """Sensitivity, specificity, accuracy and balanced accuracy of every judge on every file, with Wilson intervals."""
    table = []
    for file, one in labelled.items():
        people = [yes for *_, yes in one.rows]
        said = {}
        for name in WITHOUT_MODEL:
            judge = get(name)
            said[name] = [judge(question, answer, None).label == one.target for question, answer, _ in one.rows]
        said |= {f"{name} (in the file)": verdicts for name, verdicts in one.others.items()}
        table += [{"file": file, "judge": name, "target": one.target} | _agrees(said[name], people) for name in said]
    return table


def _agrees(said: Sequence[bool], people: Sequence[bool]) -> dict[str, Any]:
    hits = sum(s and p for s, p in zip(said, people, strict=True))
    correct = sum(not s and not p for s, p in zip(said, people, strict=True))
    sensitivity, specificity = proportion(hits, sum(people)), proportion(correct, len(people) - sum(people))
    known = None not in (sensitivity.value, specificity.value)
    return {
        "sensitivity": sensitivity.to_dict(),
        "specificity": specificity.to_dict(),
        "accuracy": proportion(hits + correct, len(people)).to_dict(),
        "balanced_accuracy": (sensitivity.value + specificity.value) / 2 if known else None,
    }


def text(table: Sequence[Mapping[str, Any]]) -> str:
    """The table for people: files about refusals, then files about harm."""
    width, lines = max(len(row["file"]) for row in table), []
    wide = max(len(row["judge"]) for row in table)
    for target, (found, kept) in _HEADS.items():
        rows = [row for row in table if row["target"] == target]
        if rows:
            lines.append(f"{'file':<{width}}  {'judge':<{wide}}  {found:<18}  {kept:<18}  accuracy            balanced")
        for row in rows:
            rates = "  ".join(_rate(row[name]) for name in ("sensitivity", "specificity", "accuracy"))
            balanced = "-" if row["balanced_accuracy"] is None else f"{row['balanced_accuracy']:.3f}"
            lines.append(f"{row['file']:<{width}}  {row['judge']:<{wide}}  {rates}  {balanced}")
    return "\n".join(lines)


def label_file(path: str | Path, name: str) -> list[dict[str, str]]:
    """The labels of answers: a text file's lines, or rows with an `answer` and, if there, a `question`.

    Args:
      path: a CSV or JSON lines file (as bin/eval and bin/generate write), or any other text file.

    Raises:
      InputError: the file cannot be read, or holds no answers.
    """
    path, judge = Path(path), get(name)
    readers = {".csv": _csv, ".jsonl": _json_lines}
    rows = (
        readers[path.suffix](path) if path.suffix in readers else [{"answer": a} for a in _text(path).split("\n") if a]
    )
    if not rows or "answer" not in rows[0]:
        raise InputError(f"{path}: holds no answers; give one a line, or rows with an answer")
    asked = [(row.get("question") or "", row["answer"] or "") for row in rows]
    return [{"answer": answer, "label": judge(question, answer, None).label} for question, answer in asked]


def fitted(labelled: Mapping[str, LabelledFile]) -> dict[str, Any]:
    """The content of `refusal_weights.json`: weights, and what they were fitted to. InputError for labels of harm."""
    harm = [name for name, some in labelled.items() if some.target != "refused"]
    if harm:
        raise InputError(f"{harm[0]}: its labels say what is harmful, not what refuses; leave it out of --fit")
    examples = [(row["question"], row["answer"], row["refused"]) for row in read_value(EXAMPLES)]
    rows = [row for some in labelled.values() for row in some.rows] + examples
    sources = {name: hashlib.sha256(repr(list(some.rows)).encode()).hexdigest()[:16] for name, some in labelled.items()}
    return {"sources": sources, "examples": len(examples), "rows": len(rows), "weights": refusal_fit.fit(rows)}


def _rate(rate: Mapping[str, Any]) -> str:
    if rate["value"] is None:
        return f"{'-':<18}"
    return f"{rate['value']:.3f} [{rate['low']:.2f}, {rate['high']:.2f}]"


def _files(path: Path) -> list[Path]:
    found = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not found:
        raise InputError(f"{path}: holds no CSV file")
    return found


def _rows(path: Path) -> list[tuple[str, str, bool]]:
    rows = _csv(path)
    columns = set(rows[0]) if rows else set()
    if {"prompt", "completion", "final_label"} <= columns:
        kept = [row for row in rows if row["final_label"][:1] in ("1", "2")]
        return [(row["prompt"], row["completion"], row["final_label"].startswith("2")) for row in kept]
    if {"question", "answer", "label"} <= columns:
        return [(row["question"], row["answer"], row["label"] == "refused") for row in rows]
    raise InputError(f"{path}: needs the columns question, answer, label, or those of XSTest's completions")


def _harmbench(path: Path) -> LabelledFile:
    try:
        rows = [row for some in parse_json(_text(path)).values() for row in some]
        said = [(row["test_case"], row["generation"], sum(row[f"human_{i}"] for i in range(3)) >= 2) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: is not HarmBench's text_behaviors_val_set.json; give it, or CSV files") from None
    names = [name for name in rows[0] if not name.startswith("human_")] if rows else []
    others = {name: [bool(row[name]) for row in rows] for name in names if all(row.get(name) in (0, 1) for row in rows)}
    return LabelledFile(said, "answered", others)


def _csv(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a CSV file") from None


def _json_lines(path: Path) -> list[dict[str, str]]:
    try:
        rows = [parse_json(line) for line in _text(path).split("\n") if line.strip()]
    except ValueError as error:
        raise InputError(f"{path}: is no JSON lines file ({error})") from None
    if not all(isinstance(row, dict) and isinstance(row.get("answer"), str) for row in rows):
        raise InputError(f"{path}: a line has no answer; give lines such as those of bin/eval")
    if not all(isinstance(row.get("question", ""), str | None) for row in rows):
        raise InputError(f"{path}: a line's question is no text; give lines such as those of bin/eval")
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a text file") from None
