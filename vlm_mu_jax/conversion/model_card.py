"""The card of an exported model: `README.md`, with metadata that the hub reads.

Everything in it is taken from the model's provenance and from the results of `bin/eval`. What is not known is said to
be unknown.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.paths import resolved
from vlm_mu_jax.formats.measures import RateFields
from vlm_mu_jax.formats.reading import check_value, read_file
from vlm_mu_jax.formats.results import ResultsFile
from vlm_mu_jax.storage import origin

_LIMITS = """- The numbers hold for the data, the judge and the decoding (greedy) that they were measured with.
- Unlearning lowers how often a model answers harmful requests. It does not prove that no request can make it answer.
- Attacks that were not tried may succeed. Further training on few examples may bring the behaviour back.
- A judge makes errors. Rates are as its labels say, unless a row is called corrected."""
_UNMEASURED = (
    "Nothing was measured for this card. `bin/convert_hf --export --results=...` adds the numbers of `bin/eval`."
)


def card(name: str, folder: Path, hf_config: Mapping[str, Any], results: Sequence[str | Path] = ()) -> str:
    """The text of the card.

    Args:
      name: what the model is called.
      folder: the model folder that is exported.
      hf_config: content of config.json.
      results: folders of `bin/eval`, or their results.json, of this model.

    Raises:
      InputError: results that are none, or those of other weights.
    """
    provenance, base = origin.provenance(folder), origin.base_of(folder)
    measured = [(path, _read_results(path, provenance)) for path in results]
    source = base.get("source")
    lines = ["---", *_metadata(source, base.get("license"), hf_config), "---", "", f"# {name}", ""]
    lines += [_done(provenance, source), "", "## What was done", "", *_facts(provenance, source), ""]
    lines += ["## Measured", ""]
    for _, found in measured:
        lines += [*_table(found), ""]
    if not measured:
        lines += [_UNMEASURED, ""]
    lines += ["## Limits", "", _LIMITS, "", "## Licence", "", _licence(base), ""]
    return "\n".join(lines)


def _metadata(source: str | None, licence: str | None, hf_config: Mapping[str, Any]) -> Iterator[str]:
    """YAML; JSON strings are YAML strings."""
    if licence:
        yield f"license: {json.dumps(licence)}"
    if source and _is_hub_id(source):
        yield f"base_model: {json.dumps(source.removeprefix('hub:'))}"
    yield "library_name: transformers"
    yield f"pipeline_tag: {'image-text-to-text' if 'vision_config' in hf_config else 'text-generation'}"
    yield "tags: [vlm_mu_jax]"


def _is_hub_id(source: str) -> bool:
    return source.startswith("hub:") or (
        source.count("/") == 1 and not Path(source).exists() and source[0] not in "./~"
    )


def _done(provenance: Mapping[str, Any], source: str | None) -> str:
    start = f"`{source}`" if source else "a checkpoint of unknown source"
    if "kind" not in provenance:
        return f"The weights of {start}, converted and written back by vlm_mu_jax."
    return f"{start}, trained with the objective `{provenance['kind']}` by vlm_mu_jax."


def _facts(provenance: Mapping[str, Any], source: str | None) -> Iterator[str]:
    yield f"- Base model: {source or 'unknown'}"
    if "kind" in provenance:
        yield f"- Objective: `{json.dumps(provenance.get('objective', provenance['kind']), sort_keys=True)}`"
        steps = provenance.get("weights_of_step", provenance.get("steps", "unknown"))
        yield f"- Steps: {steps}, seed {provenance.get('seed')}"
    for key, words in (("start_weights_sha256", "Weights before"), ("weights_sha256", "Weights after")):
        if provenance.get(key):
            yield f"- {words}, SHA-256 in vlm_mu_jax's count: `{provenance[key]}`"
    data = provenance.get("data") or {}
    for name, digest in sorted((data.get("files") or {}).items()):
        yield f"- Data `{name}`, SHA-256: `{digest}`"
    if provenance.get("git_revision"):
        yield f"- Code: `{provenance['git_revision']}`"
    versions = provenance.get("packages") or {}
    if versions:
        yield f"- Packages: {', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}"


def _read_results(path: str | Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    where = resolved(path)
    where = where / "results.json" if where.is_dir() else where
    try:
        found = read_file(where, ResultsFile)
        made = found["provenance"]["checkpoint"]
        same = made.get("weights_sha256") == provenance.get("weights_sha256") or made.get("source") == provenance
    except (KeyError, TypeError, AttributeError, InputError) as error:
        reason = str(error).removeprefix(f"{where}: ")
        raise InputError(f"{where}: no results of bin/eval ({reason}); give the --workdir of an evaluation") from None
    if not found["runs"] or not same:
        raise InputError(f"{where}: measured other weights than those that are exported; evaluate this model")
    return found


def _table(found: Mapping[str, Any]) -> Iterator[str]:
    """A table a run: metric, value, 95 % interval, n."""
    data = found["provenance"].get("data")
    digests = data.get("sha256") if isinstance(data, dict) else None
    for run in found["runs"]:
        yield f"Judge: `{run.get('judge', 'unknown')}`. {_unjudged(run)}".rstrip()
        yield ""
        yield "| metric | value | 95 % interval | n |"
        yield "|---|---|---|---|"
        for name, one in _metrics(run["metrics"]):
            interval = f"{_percent(one['low'])} to {_percent(one['high'])}"
            yield f"| `{name}` | {_percent(one['value'])} | {interval} | {one['n']} |"
    if digests and isinstance(digests, dict):
        yield ""
        yield from (f"- Measured on `{name}`, SHA-256: `{digest}`" for name, digest in sorted(digests.items()))


def _unjudged(run: Mapping[str, Any]) -> str:
    count = sum((run.get("unjudged") or {}).values())
    return f"{count} answers have no verdict and are not counted." if count else ""


def _metrics(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, value in tree.items():
        if not isinstance(value, Mapping):
            continue
        if {"value", "low", "high", "n"} <= value.keys():
            check_value(dict(value), RateFields, f"results, {prefix}{name}")
            if value["value"] is not None:
                yield prefix + name, value
        else:
            yield from _metrics(value, f"{prefix}{name}/")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _licence(base: Mapping[str, Any]) -> str:
    if base.get("license"):
        return f"That of the base model: `{base['license']}`. Its conditions hold for this model too."
    return (
        "The base model's card was not at hand. Its licence holds for this model too; add it before you share this one."
    )
