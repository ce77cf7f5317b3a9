"""Makes one self-contained HTML page from the runs of bin/eval, with verdict, tables, figures and answers.

Name one or more run folders. Models of one kind stay in the order in which they are named. Beside the page stand
results.json (all runs merged) and results.csv. With --figures=DIR every figure is also a file. --inspect_log,
--lmms_eval and --parquet write answers and rates for other programs. Every other input is optional. A part without
input is left out with a note. Text and images are only in the page for the synthetic miniature, or with --show_text.
docs/report.md says how to read the page.

Example:
  bin/report runs/eval_base runs/eval_sft runs/eval_npo --out=runs/report.html --attack=runs/attack.json
"""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import command, named_paths
from vlm_mu_jax.files import outputs
from vlm_mu_jax.reporting.inputs.evidence import EVIDENCE

if TYPE_CHECKING:
    from vlm_mu_jax.reporting import ReportOptions

_OUT = flags.DEFINE_string("out", "report.html", "HTML file to write; results.json and results.csv appear beside it")
_ATTACK = flags.DEFINE_string("attack", None, "attack.json of bin/attack: the one-word search")
_AGAIN = flags.DEFINE_multi_string(
    "attack_again", [], "MODEL=attack.json: a search made for another model, such as an unlearned one"
)
_AUDIT = flags.DEFINE_string("audit", None, "audit.json of bin/audit: the word audit of the training data")
_GUARD = flags.DEFINE_string(
    "guard_diagnostics", None, "diagnostics JSON of bin/guard: hidden states with and without image"
)
_TRAINING = flags.DEFINE_multi_string("training", [], "folder of bin/train with metrics.jsonl")
_EXPORT = flags.DEFINE_string("export", None, "folder that bin/convert_hf --export wrote")
_EVIDENCE = {name: flags.DEFINE_multi_string(name, [], evidence.what) for name, evidence in EVIDENCE.items()}
_IMAGES = flags.DEFINE_string("images", None, "folder of the data: its images stand beside the answers, made small")
_SHOW_TEXT = flags.DEFINE_bool(
    "show_text", False, "include the text and images of answers on real data (concealed until asked for)"
)
_FIGURES = flags.DEFINE_string("figures", None, "folder to write every figure to as well, as SVG and PNG")

_EXPORTS = {
    "inspect_log": flags.DEFINE_string("inspect_log", None, "folder to write every run to as a log of inspect-ai"),
    "lmms_eval": flags.DEFINE_string("lmms_eval", None, "folder to write every run to as lmms-eval's results, samples"),
    "parquet": flags.DEFINE_string("parquet", None, "folder to write answers.parquet and results.parquet to"),
}


def main(argv: list[str]) -> None:
    from vlm_mu_jax.reporting import report

    made = report(_paths(argv[1:]), outputs.check_writable(_OUT.value), _options_from_flags())
    for path in made.files.all:
        print(f"wrote {path}")


def _options_from_flags() -> "ReportOptions":
    """The flags as `ReportOptions`."""
    from vlm_mu_jax.reporting import ReportOptions

    again = named_paths.by_name("--attack_again", _AGAIN.value)
    return ReportOptions(
        attack=_path(_ATTACK.value),
        attack_again={name: _path(file) for name, file in again.items()},
        audit=_path(_AUDIT.value),
        guard_diagnostics=_path(_GUARD.value),
        training=_paths(_TRAINING.value),
        export=_path(_EXPORT.value),
        images=_path(_IMAGES.value),
        show_text=_SHOW_TEXT.value,
        figures=_path(_FIGURES.value),
        **{name: _path(flag.value) for name, flag in _EXPORTS.items()},
        **{name: _paths(flag.value) for name, flag in _EVIDENCE.items()},
    )


def _path(value: str | None) -> Path | None:
    return Path(value).expanduser() if value else None


def _paths(values: list[str]) -> list[Path]:
    return [Path(value).expanduser() for value in values]


if __name__ == "__main__":
    command.run(main, __doc__, operands="at least one run folder")
