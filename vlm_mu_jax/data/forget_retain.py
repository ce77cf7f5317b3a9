"""Forget and retain sets for unlearning, from safety data, a file of model answers and general data.

The forget set holds the unsafe requests with harmful answers. The retain set holds the safe records, filled up with
general data to a wanted size.

Source: the pipeline of OPTML-Group/VLM-Safety-Unlearn (arXiv 2503.11832), without its weak points. A refusal never
enters the forget set, since unlearning it would teach the model to comply. An answer stands once in a record. Records
are keyed by id and not by image. Sampling is seeded, and everything dropped is counted.
"""

import dataclasses
import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.data.mixed import Mixed, is_long
from vlm_mu_jax.data.records import ImagePart, Record, Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.hashes import sha256
from vlm_mu_jax.files.json_file import parse_json

IDK = (
    "I do not know.",
    "I am not sure about that.",
    "I have no information on this.",
    "That is beyond what I know.",
    "I cannot tell.",
    "I have not learned about that.",
    "I am unable to say.",
    "This is something I know nothing about.",
)
KEPT = 20_000  # records of a long file that a retain set holds in memory; more are built when they are asked for
JUDGE = "refusal"  # the judge whose stored label says that an answer is a refusal


@dataclasses.dataclass(frozen=True)
class ForgetRetain:
    """The two sets. Both know the folder of their images where the records that they were made from do.

    Attributes:
      forget: unsafe records whose `answer` is the harmful one.
      retain: safe and general records.
      manifest: counts and hashes.
    """

    forget: Sequence[Record]
    retain: Sequence[Record]
    manifest: dict[str, Any]


def build(
    safety: Sequence[Record],
    answers: str | Path | None,
    general: Sequence[Record] = (),
    *,
    retain_size: int | None = None,
    seed: int = 0,
    judge: str = JUDGE,
    unsafe_on_safe_images: bool = False,
) -> ForgetRetain:
    """The forget and the retain set of these data.

    Args:
      safety: records of the safety data. The unsafe ones are to be forgotten.
      answers: the answers file (JSON lines) of the base model on those requests, judged. With None the requests alone
        are forgotten, all of them, without answers.
      general: records to fill the retain set with.
      retain_size: records in the retain set. None takes all safe and general ones.
      seed: decides which general (or safe) records are taken, and their order.
      judge: the judge whose stored labels say which answers are refusals.
      unsafe_on_safe_images: also forget VLGuard's unsafe requests about safe images. The public code has this as a
        commented-out option.

    Raises:
      InputError: nothing to forget or to retain, fewer records than `retain_size`, or a bad answers file.
    """
    wanted = requests_to_forget(safety, unsafe_on_safe_images)
    if answers is None:
        forget, counts = [record.answered("") for record in wanted], {}
    else:
        forget, counts = _forget(wanted, _read_answers(Path(answers)), judge)
    if not forget and answers is None:
        raise InputError("the safety data have no unsafe record to forget; name a file that does")
    if not forget:
        raise InputError(
            f"{answers}: no usable harmful answer for {len(wanted)} unsafe records ({dict(counts)}); "
            "answer them with the base model first"
        )
    safe = [r for r in safety if r.kind == "safe"]
    if is_long(general) and isinstance(safety, Records) and isinstance(general, Records):
        general = general.rebased(safety.root)
    retain = mix_retain(safe, general, retain_size, seed)
    manifest = {
        "format": 1,
        "seed": seed,
        "judge": judge,
        "answers_sha256": answers and sha256(Path(answers)),
        "forget": {"records": len(forget), "unsafe_records": len(wanted), **counts, "sha256": digest(forget)},
        "retain": {"records": len(retain), **_kinds(retain), "sha256": digest(retain)},
    }
    return ForgetRetain(_rooted(forget, safety, general), _rooted(retain, safety, general), manifest)


def _rooted(records: Sequence[Record], safety: Sequence[Record], general: Sequence[Record]) -> Sequence[Record]:
    """The records with the folder of their images; image paths of general data in another folder become absolute."""
    if isinstance(records, Mixed):  # of a long file, whose images lie where those of the safety data do
        return records
    if not isinstance(safety, Records):
        return tuple(records)
    elsewhere = isinstance(general, Records) and general.root.resolve() != safety.root.resolve()
    theirs = {id(record) for record in general} if elsewhere else ()
    moved = (_moved(record, general.root) if id(record) in theirs else record for record in records)
    return dataclasses.replace(safety, items=tuple(moved), sha256=digest(records), notes={}, skipped=())


