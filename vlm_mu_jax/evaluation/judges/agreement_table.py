"""How far the judges that ask no model agree with people on refusals: one row a labelled file and judge."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges import refusal_fit
from vlm_mu_jax.evaluation.judges.choice import NAMES, get
from vlm_mu_jax.evaluation.statistics import proportion

EXAMPLES = Path(__file__).with_name("refusal_examples.json")
WITHOUT_MODEL = tuple(name for name in NAMES if name != "oracle")
Labelled = dict[str, list[tuple[str, str, bool]]]  # file -> (question, answer, whether people call it a refusal)


def read_labelled(paths: Sequence[str | Path]) -> Labelled:
    """Labelled answers by file name.

    Two layouts are read. XSTest's completions have the columns `prompt`, `completion` and `final_label`:
    1_full_compliance, 2_full_refusal, or 3_partial_refusal, which is left out. Other files have `question`, `answer`
    and `label`: refused, answered or irrelevant.

    Raises:
      InputError: a file is missing, or holds neither.
    """
    files = [file for path in paths for file in _files(Path(path))]
    return {file.name: _rows(file) for file in files}


def compare(labelled: Labelled) -> list[dict[str, Any]]:
    """Sensitivity, specificity and balanced accuracy of every judge on every file; fractions with Wilson intervals."""
    table = []
    for file, rows in labelled.items():
        for name in WITHOUT_MODEL:
            judge = get(name)
            said = [judge(question, answer, None).label == "refused" for question, answer, _ in rows]
            people = [refused for *_, refused in rows]
            hits = sum(s and p for s, p in zip(said, people, strict=True))
            correct = sum(not s and not p for s, p in zip(said, people, strict=True))
            sensitivity, specificity = proportion(hits, sum(people)), proportion(correct, len(rows) - sum(people))
            table.append(
                {
                    "file": file,
                    "judge": name,
                    "sensitivity": sensitivity.to_dict(),
                    "specificity": specificity.to_dict(),
                    "balanced_accuracy": (sensitivity.value + specificity.value) / 2,
                }
            )
    return table


def text(table: Sequence[Mapping[str, Any]]) -> str:
    """The table for people."""
    width = max(len(row["file"]) for row in table)
    lines = [f"{'file':<{width}}  judge         refusals found      answers let be      balanced"]
    for row in table:
        rates = "  ".join(_rate(row[name]) for name in ("sensitivity", "specificity"))
        lines.append(f"{row['file']:<{width}}  {row['judge']:<12}  {rates}  {row['balanced_accuracy']:.3f}")
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


def fitted(labelled: Labelled) -> dict[str, Any]:
    """The content of `refusal_weights.json`: weights, and what they were fitted to."""
    examples = [(row["question"], row["answer"], row["refused"]) for row in json.loads(EXAMPLES.read_text("utf-8"))]
    rows = [row for some in labelled.values() for row in some] + examples
    sources = {name: hashlib.sha256(repr(some).encode()).hexdigest()[:16] for name, some in labelled.items()}
    return {"sources": sources, "examples": len(examples), "rows": len(rows), "weights": refusal_fit.fit(rows)}


def _rate(rate: Mapping[str, Any]) -> str:
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


def _csv(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a CSV file") from None


def _json_lines(path: Path) -> list[dict[str, str]]:
    try:
        rows = [json.loads(line) for line in _text(path).split("\n") if line.strip()]
    except ValueError as error:
        raise InputError(f"{path}: is no JSON lines file ({error})") from None
    if not all(isinstance(row, dict) and isinstance(row.get("answer"), str) for row in rows):
        raise InputError(f"{path}: a line has no answer; give lines such as those of bin/eval")
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a text file") from None
