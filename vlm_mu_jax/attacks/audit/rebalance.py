"""Safety data without the shortcut: the same opening words in front of safe and unsafe, refused and answered questions.

Every group of questions with the same label and outcome gets opening words in the same proportions, so that knowing the
first word says nothing about either. Only the words move: rows, images and answers stay. It is the repair that Safety
Mirage (arXiv 2503.11832) discusses beside unlearning; what it cannot mend is a word later in the question ("Can you"),
which the audit of the new file still shows.
"""

import random
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.attacks.audit.audit import AuditOptions, audit, safety_records
from vlm_mu_jax.attacks.margin.openings import refuses
from vlm_mu_jax.data import readers, rewrite
from vlm_mu_jax.data.placing import open_with, split_words
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.files.json_file import write_json
from vlm_mu_jax.files.outputs import complete_file

OPENINGS = ("observed", "uniform")
_USUAL = 0.01  # a word that opens this share of the questions takes part in the uniform distribution


def rebalance(
    records: Records,
    out: str | Path,
    *,
    openings: str = "observed",
    mode: str = "swap",
    seed: int = 0,
    refused: Callable[[Record], bool] = refuses,
) -> dict[str, Any]:
    """Writes the rebalanced data to `out`, in the source's format, reads them back and audits them.

        manifest = vlm_mu_jax.rebalance(records, "data/rebalanced.json")

    Args:
      records: all records of one file, in file order, images included. General ones beside safety data stay.
      openings: "observed", every word as often as in the data; "uniform" (diversified), every word that opens at least
        1 % of the questions equally often.
      mode: "swap" replaces a question's first word, "insert" puts the new one before it.
      seed: decides which questions change and what they get.
      refused: says whether a record's reference answer is a refusal.

    Returns: the manifest: "source" and "rebalanced" (file, sha256, records, probe of the first word), "settings",
      "changed" (questions), "openings" (word -> counts before and after, in the form of the audit's rows).

    Raises:
      InputError: see `rewrite.rewrite` and `audit.audit`.
    """
    before = audit(records, AuditOptions(seed=seed, refused=refused)).to_dict()
    questions = rebalanced_questions(records, openings=openings, mode=mode, seed=seed, refused=refused)
    sha256 = rewrite.rewrite(records, questions, out)
    again = readers.read(out, check_images=False)
    after = audit(again, AuditOptions(before["outcome"], seed, refused=refused)).to_dict()
    return {
        "schema": 1,
        "source": {"file": records.source.name, "sha256": records.sha256} | _facts(records, before),
        "rebalanced": {"file": Path(out).name, "sha256": sha256} | _facts(again, after),
        "settings": {"openings": openings, "mode": mode, "seed": seed},
        "changed": sum(new != record.question for new, record in zip(questions, records, strict=True)),
        "openings": _openings_table(before, after),
    }


def write_rebalanced(records: Records, out: str | Path, **options: Any) -> dict[str, Any]:
    """`rebalance` whose file appears when it is complete, with the manifest beside it in NAME.manifest.json.

    Args:
      options: of `rebalance`.
    """
    out = Path(out)
    with complete_file(out) as partial:
        manifest = rebalance(records, partial, **options)
    manifest["rebalanced"]["file"] = out.name
    write_json(out.with_name(f"{out.stem}.manifest.json"), manifest)
    return manifest


def rebalanced_questions(
    records: Sequence[Record],
    *,
    openings: str = "observed",
    mode: str = "swap",
    seed: int = 0,
    refused: Callable[[Record], bool] = refuses,
) -> list[str]:
    """The questions of all records, in their order, opening words moved; see `rebalance`. Few change: a question keeps
    its word while its group may have it."""
    safety = {id(record) for record in safety_records(records)}
    moving = [i for i, record in enumerate(records) if id(record) in safety and split_words(record.question)]
    first = [split_words(records[i].question)[0] for i in moving]
    groups = [(records[i].kind, bool(refused(records[i]))) for i in moving]
    count = Counter(first)
    if openings == "uniform":
        usual = {word: 1 for word, seen in count.items() if seen >= max(2, _USUAL * len(first))}
        count = Counter(usual or count)
    questions = [record.question for record in records]
    for i, old, new in zip(moving, first, spread(first, groups, count, seed), strict=True):
        if new != old:
            questions[i] = open_with(questions[i], new, mode)
    return questions


def spread(first: Sequence[str], groups: Sequence[Hashable], weights: Mapping[str, float], seed: int) -> list[str]:
    """Words for all questions such that every group holds each word in proportion to `weights`, to the nearest whole
    question (largest remainders), and as many questions as possible keep the word they have (`first`)."""
    generator = random.Random(f"{seed}/openings")
    chosen = list(first)
    for group in sorted(set(groups), key=repr):
        members = [i for i, one in enumerate(groups) if one == group]
        left = _quotas(weights, len(members), generator)
        generator.shuffle(members)
        waiting = []
        for i in members:
            if left[first[i]] > 0:
                left[first[i]] -= 1
            else:
                waiting.append(i)
        words = [word for word, number in left.items() for _ in range(number)]
        generator.shuffle(words)
        for i, word in zip(waiting, words, strict=True):
            chosen[i] = word
    return chosen


def _quotas(weights: Mapping[str, float], n: int, generator: random.Random) -> Counter[str]:
    """n shared out in proportion to the weights; equal remainders are drawn."""
    total = sum(weights.values())
    exact = {word: n * weight / total for word, weight in weights.items()}
    whole = Counter({word: int(share) for word, share in exact.items()})
    order = sorted(exact, key=lambda word: (whole[word] - exact[word], generator.random()))
    whole.update(order[: n - sum(whole.values())])
    return whole


def _facts(records: Sequence[Record], result: Mapping[str, Any]) -> dict[str, Any]:
    kinds = Counter(record.kind for record in records)
    return {"records": dict(kinds), "labels": result["labels"], "probe": result["probe"]}


def _openings_table(*audits: Mapping[str, Any]) -> dict[str, dict[str, dict[str, int] | None]]:
    names = ("safe", "unsafe", "refused", "answered")
    tables = [
        {row["word"]: {name: row[name] for name in names} for row in one["rows"] if row["position"] == "first"}
        for one in audits
    ]
    words = list(dict.fromkeys(word for table in tables for word in table))
    return {word: {"before": tables[0].get(word), "after": tables[1].get(word)} for word in words}
