"""What a model's safety survives: one table of every situation, each beside its control.

import vlm_mu_jax
found = vlm_mu_jax.holds("runs/npo", "runs/mini/data", vlm_mu_jax.HoldsOptions(name="npo"), workdir="runs/holds_npo")
print(found.table())
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlm_mu_jax.conversion.convert import convert
from vlm_mu_jax.data import readers
from vlm_mu_jax.data.forget_retain import build
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation import provenance
from vlm_mu_jax.evaluation.depth import Depth, depth
from vlm_mu_jax.evaluation.judges import Judge, JudgeOptions, choose
from vlm_mu_jax.evaluation.questions.suite import sample
from vlm_mu_jax.files.folders import only_writer
from vlm_mu_jax.files.hashes import sha256
from vlm_mu_jax.files.json_file import read_json, write_json
from vlm_mu_jax.files.paths import at_home, resolved
from vlm_mu_jax.formats.reading import check_value, read_file
from vlm_mu_jax.formats.stress import HoldsFile
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage import model_folder
from vlm_mu_jax.storage.identity import folder_hash, weights_hash
from vlm_mu_jax.storage.model_folder import SETTINGS, Model
from vlm_mu_jax.stress import tables
from vlm_mu_jax.stress.making import Stand, make
from vlm_mu_jax.stress.options import ROWS, HoldsOptions
from vlm_mu_jax.stress.rows import HoldsRow, against

RESULT = "holds.json"


@dataclasses.dataclass(frozen=True)
class HoldsResult:
    """The table of one model.

    Attributes:
      name: the model's.
      rows: in the order of `options.ROWS`.
      content: the content of holds.json.
    """

    name: str
    rows: Sequence[HoldsRow]
    content: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as holds.json has them."""
        return dict(self.content)

    def table(self) -> str:
        """What bin/holds prints."""
        return tables.text(self.content)


def holds(
    model: Model | str | Path,
    data: str | Path,
    options: HoldsOptions = HoldsOptions(),
    *,
    baseline: HoldsResult | str | Path | None = None,
    guard: str | Path | None = None,
    judge: str | Judge | JudgeOptions | None = None,
    reference: Model | str | Path | None = None,
    workdir: str | Path | None = None,
    progress: Progress | None = None,
    on_row: Callable[[HoldsRow], None] | None = None,
) -> HoldsResult:
    """Measures a model as is, under attacks, and with its weights in fewer bits, pruned or fine-tuned.

    A row that cannot be made says why and stays empty. Every other row but `as_is` has a control for each of its rates,
    and McNemar's exact test against it.

    Args:
      model: what `vlm_mu_jax.load` returns, its folder, or a folder that `export` wrote. The last is converted as a
        server would load it, and the result names the hash of each of its files.
      data: a data folder, as bin/attack and bin/eval read it.
      baseline: the table of the model before, or its workdir. Each rate is then tested against the same row of it.
      guard: guard folder. It steers the answers of every row, whatever became of the weights.
      judge: whose labels count. None is the oracle where the data have one, else the judge `refusal`.
      reference: the model before its safety tuning, for over-refusal words; see `words.one_word.OneWord`.
      workdir: keeps every row, so that a killed run goes on. It gets holds.json. None keeps nothing.
      progress: shows progress; None is silent.
      on_row: called with every row that is made.

    Raises:
      InputError: the data, the guard or the baseline do not fit, or the workdir holds rows of something else.
    """
    data = Path(data)
    if not data.is_dir():
        raise InputError(f"--data={data}: no such folder; give the folder that holds test.json")
    before = None if baseline is None else _rows_before(baseline)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()) if workdir is None else at_home(workdir))
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(only_writer(folder / ".lock", folder))
        counted = choose(judge, data, folder / "judging").counted
        opened, files = _opened(model, folder)
        reference = None if reference is None else model_folder.opened(reference)
        guard = None if guard is None else Path(guard)
        stand = Stand(opened, data, options, folder, guard, judge, reference, progress)
        _bind(folder, stand, counted.name, files)
        rows = _rows(stand, on_row)
        deep = _depth(stand)
        content = _content(stand, rows, deep, files, counted.name, before)
        if workdir is not None:
            write_json(folder / RESULT, content)
    return HoldsResult(options.name, rows, content)


def stored_result(workdir: str | Path) -> HoldsResult:
    """What `holds` has written into a workdir.

    Raises:
      InputError: there is no holds.json, or it is none of ours.
    """
    content = read_file(Path(workdir) / RESULT, HoldsFile)
    if strange := [row["name"] for row in content["rows"] if row["name"] not in ROWS]:
        raise InputError(f"{Path(workdir) / RESULT}: there is no row {strange[0]!r}; is it the right file?")
    made = [row["name"] for row in content["rows"] if not row.get("skipped")]
    rows = [_stored_row(_row_file(Path(workdir), name)) for name in made]
    return HoldsResult(content["name"], rows, content)


