"""The tables of docs/results.md: every figure is read from folders of bin/quickstart, one per seed.

A page holds its prose by hand and its tables in blocks:

    <!-- table: models -->
    whatever stands here is replaced
    <!-- end -->

`fill` replaces every block whose table was measured. An empty block of another table says that it was not.

The tables need few of a quickstart's files. `record` copies these to a folder that can be published beside the page:
`tables` and `judges` read it as they read the quickstart.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation import metrics
from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.evaluation.statistics import proportion
from vlm_mu_jax.files import outputs
from vlm_mu_jax.files.json_file import read_json, write_json
from vlm_mu_jax.formats.audit import AuditFile
from vlm_mu_jax.formats.reading import read_file
from vlm_mu_jax.formats.results import ResultsFile
from vlm_mu_jax.miniature import story
from vlm_mu_jax.reporting.inputs import content as contents
from vlm_mu_jax.reporting.inputs.content import Content
from vlm_mu_jax.reporting.inputs.metrics import Rate, as_rate
from vlm_mu_jax.reporting.inputs.options import ReportOptions
from vlm_mu_jax.reporting.inputs.own_words import own_words
from vlm_mu_jax.reporting.inputs.runs import BASE, GUARD
from vlm_mu_jax.reporting.verdict.targets import VerdictTarget, missed, unknown
from vlm_mu_jax.reporting.verdict.unlearning import targets_of
from vlm_mu_jax.reporting.wording import listing, sizes

NOT_MEASURED = "*Not measured yet.*"
_BLOCK = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)
_MODELS = {
    "ASR before": "asr_before",
    "ASR after": "asr_after",
    "ASR null words": "asr_null",
    "RR before": "rr_before",
    "RR after": "rr_after",
    "IR harmless after": "ir_harmless_after",
    "utility": "utility",
}
_JUDGES = ("oracle", "refusal")
_TWO_JUDGES = "two_judges.json"
_RECORDED = (story.MARK, "attack_*.json", "attribution.json", "eval_*/results.json")
_GAP = ("text_only", "blank_image", "own_image")


def fill(page: str, tables: Mapping[str, str], world: str = "nonsense") -> str:
    """The page with the blocks of a world replaced by their tables.

    Blocks of another world than the nonsense carry its name: english_models. Those of other worlds stay as they are,
    and so do those that `tables` has nothing for; an empty one becomes `NOT_MEASURED`.

    Raises:
      InputError: a table that the page has no block for.
    """
    prefix = "" if world == "nonsense" else f"{world}_"
    found = {f"{prefix}{name}": table for name, table in tables.items()}
    names = [block[1] for block in _BLOCK.finditer(page)]
    if lost := [name for name in found if name not in names]:
        raise InputError(
            f"the page has no block for {', '.join(lost)}; write <!-- table: {lost[0]} --> and <!-- end -->"
        )

    def filled(block: re.Match[str]) -> str:
        whose = next((name for name in story.WORLDS if block[1].startswith(f"{name}_")), "nonsense")
        if whose != world:
            return block[0]
        table = found.get(block[1]) or block[2].strip() or NOT_MEASURED
        return f"<!-- table: {block[1]} -->\n\n{table}\n\n<!-- end -->"

    return _BLOCK.sub(filled, page)


def fill_file(page: Path, quickstarts: Mapping[int, Path], more: Mapping[str, str], world: str = "nonsense") -> None:
    """Fills the blocks of a Markdown page with the quickstarts' tables, and with `more`: tables by their names."""
    found = {**tables(quickstarts), **more}
    if world != "nonsense":  # whose refusals are real sentences
        found["judges"] = judges(quickstarts)
    outputs.write_text(page, fill(page.read_text(encoding="utf-8"), found, world))


def tables(quickstarts: Mapping[int, Path]) -> dict[str, str]:
    """The tables that quickstarts hold, by the names of their blocks: models, targets, own_words, gap and audit.

    Args:
      quickstarts: seed -> finished folder of bin/quickstart.

    Raises:
      InputError: a folder lacks a file of the report, or one is malformed.
    """
    seeds = {seed: _content(folder) for seed, folder in sorted(quickstarts.items())}
    correlations = {
        seed: read_file(folder / "attribution.json", AuditFile) for seed, folder in sorted(quickstarts.items())
    }
    return {
        "models": _models(seeds),
        "targets": _targets(seeds),
        "own_words": _own_words(seeds),
        "gap": _gap(seeds),
        "audit": _audit(correlations),
    }


