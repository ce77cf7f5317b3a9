"""Everything a page is made of, read from the folders and files that the other commands write.

Only one run is needed. Every other input is optional, and a part without input is left out of the page with a note.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.formats.attack import AttackFile
from vlm_mu_jax.formats.audit import AuditFile
from vlm_mu_jax.formats.guards import DiagnosticsFile
from vlm_mu_jax.formats.reading import read_file, read_lines
from vlm_mu_jax.formats.training import StepLine
from vlm_mu_jax.reporting.inputs import pictures
from vlm_mu_jax.reporting.inputs.evidence import EVIDENCE
from vlm_mu_jax.reporting.inputs.options import ReportOptions
from vlm_mu_jax.reporting.inputs.runs import ModelRun, read_runs


@dataclass
class Content:
    """What the page is made of. None or empty means that it was not given."""

    runs: list[ModelRun]
    comparisons: list[dict[str, Any]]
    provenance: list[tuple[str, dict[str, Any]]]  # per run: label, what results.json and provenance.json say
    attack: dict[str, Any] | None = None
    attack_again: dict[str, dict[str, Any]] = field(default_factory=dict)  # model -> attack.json searched for it
    audit: dict[str, Any] | None = None
    guard: dict[str, Any] | None = None
    training: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # name -> rows of metrics.jsonl
    export: dict[str, Any] | None = None
    evidence: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # flag of EVIDENCE -> its files
    images: dict[str, str] = field(default_factory=dict)  # image_id of an answer -> small picture as a data: address
    show_text: bool = False

    @property
    def seeds(self) -> list[int | None]:
        return list(dict.fromkeys(run.seed for run in self.runs))

    def of_seed(self, seed: int | None) -> list[ModelRun]:
        return [run for run in self.runs if run.seed == seed]

    def files(self, source: str) -> list[dict[str, Any]]:
        """The objects a line of FIGURES is drawn from; empty when the file was not given."""
        if source in EVIDENCE:
            return self.evidence.get(source, [])
        given = getattr(self, source)
        return [given] if given else []

    def readable(self, run: ModelRun) -> bool:
        """Whether text and images of a run may be in the page: nonsense words, or real data on request."""
        return run.miniature or self.show_text


def collect(workdirs: list[Path], options: ReportOptions | None = None) -> Content:
    """Reads all inputs of a page.

    Args:
      workdirs: run folders of `bin/eval`, at least one. The order of models within a kind is kept.
      options: the optional inputs.

    Raises:
      InputError: an input is missing or malformed (it names file and reason), or no run is given.
    """
    options = options or ReportOptions()
    if not workdirs:
        raise InputError("no run given; name at least one folder that bin/eval wrote")
    runs, comparisons, provenance = read_runs([Path(folder) for folder in workdirs])
    content = Content(
        runs=runs,
        comparisons=comparisons,
        provenance=provenance,
        attack=read_file(options.attack, AttackFile) if options.attack else None,
        attack_again={name: read_file(path, AttackFile) for name, path in options.attack_again.items()},
        audit=read_file(options.audit, AuditFile) if options.audit else None,
        guard=read_file(options.guard_diagnostics, DiagnosticsFile) if options.guard_diagnostics else None,
        training=dict(_training(Path(path)) for path in options.training),
        export=_export(Path(options.export)) if options.export else None,
        evidence={
            name: [read_file(path, evidence.kind) for path in getattr(options, name)]
            for name, evidence in EVIDENCE.items()
        },
        show_text=options.show_text,
    )
    if options.images:
        shown = [row for run in runs if content.readable(run) for row in run.answers]
        content.images = pictures.of_folder(Path(options.images), {str(row.get("image_id") or "") for row in shown})
    return content


def _training(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """The name and rows of a training run, given its folder or its metrics.jsonl."""
    file = path / "metrics.jsonl" if path.is_dir() else path
    if not file.exists():
        raise InputError(f"{file}: no such file; give a folder that bin/train wrote")
    return file.parent.name, read_lines(file, StepLine)


def _export(folder: Path) -> dict[str, Any]:
    """What lies in an export folder: names and sizes [bytes], and its checks when the export recorded any."""
    if not (folder / "config.json").exists():
        raise InputError(f"{folder}: no config.json there; give the folder that bin/convert_hf --export wrote")
    files = [{"name": path.name, "bytes": path.stat().st_size} for path in sorted(folder.iterdir()) if path.is_file()]
    config = read_json(folder / "config.json")
    return {
        "folder": folder.name,
        "files": files,
        "model_type": config.get("model_type"),
        "architectures": config.get("architectures"),
    }
