"""Audits safety data: which words predict refusal?

For every word at the start, at the end and anywhere in the questions: counts by label and by outcome, PMI and log odds
with 95 % intervals; how well the first word alone predicts the outcome (cross-validated, against the majority); and the
words that could break a model trained on these data. The judge `refusal` reads the reference answers; how many
unsafe ones it took for answers is said.

--rebalance writes the data without the shortcut: the same opening words for all labels and outcomes. --attack compares
the audit, word by word, with what the words do to a model. --saliency asks a model which words of a question decide.

Example:
  bin/audit --data=runs/mini/data --out=audit.json --chart=audit.svg
"""

from collections.abc import Iterable
from pathlib import Path

from absl import flags

from vlm_mu_jax.cli import command, mesh_flag
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files import outputs
from vlm_mu_jax.files.json_file import write_json

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
    "what words are tested against: refusal of the reference answer, the unsafe label, auto: the label where the data"
    " have unsafe and safe questions, else refusal",
)
_TURN = flags.DEFINE_string(
    "turn", "first", "which question of a conversation is audited: first, last, or its number from 1"
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
flags.adopt_module_key_flags(mesh_flag)


def main(argv: list[str]) -> None:
    from vlm_mu_jax import progress
    from vlm_mu_jax.attacks import tables
    from vlm_mu_jax.attacks.audit import audit_file
    from vlm_mu_jax.attacks.audit.audit import AuditOptions
    from vlm_mu_jax.attacks.audit.rebalance import write_rebalanced
    from vlm_mu_jax.data import questions
    from vlm_mu_jax.data.readers import catalogue, hub
    from vlm_mu_jax.reporting.figures import audit_chart

    path = hub.local(_DATA.value)
    path = path / "train.json" if path.is_dir() else path
    _check_beside(
        ("--attack_rebalanced", _AFTER.value, "--attack", _ATTACK.value),
        ("--attribution_chart", _ATTRIBUTION.value, "--attack", _ATTACK.value),
        ("--saliency_chart", _SALIENCY_CHART.value, "--saliency", _SALIENCY.value),
        ("--saliency", _SALIENCY.value, "--checkpoint", _CHECKPOINT.value),
        ("--checkpoint", _CHECKPOINT.value, "--saliency", _SALIENCY.value),
    )
    written = (_OUT.value, _CHART.value, _ATTRIBUTION.value, _SALIENCY_CHART.value)
    _check_written(path, written, _REBALANCE.value, _TURN.value)
    with_images = bool(_SALIENCY.value or _REBALANCE.value and path.suffix.lower() != ".parquet")
    if _ROOT.value:
        records = catalogue.read(catalogue.get(_DATA.value), _ROOT.value, check_images=with_images)
    else:
        columns = questions.parse_columns(_COLUMNS.value)
        records = questions.read(path, _KIND.value, columns, check_images=with_images)
    options = AuditOptions(_OUTCOME.value, _SEED.value, turn=_TURN.value)
    model = {"checkpoint": _CHECKPOINT.value, "saliency": _SALIENCY.value or 0, "progress": progress.bar}
    if _SALIENCY.value:
        command.prepare_jax()
    with mesh_flag.placed(mesh_flag.sizes_from_flags(), rows=1, new_tokens=0):
        attacks = [file for file in (_ATTACK.value, _AFTER.value) if file]
        result = audit_file.content(records, path, options, attacks=attacks, **model)
    write_json(_OUT.value, result)
    if _CHART.value:
        with outputs.complete_file(_CHART.value) as partial:
            audit_chart.draw(result, partial)
    _draw("attribution", [result], _ATTRIBUTION.value)
    _draw("saliency", result.get("saliency"), _SALIENCY_CHART.value)
    rebalanced = ""
    if _REBALANCE.value:
        out = Path(_REBALANCE.value)
        manifest = write_rebalanced(records, out, openings=_OPENINGS.value, mode=_MODE.value, seed=_SEED.value)
        rebalanced = f"\n\n{tables.rebalanced_text(manifest, out)}"
    print(f"{tables.audit_text(result, _TOP.value)}{rebalanced}")


def _check_beside(*needs: tuple[str, object, str, object]) -> None:
    """Raises InputError for a flag that was given without the one it needs: its name, value, and those of the other."""
    for name, given, other, there in needs:
        if given and not there:
            raise InputError(f"{name} needs {other}; see bin/audit --help")


def _check_written(read: Path, results: Iterable[str | None], rebalanced: str | None, turn: str) -> None:
    for path in filter(None, (*results, rebalanced)):
        outputs.check_writable(path)
    if rebalanced and turn != "first":
        raise InputError("--rebalance changes first questions; leave --turn out")
    if rebalanced and Path(rebalanced).resolve() == read.resolve():
        raise InputError("--rebalance: is the file that is read; give it another name")


def _draw(name: str, what, path: str | None) -> None:
    """One figure of the report into a file."""
    if not path:
        return
    from vlm_mu_jax.reporting.figures import audit_chart, word_effects

    drawing = getattr(word_effects, name)(what)
    if drawing is None:
        raise InputError(f"--{name}_chart: there is nothing to draw; every question is without words")
    with outputs.complete_file(path) as partial:
        audit_chart.save(drawing, partial)


if __name__ == "__main__":
    command.run(main, __doc__)
