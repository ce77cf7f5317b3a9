"""Audit of safety data: which words predict refusal.

For every word at the start, at the end and anywhere in the questions: counts by label and by outcome, PMI and log odds
with 95 % intervals; how well the first word alone predicts the outcome (cross-validated, against the majority); and the
words that could break a model trained on these data. The reference answers are judged by refusal phrases.

Example:
  bin/audit --data=runs/mini/data --out=audit.json --chart=audit.svg
"""

from absl import flags

from vlm_mu_jax.cli import command, output

_DATA = flags.DEFINE_string(
    "data", None, "data file (VLGuard, LLaVA or request JSON), or a folder with train.json", required=True
)
_OUT = flags.DEFINE_string("out", None, "JSON file to write", required=True)
_CHART = flags.DEFINE_string("chart", None, "also draw the first words into this file (svg, png or pdf)")
_OUTCOME = flags.DEFINE_enum(
    "outcome", "auto", ["auto", "refusal", "unsafe"],
    "what words are tested against: refusal of the reference answer, the unsafe label, auto: refusal if possible",
)  # fmt: skip
_SEED = flags.DEFINE_integer("seed", 0, "seed of the cross-validation's folds")
_TOP = flags.DEFINE_integer("top", 10, "how many words the printed tables show", lower_bound=1)


def main(argv: list[str]) -> None:
    from pathlib import Path

    from vlm_mu_jax.attack import audit, audit_chart
    from vlm_mu_jax.data import readers

    for wanted in filter(None, (_OUT.value, _CHART.value)):
        output.check_writable(wanted)
    path = Path(_DATA.value)
    path = path / "train.json" if path.is_dir() else path
    records = readers.read(path, check_images=False)  # only the words are read
    result = audit.audit(records, outcome=_OUTCOME.value, seed=_SEED.value)
    result["data"] = {"file": path.name, "sha256": records.sha256}
    output.write_json(_OUT.value, result)
    if _CHART.value:
        with output.complete_file(_CHART.value) as partial:
            audit_chart.draw(result, partial)
    print(_table(result, _TOP.value))


def _table(result: dict, top: int) -> str:
    probe, labels = result["probe"], result["labels"]
    lines = [
        f"{result['n']} questions: {labels['unsafe']} unsafe, {labels['safe']} safe,"
        f" {labels['refused']} with a refusing answer",
        f"the first word alone predicts {result['outcome']} with accuracy {probe['accuracy']:.3f}"
        f" [{probe['low']:.3f}, {probe['high']:.3f}], the majority {probe['majority']:.3f} (p {probe['p']:.2g})",
        "",
        f"{'first word':<16}{'unsafe':>8}{'safe':>8}{'refused':>9}{'answered':>10}{'PMI':>8}{'log odds':>10}"
        "   95 % interval",
    ]
    for row in [r for r in result["rows"] if r["position"] == "first"][:top]:
        lines.append(
            f"{row['word'][:15]:<16}{row['unsafe']:>8}{row['safe']:>8}{row['refused']:>9}{row['answered']:>10}"
            f"{row['pmi']:>8.2f}{row['log_odds']:>10.2f}   [{row['low']:.2f}, {row['high']:.2f}]"
        )
    for name, key in (("jailbreak", "jailbreak_candidates"), ("over-refusal", "over_refuse_candidates")):
        words = [c["word"] + ("" if c["beyond_chance"] else " (?)") for c in result[key][:top]]
        lines.append(f"candidate {name} words: {', '.join(words) or 'none'}")
    return "\n".join(lines)


if __name__ == "__main__":
    command.run(main, __doc__)
