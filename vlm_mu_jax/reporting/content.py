"""Everything a report is made of, read from the folders and files that the other commands write.

Only one run is needed; every other input is optional, and a part without input is left out of the page with a note.
Inputs: run folders of `bin/eval` (results.json, answers/*.jsonl), attack.json of `bin/attack`, audit.json of
`bin/audit`, diagnostics of `bin/guard`, metrics.jsonl of `bin/train`, an export folder of `bin/convert_hf`, the images
of the data, and the files of `evidence.EVIDENCE`.
"""

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.reporting import pictures
from vlm_mu_jax.reporting.evidence import EVIDENCE

BASE, SFT, GUARD = "base", "sft", "guard"
_STORY = (BASE, SFT)  # first in every table; the guard comes last, whatever is unlearned stands between


@dataclass(frozen=True)
class Metric:
    """A measured rate: value in 0..1, k of n questions where counted, low and high the 95 % interval where known."""

    value: float
    n: int | None = None
    low: float | None = None
    high: float | None = None
    k: int | None = None


@dataclass
class Run:
    """One evaluated model. `metrics` is flat: "asr_after", "asr_by_opening/share", "gap/blank_image/asr"."""

    name: str
    kind: str
    seed: int | None
    metrics: dict[str, Metric]
    raw: dict[str, Any]  # the entry of results.json as read, for the merged file
    folder: Path
    label: str = ""
    answers: list[dict[str, Any]] = field(default_factory=list)
    miniature: bool = False  # whether the data are the synthetic world, whose text may be shown

    def metric(self, name: str) -> Metric | None:
        return self.metrics.get(name)

    def group(self, name: str) -> dict[str, Metric]:
        """The metrics one level under `name`: group("asr_by_opening") -> {"share": ...}."""
        start = name + "/"
        return {key[len(start) :]: metric for key, metric in self.metrics.items() if key.startswith(start)}

    @property
    def unlearned(self) -> bool:
        return self.kind not in (BASE, SFT, GUARD)


@dataclass
class Content:
    """What the page is made of; None or empty = not given."""

    runs: list[Run]
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

    def of_seed(self, seed: int | None) -> list[Run]:
        return [run for run in self.runs if run.seed == seed]

    def files(self, source: str) -> list[dict[str, Any]]:
        """The objects a line of FIGURES is drawn from; empty when the file was not given."""
        if source in EVIDENCE:
            return self.evidence.get(source, [])
        given = getattr(self, source)
        return [given] if given else []

    def readable(self, run: Run) -> bool:
        """Whether text and images of a run may be in the page: nonsense words, or real data on request."""
        return run.miniature or self.show_text


def collect(
    workdirs: list[Path],
    *,
    attack: Path | None = None,
    attack_again: dict[str, Path] | None = None,
    audit: Path | None = None,
    guard_diagnostics: Path | None = None,
    training: list[Path] = (),
    export: Path | None = None,
    images: Path | None = None,
    show_text: bool = False,
    **evidence: list[Path],
) -> Content:
    """Reads all inputs; `evidence` are lists of files by their name in EVIDENCE, `images` the folder of the data.

    Raises InputError (file and reason) for a missing or malformed input, or when no run is given.
    """
    if not workdirs:
        raise InputError("no run given; name at least one folder that bin/eval wrote")
    runs: list[Run] = []
    comparisons: list[dict[str, Any]] = []
    provenance = []
    for folder in map(Path, workdirs):
        results = read_results(folder / "results.json")
        found = [_run(entry, folder) for entry in results["runs"]]
        _attach_answers(found, folder, results)
        runs += found
        comparisons += _comparisons(results, found)
        provenance += [(run, _provenance(results, folder)) for run in found]
    _label(runs)
    runs.sort(key=lambda run: (_seed_order(run.seed), _story_order(run.kind)))  # stable: given order within a kind
    content = Content(
        runs=runs,
        comparisons=comparisons,
        provenance=[(run.label, facts) for run, facts in provenance],
        attack=read_object(attack) if attack else None,
        attack_again={name: read_object(path) for name, path in (attack_again or {}).items()},
        audit=read_object(audit) if audit else None,
        guard=read_object(guard_diagnostics) if guard_diagnostics else None,
        training=dict(_training(Path(path)) for path in training),
        export=_export(Path(export)) if export else None,
        evidence={name: [_of_rows(path, EVIDENCE[name].rows) for path in files] for name, files in evidence.items()},
        show_text=show_text,
    )
    if images:
        shown = [row for run in runs if content.readable(run) for row in run.answers]
        content.images = pictures.of_folder(Path(images), {str(row.get("image_id") or "") for row in shown})
    return content


