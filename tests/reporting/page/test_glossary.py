"""The glossary holds every abbreviation of the page, and every word of headings, cards and tables that is a term."""

import html
import json
import re

import pytest

from tests.reporting import runs_builder
from vlm_mu_jax.reporting.inputs import content
from vlm_mu_jax.reporting.inputs.options import ReportOptions
from vlm_mu_jax.reporting.page import page
from vlm_mu_jax.reporting.page.glossary import TERMS

NAMES = " ".join(term for term, _ in TERMS).lower()
# Words of headings, cards and tables that a reader knows without us. A new word goes here, or into the glossary.
PLAIN = set(
    """
    a against alignment all alone an and answer answered answers any are as asked at audit band be below beside best
    better broken but by coloured column columns consists corrected could cut data decide decides describe differ
    does drawn each effect empty errors every exact explain export exported file files find finding first for found
    from full further gap gives group has here hidden how image images in is it its itself judged last lets limit
    made main make makes mean measured method metric model models most named no not number numbers of official on
    one only opening or other others out parent part people picture points provenance published put question
    questions rate rates read reference refuse refused refuses repeated request requests right rotation rule safety
    same sanity search searched second set sets share shortlist show shown significantly size small sum table tables
    taken taking terms tests text than that the their them these they third this those to token tokens tried true
    tuned under unlearned use used value verdict want was what where which with without word words works worse wrong
    yes
    """.split()
)


@pytest.fixture(scope="module")
def text(story, tmp_path_factory):
    """A page with every kind of table."""
    runs, evidence = story
    root = tmp_path_factory.mktemp("glossary")
    rate = {"value": 0.5, "n": 20, "k": 10, "low": 0.3, "high": 0.7}
    results = json.loads((runs[1] / "results.json").read_text())
    entry = results["runs"][0]
    entry["metrics"]["sets"] = {"xstest": {"rr": rate, "ir_harmless": rate}, "mme": {"perception": {"value": 1510.0}}}
    entry["null_control"] = {"shots": 3, "asr": rate, "asr_null": rate, "p": 0.002, "by_judge_errors": rate}
    entry["calibration"] = {"answered": {"sensitivity": rate, "specificity": rate, "kappa": [0.4, 0.3, 0.5]}}
    entry["corrected"] = {"asr_before": {"raw": 0.5, "value": 0.4, "low": 0.1, "high": 0.9}}
    entry["name"], entry["seed"] = "sft_judged", 0
    run = runs_builder.write_run(root / "judged", "sft")
    (run / "results.json").write_text(json.dumps(results))
    word = {"word": "wug", "removal": 2.0, "gradient_x_input": -1.0}
    asked = {"saliency": {"questions": [{"id": "q", "kind": "unsafe", "words": [word]}]}, "rows": []}
    (root / "saliency.json").write_text(json.dumps(asked))
    options = ReportOptions(**evidence, saliency=[root / "saliency.json"])
    return page.render(content.collect([*runs, run], options))


def seen(part: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", part))


def test_every_abbreviation_is_explained(text):
    shown = re.sub(
        r"(?s)<(script|style|code).*?</\1>|<section id=\"(?:terms|provenance|answers|export)\">.*?</section>", "", text
    )
    shown = re.sub(r'(?s)<p class="source">.*?</p>|<details class="paper">.*?</details>', "", shown)  # names of papers
    found = set(re.findall(r"\b[A-Z][a-z]*[A-Z]\w*", seen(shown)))
    known = {name.rstrip("s") for name in re.findall(r"\w+", " ".join(term for term, _ in TERMS))}
    assert {"ASR", "RR", "IR", "SFT", "NPO", "RMU"} <= found
    assert {name for name in found if name.rstrip("s") not in known} == set()


def test_every_word_of_headings_cards_and_tables_is_plain_or_explained(text):
    parts = re.findall(r"(?s)<(h2|h3|th|caption|summary)\b([^>]*)>(.*?)</\1>", text)
    headings = [
        inner for tag, attributes, inner in parts if 'scope="row"' not in attributes and "pub" not in attributes
    ]
    cards = re.findall(r'(?s)<span class="(?:top|small)">(.*?)</span>', text)
    words = set(re.findall(r"[a-z][a-z-]*[a-z]", seen(" ".join([*headings, *cards])).lower()))
    unknown = sorted(word for word in words if word not in PLAIN and word.rstrip("s") not in NAMES)
    assert " ".join(unknown) == ""


@pytest.mark.parametrize("term", ["sft", "npo", "rmu", "neutral word", "log odds", "margin", "oracle", "held-out"])
def test_the_terms_that_readers_missed_are_there(term):
    assert term in NAMES


def test_terms_stand_by_the_alphabet_and_once(text):
    names = [term.lower() for term, _ in TERMS]
    assert names == sorted(names) and len(set(names)) == len(names)
    assert all(f"<dt>{html.escape(term, quote=False)}</dt>" in text for term, _ in TERMS)


def test_every_section_says_what_to_look_for(text):
    sections = re.split(r'<section id="', text)[1:]
    missing = [part.partition('"')[0] for part in sections if "<strong>Look for</strong>" not in part]
    assert missing == ["terms"], "every section but the glossary itself"
    assert "<strong>Look for</strong>" in text.split('<section id="')[0]
