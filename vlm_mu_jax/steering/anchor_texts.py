"""Anchor texts: the harmful and harmless texts that safety directions are taken from, in a file of one of three forms.

Pairs, `[{"harmful": text, "harmless": text}, ...]`. The two texts of a pair should be alike in everything but harm: the
same opening, the same verb. Then their difference is harm and nothing else.

Single texts, `[{"text": text, "harmful": true or false}, ...]`, in any numbers. Estimators that need differences of
pairs cannot use these.

Requests, as `data.questions.read` takes them, in any numbers: the unsafe ones are the harmful texts, all others the
harmless ones. Of a conversation the text is the last question, and the earlier turns stand before it in words.
"""

import dataclasses
from pathlib import Path

from vlm_mu_jax.data import questions
from vlm_mu_jax.data.readers import rows
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.data.rendering import Context, contexts_of
from vlm_mu_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Anchors:
    """Texts of both classes.

    Attributes:
      harmful, harmless: the texts. With `paired`, row k of one belongs to row k of the other.
      sha256: hash of the file's bytes, which every guard folder holds.
      contexts: the conversation around every text, the harmful ones first, None where it stands alone; () = everywhere.
    """

    harmful: tuple[str, ...]
    harmless: tuple[str, ...]
    sha256: str
    paired: bool = True
    contexts: tuple[Context | None, ...] = ()


def load_anchors(path: str | Path) -> Anchors:
    """Reads a file of anchors. Raises InputError that names every bad row, or for fewer than two texts of a class."""
    content, sha256 = rows.load(path)
    if all(isinstance(row, dict) and not {"harmful", "harmless", "text"} & row.keys() for row in content):
        return _of_requests(questions.read(path, check_images=False))
    paired = not any(isinstance(row, dict) and "text" in row for row in content)
    check = _pair_problem if paired else _single_problem
    problems = [(number, what) for number, row in enumerate(content, start=1) if (what := check(row))]
    if problems:
        raise rows.BadRows(Path(path), len(content), problems)
    if paired:
        harmful, harmless = (tuple(row[name] for row in content) for name in ("harmful", "harmless"))
    else:
        harmful, harmless = (tuple(r["text"] for r in content if r["harmful"] is wanted) for wanted in (True, False))
    return _enough(path, Anchors(harmful, harmless, sha256, paired))


def _of_requests(requests: Records) -> Anchors:
    last = [record.at_question(-1) for record in requests]
    harmful, harmless = ([r for r in last if (r.kind == "unsafe") is wanted] for wanted in (True, False))
    texts = [tuple(record.question for record in some) for some in (harmful, harmless)]
    found = Anchors(*texts, requests.sha256, paired=False, contexts=tuple(contexts_of([*harmful, *harmless], 0)))
    return _enough(requests.source, found)


def _enough(path: str | Path, anchors: Anchors) -> Anchors:
    if min(len(anchors.harmful), len(anchors.harmless)) < 2:
        several = f"{len(anchors.harmful)} harmful and {len(anchors.harmless)} harmless anchors"
        found = "one anchor pair" if anchors.paired else several
        raise InputError(f"{path}: holds {found}; at least 2 of each are needed, about 100 are usual")
    return anchors


def _pair_problem(row) -> str | None:
    if not isinstance(row, dict):
        return f"expected an object with harmful and harmless, found {type(row).__name__}"
    for name in ("harmful", "harmless"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            return f"field {name!r} must be a non-empty text"
    return None


def _single_problem(row) -> str | None:
    if not isinstance(row, dict):
        return f"expected an object with text and harmful, found {type(row).__name__}"
    if not isinstance(row.get("text"), str) or not row["text"].strip():
        return "field 'text' must be a non-empty text (a file holds pairs or single texts, not both)"
    return None if isinstance(row.get("harmful"), bool) else "field 'harmful' must be true or false"