def read_object(path: Path) -> dict[str, Any]:
    """One JSON object from a file; InputError when it is missing, not JSON or not an object."""
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path or run the command that writes it") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not readable as JSON ({_first_line(error)})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_results(path: Path) -> dict[str, Any]:
    """A results.json of schema 1; InputError says what is missing."""
    results = read_object(path)
    if results.get("schema") != 1:
        raise InputError(f"{path}: schema is {results.get('schema')!r}, this version reads schema 1")
    if not isinstance(results.get("runs"), list) or not all(isinstance(run, dict) for run in results["runs"]):
        raise InputError(f"{path}: field 'runs' must be a list of objects")
    for run in results["runs"]:
        if not isinstance(run.get("name"), str) or not isinstance(run.get("metrics"), dict):
            raise InputError(f"{path}: every run needs 'name' (text) and 'metrics' (object)")
    return results


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; InputError names the line that is not one."""
    rows = []
    with path.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                if not line.endswith("\n"):  # a torn last line is what a kill leaves behind
                    break
                raise InputError(f"{path}:{number}: not JSON ({_first_line(error)})") from None
            if not isinstance(row, dict):
                raise InputError(f"{path}:{number}: expected a JSON object")
            rows.append(row)
    return rows


def flatten_metrics(metrics: dict[str, Any], where: str, prefix: str = "") -> dict[str, Metric]:
    """Nested metrics as a flat dict of Metric; entries without a value (n = 0) are dropped."""
    flat: dict[str, Metric] = {}
    for name, entry in metrics.items():
        path = f"{prefix}{name}"
        if isinstance(entry, dict) and "value" not in entry:
            flat.update(flatten_metrics(entry, where, path + "/"))
        elif metric := as_metric(entry, f"{where}: metric {path}"):
            flat[path] = metric
    return flat


def as_metric(entry: Any, where: str) -> Metric | None:
    """A Metric from {"value", "n", "low", "high", "k"} or from a bare number; None when there is no value."""
    fields = entry if isinstance(entry, dict) else {"value": entry}
    numbers = {name: fields.get(name) for name in ("value", "n", "low", "high", "k")}
    for name, number in numbers.items():
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise InputError(f"{where}: field {name!r} is not a number")
        if number is not None and not math.isfinite(number):
            numbers[name] = None
    return None if numbers["value"] is None else Metric(**numbers)


def _run(entry: dict[str, Any], folder: Path) -> Run:
    metrics = flatten_metrics(entry["metrics"], f"{folder / 'results.json'}: run {entry['name']!r}")
    kind = str(entry.get("kind") or "other").lower()
    seed = entry.get("seed")
    return Run(entry["name"], kind, seed if isinstance(seed, int) else None, metrics, entry, folder)


def _attach_answers(runs: list[Run], folder: Path, results: dict[str, Any]) -> None:
    """Gives each run its answers: all of the folder's when it holds one run, else those of answers/NAME*.jsonl."""
    for run in runs:
        files = sorted((folder / "answers").glob("*.jsonl"))
        if len(runs) > 1:
            files = [path for path in files if path.stem.startswith(run.name)]
        run.answers = [{**row, "set": _set_of(path, run)} for path in files for row in read_lines(path)]
        declared = run.raw.get("miniature", (results.get("provenance") or {}).get("miniature"))
        # Only the miniature ships an exact oracle: its labels mark data whose text is nonsense words, safe to show.
        judged = any("oracle" in (row.get("labels") or {}) for row in run.answers)
        run.miniature = bool(declared) if declared is not None else judged


def _comparisons(results: dict[str, Any], runs: list[Run]) -> list[dict[str, Any]]:
    """The paired tests of a folder, with the seed of the run they are about: names repeat over seeds."""
    seeds = {run.name: run.seed for run in runs if run.seed is not None}
    rows = [row for row in results.get("comparisons") or [] if isinstance(row, dict)]
    return [{**({"seed": seeds[row["run"]]} if row.get("run") in seeds else {}), **row} for row in rows]


def _set_of(path: Path, run: Run) -> str:
    """The set of questions an answers file holds: its name, without the run's where several runs share a folder."""
    return path.stem.removeprefix(run.name).lstrip("_-.") or path.stem


def _provenance(results: dict[str, Any], folder: Path) -> dict[str, Any]:
    facts = dict(results.get("provenance") or {})
    path = folder / "provenance.json"
    return {**(read_object(path) if path.exists() else {}), **facts}


def _label(runs: list[Run]) -> None:
    """Names to show: the run's own when unique, else with its seed, else with its folder."""
    names = Counter(run.name for run in runs)
    for run in runs:
        run.label = run.name if names[run.name] == 1 else f"{run.name}, seed {run.seed}"
    labels = Counter(run.label for run in runs)
    for run in runs:
        run.label = run.label if labels[run.label] == 1 else f"{run.label} ({run.folder.name})"
    labels = Counter(run.label for run in runs)
    repeated = next((run for run in runs if labels[run.label] > 1), None)
    if repeated:
        raise InputError(f"{repeated.folder}: run {repeated.name!r} is given twice; name every run once")


def _story_order(kind: str) -> int:
    return _STORY.index(kind) if kind in _STORY else len(_STORY) + (kind == GUARD)


def _seed_order(seed: int | None) -> float:
    return math.inf if seed is None else seed


def _training(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """The name and rows of a training run, given its folder or its metrics.jsonl."""
    file = path / "metrics.jsonl" if path.is_dir() else path
    if not file.exists():
        raise InputError(f"{file}: no such file; give a folder that bin/train wrote")
    return file.parent.name, read_lines(file)


def _export(folder: Path) -> dict[str, Any]:
    """What lies in an export folder: names and sizes [bytes], and its checks when the export recorded any."""
    if not (folder / "config.json").exists():
        raise InputError(f"{folder}: no config.json there; give the folder that bin/convert_hf --export wrote")
    files = [{"name": path.name, "bytes": path.stat().st_size} for path in sorted(folder.iterdir()) if path.is_file()]
    config = read_object(folder / "config.json")
    return {
        "folder": folder.name,
        "files": files,
        "model_type": config.get("model_type"),
        "architectures": config.get("architectures"),
    }


def _of_rows(path: Path, name: str) -> dict[str, Any]:
    """A JSON object of EVIDENCE; InputError when its field `name` is no list of objects."""
    value = read_object(path)
    rows = value.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: field {name!r} must be a list of objects; is it the right file?")
    return value


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
