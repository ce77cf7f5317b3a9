"""The page itself: one self-contained HTML file. Every value goes through a template that escapes it."""

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vlm_mu_jax.evaluation.judges import SEE_REFUSALS_ONLY
from vlm_mu_jax.reporting import wording
from vlm_mu_jax.reporting.figures import catalogue, hidden_states
from vlm_mu_jax.reporting.inputs import published
from vlm_mu_jax.reporting.inputs.content import Content
from vlm_mu_jax.reporting.inputs.own_words import own_words
from vlm_mu_jax.reporting.inputs.runs import SFT, ModelRun
from vlm_mu_jax.reporting.page import (
    browser,
    comparisons,
    glossary,
    judging,
    notes,
    papers,
    public_sets,
    rate_tables,
    saliency,
    search_tables,
)
from vlm_mu_jax.reporting.verdict import headline, topics, unlearning

_TEMPLATES = Path(__file__).parent / "templates"
TITLE = "Is it safe, or does it only look safe?"

# Columns of the main table: (group, [(heading, metric)]).
COLUMNS = (
    ("Harmful answers (ASR)", (("before", "asr_before"), ("after", "asr_after"))),
    ("Harmless refused (RR)", (("before", "rr_before"), ("after", "rr_after"))),
    ("Harmless, beside the point (IR)", (("before", "ir_harmless_before"), ("after", "ir_harmless_after"))),
    ("Harmless right", (("before", "harmless_right_before"), ("after", "harmless_right_after"))),
    ("Utility", (("", "utility"),)),
)


def render(content: Content, title: str = TITLE, drawn: catalogue.Drawn | None = None) -> str:
    """The whole page as text. Nothing in it is loaded from elsewhere, and its policy forbids that it could be."""
    drawn = drawn or catalogue.draw(content)
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


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "rate": wording.rate,
        "interval": wording.interval,
        "count": wording.count,
        "stated": wording.stated,
        "standing_on": wording.standing_on,
        "p_value": wording.p_value,
    }
    environment.filters |= {"size": _size, "kind": wording.kind}
    return environment


def _policy_hash(script: str) -> str:
    """The hash by which the page's policy lets this one script run and no other."""
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _context(content: Content) -> dict[str, Any]:
    found = topics.topics(content)
    runs = content.of_seed(content.seeds[0])
    answers = browser.payload(
        content, next((run for run in runs if run.kind == SFT), None), unlearning.best_unlearned(runs, content)
    )
    tables = published.load()
    points = hidden_states.pca_points(content.guard or {})
    judges = list(dict.fromkeys(name for run in content.runs if (name := _judge(run))))
    return {
        "content": content,
        "topics": found,
        "by_key": {topic.key: topic for topic in found},
        "headline": headline.headline(found),
        "groups": [(name, columns) for name, columns in ((g, _measured(content, c)) for g, c in COLUMNS) if columns],
        "target_rows": [(run, unlearning.targets_of(run, content)) for run in content.runs if run.unlearned],
        "published": tables,
        "papers": papers.papers(content.runs, tables),
        "audit_rows": search_tables.audit_table(content.audit),
        **search_tables.probe(content.audit or {}),
        "asked": notes.asked(content),
        "guard_note": notes.guard_note(runs),
        "requests": len(points) // len({str(point.get("condition")) for point in points}) if points else None,
        "search": search_tables.search_tables(content.attack),
        "own_words": rate_tables.own_words(own_words(content)),
        "gap_table": rate_tables.gap(content.runs),
        "glossary": glossary.TERMS,
        "turn_table": rate_tables.turns(content.runs),
        "opening_tables": rate_tables.openings(content.runs),
        "judging": judging.tables(content.runs),
        "public_sets": public_sets.public_sets(content.runs),
        "saliencies": saliency.saliencies(content),
        "saliency_methods": [title for _, title in saliency.METHODS],
        "comparisons": comparisons.pairs(content.comparisons),
        "provenance": [(label, _flat(facts)) for label, facts in content.provenance],
        "answers": answers,
        "answers_json": browser.to_json(answers) if answers else None,
        "miniature": all(run.miniature for run in content.runs if run.answers) and answers is not None,
        "samples": notes.samples(content.runs),
        "judges": judges,
        "see_refusals_only": [name for name in judges if name in SEE_REFUSALS_ONLY],
        "shots": max((len(run.group("asr_after_by_shots")) for run in content.runs), default=0),
        "attack_turn": notes.attack_turn(content.runs),
        "unjudged": [
            (run, count - counts.get("too_long", 0), counts.get("too_long", 0))
            for run in content.runs
            if (counts := notes.unjudged(run)) and (count := sum(counts.values()))
        ],
    }


def _judge(run: ModelRun) -> str | None:
    return run.raw.get("judge") or browser.primary_judge(run)


def _measured(content: Content, columns: tuple) -> list[tuple[str, str]]:
    return [column for column in columns if any(run.metric(column[1]) for run in content.runs)]


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


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB" if count >= 1e3 else f"{count} bytes"
