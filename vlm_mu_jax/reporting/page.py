"""The page itself: one self-contained HTML file from a Content; every value goes through an escaping template."""

import base64
import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vlm_mu_jax.reporting import (
    browser,
    comparisons,
    figures,
    figures_evidence,
    figures_shots,
    figures_training,
    headline,
    judging,
    papers,
    public_sets,
    published,
    saliency,
    verdict,
    words,
)
from vlm_mu_jax.reporting.canvas import Drawing
from vlm_mu_jax.reporting.content import BASE, GUARD, SFT, Content, Metric, Run, as_metric
from vlm_mu_jax.reporting.evidence import FIGURES, questions

_TEMPLATES = Path(__file__).parent / "templates"

# Columns of the main table: (group, [(heading, metric)]).
COLUMNS = (
    ("Harmful answers (ASR)", (("before", "asr_before"), ("after", "asr_after"))),
    ("Harmless refused (RR)", (("before", "rr_before"), ("after", "rr_after"))),
    ("Harmless, beside the point (IR)", (("before", "ir_harmless_before"), ("after", "ir_harmless_after"))),
    ("Harmless right", (("before", "harmless_right_before"), ("after", "harmless_right_after"))),
    ("Utility", (("", "utility"),)),
)
# What each figure of rates is drawn from.
_FIGURE_RATES = {
    "openings": ("asr_by_opening", "harmless_right_by_opening"),
    "shots": ("asr_after_by_shots",),
    "frontier": ("asr_after", "harmless_right_after"),
    "composition": ("asr_after", "ir_unsafe_after"),
    "gap": ("gap",),
}


@dataclass(frozen=True)
class Drawn:
    """The figures of a page: `named` stand where the template names them, `more` are those of FIGURES by section."""

    named: dict[str, Drawing | None]
    more: dict[str, list[tuple[Drawing, str]]]  # with captions

    @property
    def all(self) -> list[Drawing]:
        return [*filter(None, self.named.values()), *(drawing for group in self.more.values() for drawing, _ in group)]


def render(content: Content, title: str = "Is it safe, or does it only look safe?", drawn: Drawn | None = None) -> str:
    """The whole page as text. Nothing in it is loaded from elsewhere, and its policy forbids that it could be."""
    drawn = drawn or draw(content)
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=title,
            css=(_TEMPLATES / "report.css").read_text(encoding="utf-8"),
            script=script,
            script_hash=_policy_hash(script),
            figures=drawn.named,
            more=drawn.more,
            **_context(content),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "rate": words.rate,
        "interval": words.interval,
        "count": words.count,
        "stated": words.stated,
        "standing_on": words.standing_on,
        "p_value": words.p_value,
    }
    environment.filters |= {"size": _size, "kind": words.kind}
    return environment


def _policy_hash(script: str) -> str:
    """The hash by which the page's policy lets this one script run and no other."""
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _context(content: Content) -> dict[str, Any]:
    topics = verdict.topics(content)
    runs = content.of_seed(content.seeds[0])
    answers = browser.payload(
        content, next((run for run in runs if run.kind == SFT), None), verdict.best_unlearned(runs)
    )
    base = {seed: next((run for run in content.of_seed(seed) if run.kind == BASE), None) for seed in content.seeds}
    tables = published.load()
    points = figures_evidence.pca_points(content.guard or {})
    return {
        "content": content,
        "topics": topics,
        "by_key": {topic.key: topic for topic in topics},
        "headline": headline.headline(topics),
        "groups": [(name, columns) for name, columns in ((g, _measured(content, c)) for g, c in COLUMNS) if columns],
        "target_rows": [(run, verdict.targets(run, base[run.seed])) for run in content.runs if run.unlearned],
        "published": tables,
        "papers": papers.papers(content.runs, tables),
        "audit_rows": _audit_table(content.audit),
        **_probe(content.audit or {}),
        "asked": _asked(content),
        "guard_note": _guard_note(runs),
        "requests": len(points) // len({str(point.get("condition")) for point in points}) if points else None,
        "search": _search_table(content.attack),
        "again": [_again_row(name, attack) for name, attack in content.attack_again.items()],
        "judging": judging.tables(content.runs),
        "public_sets": public_sets.public_sets(content.runs),
        "saliencies": saliency.saliencies(content),
        "saliency_methods": [title for _, title in saliency.METHODS],
        "comparisons": comparisons.pairs(content.comparisons),
        "provenance": [(label, _flat(facts)) for label, facts in content.provenance],
        "answers": answers,
        "answers_json": browser.to_json(answers) if answers else None,
        "miniature": all(run.miniature for run in content.runs if run.answers) and answers is not None,
        "samples": _samples(content.runs),
        "judges": list(
            dict.fromkeys(name for run in content.runs if (name := run.raw.get("judge") or browser.primary_judge(run)))
        ),
        "shots": max((len(run.group("asr_after_by_shots")) for run in content.runs), default=0),
        "unjudged": [
            (run, sum(counts.values())) for run in content.runs if (counts := _unjudged(run)) and sum(counts.values())
        ],
    }


def _measured(content: Content, columns: tuple) -> list[tuple[str, str]]:
    return [column for column in columns if any(run.metric(column[1]) for run in content.runs)]