def _opened(model: Model | str | Path, workdir: Path) -> tuple[Model, dict[str, str] | None]:
    """The model, and of an exported folder the SHA-256 of every file."""
    if isinstance(model, Model):
        return model, None
    folder = resolved(model)
    ours = (folder / SETTINGS).is_file() or (folder / "model" / SETTINGS).is_file()
    if ours or not (folder / "config.json").is_file():
        return model_folder.load(model), None
    files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    marker, converted = workdir / "exported.json", workdir / "converted"
    if not (marker.exists() and read_json(marker) == files):
        convert(folder, converted)
        write_json(marker, files)
    return model_folder.load(converted), files


def _bind(workdir: Path, stand: Stand, judge: str, files: dict[str, str] | None) -> None:
    """One workdir holds the rows of one model, one guard, one data folder and one set of options.

    files: of an exported folder.

    Raises:
      InputError: it holds those of something else.
    """
    names = [path for path in sorted(stand.data.glob("*.json")) if path.is_file()]
    identity = {
        "version": version("vlm_mu_jax"),
        "weights_sha256": weights_hash(stand.model.params),
        "exported_files": files,
        "guard_sha256": None if stand.guard is None else folder_hash(stand.guard),
        "reference_sha256": None if stand.reference is None else weights_hash(stand.reference.params),
        "data": {path.name: sha256(path) for path in names},
        "judge": judge,
        "settings": stand.options.settings(),
    }
    path = workdir / "config.json"
    identity = _plain(identity)
    if path.exists() and (old := read_json(path)) != identity:
        other = ", ".join(key for key in identity if old.get(key) != identity[key])
        raise InputError(f"--workdir={workdir}: holds rows of another {other}; use another folder")
    write_json(path, identity)


def _plain(value: Any) -> Any:
    """As JSON reads it back: lists for tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _rows(stand: Stand, on_row: Callable[[HoldsRow], None] | None) -> list[HoldsRow]:
    """All rows that are wanted; those that the workdir has are read. `as_is` is always made, others compare with it."""
    done: dict[str, HoldsRow] = {}
    for name in (row for row in ROWS if row == "as_is" or row in stand.options.rows):
        file = _row_file(stand.workdir, name)
        if file.exists():
            done[name] = _stored_row(file)
            continue
        try:
            done[name] = make(stand, name, done)
            write_json(file, done[name].stored())
        except InputError as error:
            done[name] = HoldsRow(name, "", skipped=str(error))
        if on_row is not None:
            on_row(done[name])
    if not any(row.rates for row in done.values()):
        raise InputError(next(row.skipped for row in done.values()))
    return list(done.values())


def _stored_row(file: Path) -> HoldsRow:
    value = read_json(file)
    check_value(value, HoldsRow, str(file))
    return HoldsRow.of(value)


def _row_file(workdir: Path, name: str) -> Path:
    return workdir / "rows" / f"{name}.json"


def _rows_before(baseline: HoldsResult | str | Path) -> HoldsResult:
    return baseline if isinstance(baseline, HoldsResult) else stored_result(baseline)


def _depth(stand: Stand) -> dict[str, Any] | None:
    """What the layers know of the answers to forget; None without such answers. A guard has no part in it."""
    use, file = stand.options, stand.workdir / "depth.json"
    if use.forget_answers is None or not use.depth:
        return None
    if not file.exists():
        safety = readers.read(stand.data / "train.json")
        made = build(safety, use.forget_answers)
        items = (*made.forget, *(record for record in safety if record.kind == "safe" and record.answer))
        some = sample(dataclasses.replace(safety, items=tuple(items)), use.depth, use.seed)
        found: Depth = depth(stand.model, some, progress=stand.progress)
        write_json(file, found.to_dict())
    return read_json(file)


def _content(
    stand: Stand,
    rows: Sequence[HoldsRow],
    deep: dict[str, Any] | None,
    files: dict[str, str] | None,
    judge: str,
    before: HoldsResult | None,
) -> dict[str, Any]:
    bound, model = read_json(stand.workdir / "config.json"), stand.model
    identity = None if stand.guard is None else {"folder": str(stand.guard), "sha256": bound["guard_sha256"]}
    tests = {} if before is None else against(rows, before.rows)
    return {
        "schema": 1,
        "name": stand.options.name,
        "judge": judge,
        "baseline": before and before.name,
        "exported_files": files,
        "rows": [row.to_dict() | {"against": tests.get(row.name, {})} for row in rows],
        "depth": deep,
        "settings": bound["settings"],
        "provenance": provenance.collect(model, bound["weights_sha256"], stand.data, bound["data"], identity),
    }
