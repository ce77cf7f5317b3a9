"""Audit of safety data: which words predict refusal.

For every word at the start, at the end and anywhere in the questions: counts by label and by outcome, PMI and log odds
with 95 % intervals; how well the first word alone predicts the outcome (cross-validated, against the majority); and the
words that could break a model trained on these data. The reference answers are judged by refusal phrases.

--rebalance writes the data without the shortcut: the same opening words for all labels and outcomes. --attack compares
the audit, word by word, with what the words do to a model. --saliency asks a model which words of a question decide.

Example:
  bin/audit --data=runs/mini/data --out=audit.json --chart=audit.svg
"""

from absl import flags

from vlm_mu_jax.cli import command
from vlm_mu_jax.files import outputs
from vlm_mu_jax.files.json_file import write_json
from vlm_mu_jax.files.paths import resolved

_DATA = flags.DEFINE_string(
    "data",
    None,
    "data file (JSON of VLGuard, LLaVA or requests, Parquet of SPA-VL), a folder with train.json, or with --data_root"
    " the name of a public set (bin/eval --list)",
    required=True,
)
_KIND = flags.DEFINE_string("kind", None, "kind of the rows that name none: unsafe, safe or general")
_COLUMNS = flags.DEFINE_string("columns", "", "the file's names of columns, such as question=Goal,answer=reply")
_ROOT = flags.DEFINE_string("data_root", None, "folder with the public sets, one folder each")
_OUT = flags.DEFINE_string("out", None, "JSON file to write", required=True)
_CHART = flags.DEFINE_string("chart", None, "also draw the first words into this file (svg, png or pdf)")
_OUTCOME = flags.DEFINE_enum(
    "outcome",
    "auto",
    ["auto", "refusal", "unsafe"],
    "what words are tested against: refusal of the reference answer, the unsafe label, auto: refusal if possible",
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "of the cross-validation's folds, the rebalancing, the bootstrap and the questions of --saliency"
)
_TOP = flags.DEFINE_integer("top", 10, "how many words the printed tables show", lower_bound=1)
_REBALANCE = flags.DEFINE_string(
    "rebalance",
    None,
    "also write the data here with their opening words spread alike over labels and outcomes, in the same format;"
    " counts and hashes go beside it, into NAME.manifest.json",
)
_OPENINGS = flags.DEFINE_enum(
    "rebalance_openings",
    "observed",
    ["observed", "uniform"],
    "of --rebalance: every word as often as in the data, or (diversified) all usual opening words equally often",
)
_MODE = flags.DEFINE_enum(
    "rebalance_mode", "swap", ["swap", "insert"], "of --rebalance: replace the first word, or put one before it"
)
_ATTACK = flags.DEFINE_string(
    "attack", None, "attack.json of bin/attack on a model tuned on these data: is the shortcut in the model too?"
)
_AFTER = flags.DEFINE_string(
    "attack_rebalanced", None, "attack.json of the model tuned on rebalanced data: what of it does rebalancing remove?"
)
_ATTRIBUTION = flags.DEFINE_string("attribution_chart", None, "draw the comparison with --attack into this file")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "model folder, for --saliency")
_SALIENCY = flags.DEFINE_integer(
    "saliency",
    None,
    "for so many questions, drawn by seed: what each of their words does to the refusal margin",
    lower_bound=1,
)
_SALIENCY_CHART = flags.DEFINE_string("saliency_chart", None, "draw the first questions of --saliency into this file")


def main(argv: list[str]) -> None:
    from pathlib import Path

    from vlm_mu_jax.attacks.audit import counts
    from vlm_mu_jax.reporting.figures import audit_chart

    path = Path(_DATA.value)
    path = path / "train.json" if path.is_dir() else path
    _check_flags(path)
    records = _read(path)
    result = counts.audit(records, outcome=_OUTCOME.value, seed=_SEED.value)
    miniature = (path.parent / "oracle.json").is_file()  # only it has one: its text is nonsense words, safe to show
    result["data"] = {"file": path.name, "sha256": records.sha256, "miniature": miniature}
    text = _table(result, _TOP.value)
    if _ATTACK.value:
        result["attribution"] = found = _attribution(result)
        text += "\n\n" + _attribution_text(found)
    if _SALIENCY.value:
        result["saliency"] = found = _saliency(records)
        text += "\n\n" + _saliency_text(found)
    write_json(_OUT.value, result)
    if _CHART.value:
        with outputs.complete_file(_CHART.value) as partial:
            audit_chart.draw(result, partial)
    _draw("attribution", [result], _ATTRIBUTION.value)
    _draw("saliency", result.get("saliency"), _SALIENCY_CHART.value)
    if _REBALANCE.value:
        text += "\n\n" + _rebalance(records)
    print(text)


def _read(path):
    """The records, with images only where something needs them."""
    from vlm_mu_jax.data import questions
    from vlm_mu_jax.data.readers import catalogue

    with_images = bool(_SALIENCY.value or _REBALANCE.value and path.suffix.lower() != ".parquet")
    if _ROOT.value:
        return catalogue.read(catalogue.get(_DATA.value), _ROOT.value, check_images=with_images)
    return questions.read(
        path, _KIND.value, questions.parse_columns(_COLUMNS.value), check_images=with_images, several_turns=True
    )