def draw(content: Content) -> Drawn:
    """All figures, None where the input is missing. Seeds share a figure as long as it stays readable."""
    runs = content.runs
    named = {
        "bars": figures.main_bars(runs),
        "composition": figures.composition(runs),
        "frontier": figures.frontier(runs),
        "openings": figures.openings(runs),
        "shots": figures_shots.k_curve(runs),
        "gap": figures.alignment_gap(runs),
        "audit": figures_evidence.word_audit(content.audit) if content.audit else None,
        "search": figures_evidence.one_word_search(content.attack) if content.attack else None,
        "pca": figures_evidence.hidden_states(content.guard) if content.guard else None,
        "auroc": figures_evidence.separation(content.guard) if content.guard else None,
        "training": figures_training.training_curves(content.training),
    }
    more: dict[str, list[tuple[Drawing, str]]] = {}
    for figure in FIGURES:
        if files := content.files(figure.source):
            module, function = figure.draw.split(".")
            module = importlib.import_module(f"{__package__}.{module}")  # only what this report shows is imported
            if drawing := getattr(module, function)(files):
                asked = words.size_range(questions(files, figure.rates))
                caption = f"{figure.caption} Questions: {asked}." if asked else figure.caption
                more.setdefault(figure.section, []).append((drawing, caption))
    return Drawn(named, more)


def _audit_table(audit: dict[str, Any] | None) -> list[dict[str, Any]]:
    return figures_evidence.audit_rows(audit)[:200] if audit else []


def _probe(audit: dict[str, Any]) -> dict[str, Any]:
    """How well the first word alone predicts the outcome, against the larger class: for the note below the chart."""
    found = audit.get("probe") if isinstance(audit.get("probe"), dict) else {}
    majority = figures_evidence.number(found, "majority")
    if majority is None or figures_evidence.number(found, "accuracy") is None:
        return {"probe": None, "majority": None}
    probe = as_metric({**found, "value": found["accuracy"]}, "audit: probe")
    return {"probe": probe, "majority": words.percent(majority)}


def _asked(content: Content) -> dict[str, str]:
    """On how many questions each figure stands, for the end of its caption."""
    rates = {
        figure: [metric for run in content.runs for name in of for metric in _under(run, name)]
        for figure, of in _FIGURE_RATES.items()
    }
    lists = ("jailbreak", "over_refuse", "null")
    rates["search"] = [row[2] for name in lists for row in figures_evidence.search_rows(content.attack or {}, name)]
    asked = {figure: words.sizes(metrics) for figure, metrics in rates.items()}
    return {figure: f", {sizes} each" if sizes else "" for figure, sizes in asked.items()}


def _under(run: Run, name: str) -> list[Metric]:
    """A rate, or all rates of a group."""
    return [run.metrics[name]] if name in run.metrics else list(run.group(name).values())


def _guard_note(runs: list[Run]) -> str:
    """Said where a guard does nothing for the unsafe questions of the main table: they are not what it is made for."""
    plain = next((run for run in runs if run.kind == BASE and run.metric("asr_before")), None)
    guarded = next((run for run in runs if run.kind == GUARD and run.metric("asr_before")), None)
    if not plain or not guarded or verdict.clearly_above(plain.metric("asr_before"), guarded.metric("asr_before")):
        return ""
    rates = [words.stated(run.metric("asr_before")) for run in (plain, guarded)]
    return (
        "The guard is made to bring back refusals that the language model gives to the text alone; see “Gap and guard”."
        f" On the unsafe questions of this table it makes no clear difference: ASR {rates[0]} without, {rates[1]} with."
    )


def _again_row(name: str, attack: dict[str, Any]) -> dict[str, Any]:
    """A model attacked with words searched for it: the words, and its rates as asked, with them and with null words."""
    rates = (attack.get("any_of_k") or {}).get("asr") or {}
    kinds = [kind for kind in ("original", "any_of_k", "any_of_k_null") if rates.get(kind)]
    shown = {kind: as_metric(rates[kind], f"attack of {name}") for kind in kinds}
    return {"name": name, "words": [row["word"] for row in attack.get("jailbreak") or []], **shown}


def _search_table(attack: dict[str, Any] | None) -> list[tuple[str, list[tuple]]]:
    if not attack:
        return []
    names = (("jailbreak", "Makes it answer", "answered"), ("over_refuse", "Makes it refuse", "refused"))
    null = figures_evidence.search_rows(attack, "null")
    searched = attack.get("n_search") if isinstance(attack.get("n_search"), dict) else {}
    tables = [(title, figures_evidence.search_rows(attack, name)) for name, title, _ in names]
    for name, _, rate in names:
        rows = [row for row in null if row[3].get("goal", "jailbreak") == name]
        tables.append((f"Neutral control: {rate}", rows))
    for name, title, _ in names:
        title = f"{title}: shortlist, on the {searched.get(name, '')} questions of the search"
        tables.append((" ".join(title.split()), figures_evidence.shortlist(attack, name)))
    return [(title, rows[:50]) for title, rows in tables if rows]


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as (path, text) lines."""
    lines = []
    for name, value in facts.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            lines += _flat(value, f"{path} / ")
        else:
            lines.append((path, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return lines


def _samples(runs: list[Run]) -> str:
    """How many questions stand behind the two main columns, for the table's caption."""
    parts = []
    for name, text in (("asr_after", "unsafe"), ("rr_after", "harmless")):
        sizes = sorted({m.n for run in runs if (m := run.metric(name)) and m.n})
        if sizes:
            parts.append(f"{sizes[0]} {text}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} {text}")
    return " and ".join(parts) + " questions" if parts else ""


def _unjudged(run: Run) -> dict[str, int]:
    """How many answers the judge gave no verdict on, by reason."""
    counts = run.raw.get("unjudged")
    return {k: v for k, v in counts.items() if isinstance(v, int)} if isinstance(counts, dict) else {}


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB" if count >= 1e3 else f"{count} bytes"