def _moved(record: Record, root: Path) -> Record:
    turns = tuple(
        dataclasses.replace(turn, parts=tuple(_at(part, root) for part in turn.parts)) for turn in record.turns
    )
    return dataclasses.replace(record, turns=turns)


def _at(part: str | ImagePart, root: Path) -> str | ImagePart:
    return ImagePart(str(root.resolve() / part.path)) if isinstance(part, ImagePart) else part


def requests_to_forget(safety: Sequence[Record], unsafe_on_safe_images: bool = False) -> list[Record]:
    """The unsafe records. Those about VLGuard's safe images are among them only on request, as in the public code."""
    left_out = () if unsafe_on_safe_images else ("vlguard/safe_unsafes",)
    return [r for r in safety if r.kind == "unsafe" and r.source not in left_out]


def mix_retain(safe: Sequence[Record], general: Sequence[Record], size: int | None, seed: int) -> Sequence[Record]:
    """The retain set: all safe records (at most `size`) and a seeded sample of general ones up to `size`, shuffled.

    Args:
      size: records in all; None takes every record of both.

    Raises:
      InputError: no records, or fewer than `size`.
    """
    if not safe and not general:
        raise InputError("no safe or general records to retain; an unlearning run needs data the model must keep")
    generator = random.Random(seed)
    if size is not None:
        if size > len(safe) + len(general):
            raise InputError(
                f"data.retain_size is {size}, but there are only {len(safe)} safe and {len(general)} general records"
            )
        safe = generator.sample(safe, min(size, len(safe)))
        general = Mixed.of(general).drawn(generator, size - len(safe))
    mixed = Mixed.of(safe, general).shuffled(generator)
    return mixed if is_long(general) and len(mixed) > KEPT else list(mixed)


def _kinds(records: Sequence[Record]) -> Counter[str]:
    return records.kinds() if isinstance(records, Mixed) else Counter(record.kind for record in records)


def preferred(forget: Sequence[Record], safety: Sequence[Record], kind: str, seed: int = 0) -> tuple[Record, ...]:
    """The other half of DPO's pairs: the forget records, in their order, with the answer that a model should prefer.

    Args:
      kind: "refusal" takes the reference answer of the same request in the safety data. "idk" takes a seeded choice of
        `IDK`.

    Raises:
      InputError: a request without a reference answer.
    """
    if kind == "idk":
        generator = random.Random(seed)
        return tuple(record.answered(generator.choice(IDK)) for record in forget)
    reference = {record.id: record.last_answer for record in safety}
    missing = [record.id for record in forget if not reference.get(record.id, "").strip()]
    if missing:
        raise InputError(
            f"{len(missing)} unsafe records have no reference answer to prefer, such as {missing[0]!r}; "
            "give them one, or set objective.preferred to idk"
        )
    return tuple(record.answered(reference[record.id]) for record in forget)


def digest(records: Sequence[Record]) -> str:
    """The sha256 over the records in their order; of many from long files, over where they stand."""
    if isinstance(records, Mixed):
        return records.digest
    text = "\n".join(json.dumps(dataclasses.asdict(r), sort_keys=True) for r in records)
    return hashlib.sha256(text.encode()).hexdigest()


def _forget(wanted: list[Record], answers: dict[str, dict], judge: str) -> tuple[list[Record], dict[str, int]]:
    """Records with their harmful answers; drops are counted by reason."""
    kept: list[Record] = []
    counts = {"dropped_refused": 0, "dropped_irrelevant": 0, "dropped_unanswered": 0, "dropped_unjudged": 0}
    for record in wanted:
        line = answers.get(record.id)
        label = None if line is None else ((line.get("labels") or {}).get(judge) or {}).get("label")
        if line is None:
            counts["dropped_unanswered"] += 1
        elif label in ("refused", "irrelevant"):
            counts[f"dropped_{label}"] += 1
        elif label is None or not line["answer"].strip():
            counts["dropped_unjudged"] += 1
        else:
            kept.append(record.answered(line["answer"].strip()))
    return kept, counts


def _read_answers(path: Path) -> dict[str, dict]:
    """First line of every id that was asked as it stands (no attack)."""
    if not path.is_file():
        raise InputError(f"{path}: no such answers file; run bin/eval on the base model first")
    lines: dict[str, dict] = {}
    for number, text in enumerate(path.read_bytes().decode("utf-8", "replace").split("\n"), start=1):
        if not text.strip():
            continue
        try:
            line = parse_json(text)
            name, attack = line["id"], line["condition"]["attack"]
            line["answer"].strip()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}:{number}: not an answers line with id, condition.attack and answer; run bin/eval again"
            ) from error
        if attack in (None, "none", ""):
            lines.setdefault(name, line)
    return lines