def _check_flags(path) -> None:
    from pathlib import Path

    from vlm_mu_jax.errors import InputError

    needs = (
        ("--attack_rebalanced", _AFTER.value, "--attack", _ATTACK.value),
        ("--attribution_chart", _ATTRIBUTION.value, "--attack", _ATTACK.value),
        ("--saliency_chart", _SALIENCY_CHART.value, "--saliency", _SALIENCY.value),
        ("--saliency", _SALIENCY.value, "--checkpoint", _CHECKPOINT.value),
        ("--checkpoint", _CHECKPOINT.value, "--saliency", _SALIENCY.value),
    )
    for name, given, other, there in needs:
        if given and not there:
            raise InputError(f"{name} needs {other}; see bin/audit --help")
    written = (_OUT.value, _CHART.value, _ATTRIBUTION.value, _SALIENCY_CHART.value, _REBALANCE.value)
    for wanted in filter(None, written):
        outputs.check_writable(wanted)
    if _REBALANCE.value and Path(_REBALANCE.value).resolve() == path.resolve():
        raise InputError("--rebalance: is the file that is read; give it another name")


def _draw(name: str, what, path: str | None) -> None:
    """One figure of the report into a file."""
    if not path:
        return
    from vlm_mu_jax.errors import InputError
    from vlm_mu_jax.reporting.figures import audit_chart, word_effects

    drawing = getattr(word_effects, name)(what)
    if drawing is None:
        raise InputError(f"--{name}_chart: there is nothing to draw; every question is without words")
    with outputs.complete_file(path) as partial:
        audit_chart.save(drawing, partial)


def _rebalance(records) -> str:
    from pathlib import Path

    from vlm_mu_jax.attacks.audit import rebalance

    out = Path(_REBALANCE.value)
    with outputs.complete_file(out) as partial:
        manifest = rebalance.rebalance(records, partial, openings=_OPENINGS.value, mode=_MODE.value, seed=_SEED.value)
    manifest["rebalanced"]["file"] = out.name
    write_json(out.with_name(f"{out.stem}.manifest.json"), manifest)
    total = sum(manifest["rebalanced"]["records"].values())
    probes = [manifest[name]["probe"] for name in ("source", "rebalanced")]
    return (
        f"rebalanced: {manifest['changed']} of {total} questions have another opening word in {out}; the first word"
        f" alone now predicts with accuracy {probes[1]['accuracy']:.3f} [{probes[1]['low']:.3f},"
        f" {probes[1]['high']:.3f}] instead of {probes[0]['accuracy']:.3f}, the majority {probes[1]['majority']:.3f}"
    )


def _attribution(result: dict) -> dict:
    from vlm_mu_jax.attacks.audit import attribution
    from vlm_mu_jax.reporting.inputs.json_files import read_object

    attacks = [read_object(path) for path in (_ATTACK.value, _AFTER.value) if path]
    return attribution.attribute(result, *attacks, seed=_SEED.value)


def _attribution_text(found: dict) -> str:
    names = {
        "change": "log odds in the data against the change of the refusal margin",
        "removed": "against what of that change is gone after rebalancing",
    }
    lines = []
    for name, parts in found["correlations"].items():
        lines.append(f"{names[name]}:")
        for seen, one in parts.items():
            where = f"words seen {'at this place' if seen == 'here' else 'elsewhere'}"
            if one is None:
                lines.append(f"  {where}: too few for a correlation")
            else:
                shown = [
                    f"{kind.title()} {one[kind]['value']:.2f} [{one[kind]['low']:.2f}, {one[kind]['high']:.2f}]"
                    for kind in ("pearson", "spearman")
                ]
                lines.append(f"  {one['n']} {where}: {', '.join(shown)}")
    return "\n".join(lines)


def _saliency(records) -> dict:

    from vlm_mu_jax import progress
    from vlm_mu_jax.attacks import openings
    from vlm_mu_jax.attacks.audit import counts, saliency
    from vlm_mu_jax.attacks.questions import SearchQuestion
    from vlm_mu_jax.storage import model_folder

    command.enable_compilation_cache()
    model = model_folder.load(_CHECKPOINT.value)
    known = [r for r in records if r.answer]
    refusals = openings.discover(
        [(r.question, r.answer) for r in known], [counts.refuses(r) for r in known], model.processor
    )
    chosen = saliency.drawn(records, _SALIENCY.value, _SEED.value)
    asks = [SearchQuestion(r.question, records.image_path(r)) for r in chosen]
    found = saliency.saliency(model, asks, refusals, progress=progress.bar)
    questions = [{"id": r.id, "kind": r.kind} | one.to_dict() for r, one in zip(chosen, found, strict=True)]
    texts = [model.processor.decode(ids) for ids in refusals.refusal]
    about = {"model": resolved(_CHECKPOINT.value).name, "openings": texts}
    return saliency.summary(found) | about | {"questions": questions}


def _saliency_text(found: dict) -> str:
    lines = [f"which words decide the refusal, in {found['n']} questions (chance: {_percent(found['chance'])}):"]
    for method, name in (("removal", "taking a word out"), ("gradient_x_input", "gradient x input")):
        one = found[method]
        top = one["opening_first"]
        lines.append(
            f"  {name}: the first word has the largest effect in {top['k']} of {top['n']},"
            f" {_percent(one['opening_share'])} of all effects"
        )
    for word, one in list(found["removal"]["by_opening"].items())[: _TOP.value]:
        lines.append(f"  {word!r} as the first word: margin {one['effect']:+.2f} nats, mean of {one['n']}")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


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