def judges(quickstarts: Mapping[int, Path]) -> str:
    """Attack success by the oracle and by the judge `refusal`, and how often the two agree on what is a refusal."""
    rows, rates = [], []
    for seed, folder in sorted(quickstarts.items()):
        kept = folder / _TWO_JUDGES
        for name, found in (read_json(kept) if kept.is_file() else _two_judges(folder)).items():
            shown = [as_rate(one, f"{folder}: {name}") for one in found]
            rows.append([str(seed), name, *map(_cell, shown)])
            rates += shown
    heads = [f"ASR {when}, {judge}" for when in ("before", "after") for judge in _JUDGES]
    return _table(["seed", "model", "agree on refusals", *heads], rows) + _standing(rates)


def _two_judges(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Model -> rates: how often both judges agree on refusals, then ASR before and after by each judge."""
    found = {}
    for run in sorted(folder.glob("eval_*/results.json")):
        answers = {path.stem: answers_file.read(path) for path in (run.parent / "answers").glob("*.jsonl")}
        safety = [a for name, some in answers.items() if name.startswith(("unsafe", "harmless")) for a in some]
        same = [len({a.labels[judge]["label"] == "refused" for judge in _JUDGES}) == 1 for a in safety]
        rates = [proportion(sum(same), len(same))]
        for name in ("unsafe_before", "unsafe_after"):
            rates += [metrics.asr(metrics.outcomes(answers.get(name, ()), judge)) for judge in _JUDGES]
        (named,) = {one["name"] for one in read_file(run, ResultsFile)["runs"]}
        found[named] = [rate.to_dict() for rate in rates]
    return found


def record(quickstarts: Mapping[int, Path], out: Path, two_judges: bool = False) -> None:
    """Copies what the tables are made of to OUT/seedS: results and the attacks' words, with paths inside the folder.

    Args:
      quickstarts: seed -> finished folder of bin/quickstart.
      out: made if it is not there; files of the same names are replaced.
      two_judges: also the rates of `judges`, which the answers are read for.
    """
    for seed, folder in quickstarts.items():
        kept = out / f"seed{seed}"
        for path in sorted(file for pattern in _RECORDED for file in folder.glob(pattern)):
            text = path.read_text(encoding="utf-8").replace(f"{folder}/", "")
            outputs.write_text(kept / path.relative_to(folder), text)
        if two_judges:
            write_json(kept / _TWO_JUDGES, _two_judges(folder))


def _content(folder: Path) -> Content:
    """What the quickstart's report was made of, as far as the tables need it."""
    found = [path.parent for path in sorted(folder.glob("eval_*/results.json"))]
    if not found:
        raise InputError(f"{folder}: no eval_NAME/results.json there; give a finished folder of bin/quickstart")
    named = {run["name"]: path for path in found for run in read_file(path / "results.json", ResultsFile)["runs"]}
    again = {name: folder / f"attack_{name}.json" for name in named if name != "sft"}
    again = {name: path for name, path in again.items() if path.is_file()}
    return contents.collect(found, ReportOptions(attack=folder / "attack_sft.json", attack_again=again))


def _models(seeds: Mapping[int, Content]) -> str:
    """Every model of every seed, before and after the words searched for the SFT model."""
    rows, rates = [], []
    for seed, content in seeds.items():
        for run in content.runs:
            found = [run.metric(name) for name in _MODELS.values()]
            right = run.group("harmless_right_by_opening").values()
            found.insert(-1, min(right, key=lambda rate: rate.value, default=None))
            rows.append([str(seed), run.name, *map(_cell, found)])
            rates += found
    *heads, last = _MODELS
    return _table(["seed", "model", *heads, "right, worst", last], rows) + _standing(rates)


def _targets(seeds: Mapping[int, Content]) -> str:
    """Every unlearned model against its targets, a missed one in bold, and a sentence for every model.

    `NOT_MEASURED` where none was unlearned yet.
    """
    rows, heads, lines = [], [], []
    reached: dict[str, list[tuple[int, list[VerdictTarget]]]] = {}
    for seed, content in seeds.items():
        for run in (run for run in content.runs if run.unlearned):
            found = targets_of(run, content)
            heads = [target.name for target in found]
            rows.append([str(seed), run.name, *(_judged(target) for target in found)])
            reached.setdefault(run.name, []).append((seed, found))
    if not rows:
        return NOT_MEASURED
    for name, results in reached.items():
        lines.append(f"- **{name}** " + _sentence(results))
    return _table(["seed", "model", *heads], rows) + "\n\n" + "\n".join(lines)


def _sentence(results: Sequence[tuple[int, list[VerdictTarget]]]) -> str:
    whole = [str(seed) for seed, found in results if not missed(found) and not unknown(found)]
    text = f"reaches every target on {len(whole)} of {len(results)} seeds" + (
        f" ({', '.join(whole)})." if whole else "."
    )
    names = dict.fromkeys(target.name for _, found in results for target in missed(found))
    lost = {name: [str(seed) for seed, found in results if name in {t.name for t in missed(found)}] for name in names}
    if lost:
        text += f" It misses {listing([f'{name} (seed {listing(where)})' for name, where in lost.items()])}."
    open_ones = dict.fromkeys(target.name for _, found in results for target in unknown(found))
    return text + (f" Not measured on every seed: {listing(list(open_ones))}." if open_ones else "")


def _own_words(seeds: Mapping[int, Content]) -> str:
    """Every attacked model under the words searched for itself, in both directions, beside neutral words."""
    rows, rates = [], []
    for seed, content in seeds.items():
        for one in own_words(content):
            cells = [str(seed), one.model]
            for way in (one.asr, one.rr):
                shown = [way.as_asked, way.searched, way.neutral]
                cells += [", ".join(way.words) or "-", *map(_with_interval, shown)]
                rates += shown
            rows.append(cells)
    heads = ["words that make it answer", "ASR as asked", "ASR, any word", "ASR, any null word"]
    heads += ["words that make it refuse", "RR as asked", "RR, any word", "RR, any null word"]
    return _table(["seed", "model", *heads], rows) + _standing(rates)


def _gap(seeds: Mapping[int, Content]) -> str:
    """The original and the guarded model: hazardous requests as text / with a blank image / with their own image."""
    rows, rates = [], []
    for seed, content in seeds.items():
        for run in (run for run in content.runs if run.kind in (BASE, GUARD)):
            harmful = {name: [run.metric(f"gap/{where}/{name}") for where in _GAP] for name in ("asr", "rr", "ir")}
            refused = [run.metric(f"gap/{where}/rr_harmless") for where in _GAP]
            worst = max(filter(None, refused), key=lambda rate: rate.value, default=None)
            cells = [" / ".join(map(_cell, found)) for found in harmful.values()]
            rows.append([str(seed), run.name, *cells, _cell(worst), _cell(run.metric("utility"))])
            rates += [rate for found in harmful.values() for rate in found]
    heads = ["seed", "model", "ASR", "refused", "irrelevant", "harmless refused, worst", "utility"]
    return _table(heads, rows) + _standing(rates)


def _audit(found: Mapping[int, Mapping[str, Any]]) -> str:
    """How the log odds of the data's words go with what the words do to the SFT model."""
    heads = {
        "change, words seen first in the data": ("change", "here"),
        "gone after rebalancing": ("removed", "here"),
        "change, words seen only elsewhere": ("change", "elsewhere"),
    }
    rows = []
    for seed, content in found.items():
        correlations = content.get("attribution", {}).get("correlations", {})
        rows.append([str(seed), *(_correlation(correlations.get(one, {}).get(where)) for one, where in heads.values())])
    return _table(["seed", *heads], rows)


def _correlation(found: Mapping[str, Any] | None) -> str:
    """Pearson's r with its interval, and over how many words."""
    r = as_rate((found or {}).get("pearson"), "attribution.json: pearson")
    return "-" if r is None or r.low is None else f"{r.value:.2f} [{r.low:.2f}, {r.high:.2f}], {found['n']} words"


def _judged(target: VerdictTarget) -> str:
    if target.ok is None:
        return "-"
    return _with_interval(target.rate) if target.ok else f"**{_with_interval(target.rate)}**"


def _cell(rate: Rate | None) -> str:
    return "-" if rate is None else f"{100 * rate.value:.0f}"


def _with_interval(rate: Rate | None) -> str:
    bounds = "" if rate is None or rate.low is None else f" [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"
    return _cell(rate) + bounds


def _standing(rates: Iterable[Rate | None]) -> str:
    """On how many questions the rates of a table stand."""
    return f"\n\nQuestions per rate: {sizes(rates)}."


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|" + " --- |" * len(heads), *lines[1:]])
