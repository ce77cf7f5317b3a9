"""The table of a model as text, and of several models as a Markdown page."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.stress.rows import RATES, TITLES


def text(content: Mapping[str, Any]) -> str:
    """What bin/holds prints: a line for each rate of each row."""
    head = f"{content['name']}, judged by {content['judge']}"
    if content["baseline"]:
        head += f"; p against {content['baseline']}, Holm-corrected"
    lines = [head, f"{'':<20}{'rate':<18}{'now':<25}{'control':<25}{'p':>8}{'p against':>11}"]
    for row in content["rows"]:
        title = TITLES[row["name"]]
        if row["skipped"]:
            lines.append(f"{title:<20}not made: {row['skipped']}")
        for name, rate in row["rates"].items():
            against = row["against"].get(name)
            cells = [_shown(rate["rate"]), _shown(rate["control"]), _p(rate["test"], "p"), _p(against, "p_holm")]
            lines.append(f"{title:<20}{RATES[name][0]:<18}{cells[0]:<25}{cells[1]:<25}{cells[2]:>8}{cells[3]:>11}")
            title = ""
    return "\n".join(lines)


def page(contents: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown page of several models: what was done, then a table for each rate, a column for each model."""
    lines = ["# What holds: the miniature", "", _INTRODUCTION, ""]
    lines += ["| row | what was done | control |", "|---|---|---|"]
    rows = [row for one in reversed(contents) for row in one["rows"] if row["rates"]]
    for name in TITLES:
        row = next((row for row in rows if row["name"] == name), None)
        if row:
            lines.append(f"| {TITLES[name]} | {_one_what(name, row['what'])} | {row['control'] or '–'} |")
    for rate, (title, less) in RATES.items():
        table = _rate_table(contents, rate)
        if len(table) > 2:
            lines += ["", f"## {title[0].upper()}{title[1:]}", "", _BETTER[less], "", *table]
    return "\n".join([*lines, "", *_models(contents), *_depths(contents)]) + "\n"


_INTRODUCTION = (
    "Made by `bin/holds --page`. Every number is read from the result files. A cell is a rate in percent with its 95 %"
    " interval; behind the slash stands the control's rate. **Bold** is a difference from the control at p < 0.05"
    " (exact McNemar, uncorrected, so a page of this size has false ones). n stands where it differs from the column's"
    " first row. – was not measured. [What holds](what_holds.md) says how to read the rows."
)
_BETTER = {True: "Lower is better.", False: "Higher is better."}


def _rate_table(contents: Sequence[Mapping[str, Any]], rate: str) -> list[str]:
    head = [f"{one['name']} (n {_first_n(one, rate) or '–'})" for one in contents]
    lines = ["| row | " + " | ".join(head) + " |", "|---|" + "---|" * len(contents)]
    for name in TITLES:
        cells = [_cell(one, name, rate) for one in contents]
        if any(cell != "–" for cell in cells):
            lines.append(f"| {TITLES[name]} | " + " | ".join(cells) + " |")
    return lines


def _cell(content: Mapping[str, Any], name: str, rate: str) -> str:
    found = next((row["rates"].get(rate) for row in content["rows"] if row["name"] == name), None)
    if found is None or found["rate"]["value"] is None:
        return "–"
    shown = _percent(found["rate"])
    if found["rate"]["n"] != _first_n(content, rate):
        shown += f" n {found['rate']['n']}"
    if found["control"] is None:
        return shown
    control = "–" if found["control"]["value"] is None else f"{100 * found['control']['value']:.0f}"
    return f"**{shown}** / {control}" if found["test"]["p"] < 0.05 else f"{shown} / {control}"


def _first_n(content: Mapping[str, Any], rate: str) -> int | None:
    return next((row["rates"][rate]["rate"]["n"] for row in content["rows"] if rate in row["rates"]), None)


def _models(contents: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Which weights, which guard, and what was not made."""
    yield from ("## The models", "", "| model | data | weights | guard | not made |", "|---|---|---|---|---|")
    for one in contents:
        facts = one["provenance"]
        guard, weights = facts["guard"], facts["checkpoint"]["weights_sha256"][:12]
        skipped = "; ".join(f"{TITLES[row['name']]}: {row['skipped']}" for row in one["rows"] if row["skipped"])
        steered = f"`{guard['sha256'][:12]}`" if guard else "–"
        data = Path(facts["data"]["folder"]).name
        yield f"| {one['name']} | {data} | `{weights}` | {steered} | {skipped or '–'} |"


def _depths(contents: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Of every model the last layer's readings, beside their controls."""
    deep = [one for one in contents if one["depth"]]
    if not deep:
        return
    yield from ("", "## Depth: the last layer, in percent", "")
    yield "Harmful answers to forget / answers to harmless requests. Floor: what the place and the token before give."
    yield ""
    yield "| model | condition | kind (AUROC) | probe | lens | floor |"
    yield "|---|---|---|---|---|---|"
    for one in deep:
        for condition, found in one["depth"]["conditions"].items():
            sides = [
                " / ".join(f"{100 * found[what][s][-1]['value']:.0f}" for s in _SIDES) for what in ("probe", "lens")
            ]
            floor = " / ".join(f"{100 * found['floor'][side]['value']:.0f}" for side in _SIDES)
            kind = f"{100 * found['kind'][-1]['value']:.0f}"
            yield f"| {one['name']} | {condition} | {kind} | {' | '.join(sides)} | {floor} |"


_SIDES = ("harmful", "harmless")


def _one_what(name: str, what: str) -> str:
    """What was done, without the words of one model."""
    return what.partition(" (")[0] if name in ("words", "paraphrase") else what


def _percent(metric: Mapping[str, Any]) -> str:
    value, low, high = (100 * metric[key] for key in ("value", "low", "high"))
    return f"{value:.0f} [{low:.0f}, {high:.0f}]"


def _shown(metric: Mapping[str, Any] | None) -> str:
    if metric is None or metric["value"] is None:
        return "-"
    return f"{_percent(metric)} ({metric['k']}/{metric['n']})"


def _p(test: Mapping[str, Any] | None, key: str) -> str:
    return "" if test is None else f"{test[key]:.2g}"
