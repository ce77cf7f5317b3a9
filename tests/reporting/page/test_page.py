"""The page: self-contained, escaped, measured and published told apart, missing parts left out with a note."""

import hashlib
import json
import re
from collections import defaultdict
from dataclasses import fields
from html.parser import HTMLParser

import pytest
from PIL import Image

from tests.reporting import runs_builder
from vlm_mu_jax import report
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.reporting.figures import catalogue, training
from vlm_mu_jax.reporting.inputs import content, evidence, published
from vlm_mu_jax.reporting.inputs.options import ReportOptions
from vlm_mu_jax.reporting.page import browser, page

VOID = {"meta", "link", "input", "br", "img", "hr"}


NO_FIGURES = catalogue.Drawn(defaultdict(lambda: None), {})  # drawing takes most of the time a page takes


class Reader(HTMLParser):
    """Collects elements, and checks that they nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.ids = [], [], []
        self.feed(text)
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1:]}>"
        self.open.pop()


@pytest.fixture(scope="module")
def full(story):
    runs, evidence = story
    return page.render(content.collect(runs, ReportOptions(**evidence)))


def test_well_formed_with_ids_that_are_unique(full):
    reader = Reader(full)
    assert len(reader.ids) == len(set(reader.ids))
    targets = {attrs["href"][1:] for tag, attrs in reader.elements if tag == "a"}
    assert targets <= set(reader.ids)


def test_nothing_is_loaded_from_elsewhere(full):
    elements = Reader(full).elements
    assert not re.search(r"https?://", full)
    assert not {"iframe", "object", "embed", "base"} & {tag for tag, _ in elements}
    for tag, attrs in elements:
        assert "src" not in attrs
        if tag != "a" and "href" in attrs:
            assert attrs["href"].startswith(("#", "data:,"))
    assert "url(" not in re.sub(r"url\(#", "", full)


def test_every_figure_and_section_is_there(full):
    assert full.count('class="plot wide"') == full.count('class="plot narrow"') == 11
    for name in (
        "numbers",
        "mirage",
        "words",
        "unlearning",
        "gap",
        "export",
        "answers",
        "tests",
        "provenance",
        "terms",
    ):
        assert f'<section id="{name}">' in full
    assert "not given (--" not in full and 'class="missing"' not in full.replace('<noscript><p class="missing">', "")


def test_rates_in_figures_and_sentences_say_what_they_stand_on(full):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", full)
    sizes = {"The same held-out": 60, "More tries": 120, "The best words": 120, "The same requests": 80}
    for start, size in sizes.items():
        assert f"n = {size} each" in next(caption for caption in captions if caption.startswith(start))
    assert "of 400 questions; always guessing the larger class gives 52\xa0%" in full  # the audit's probe
    assert "ASR after the attack 6\xa0%\xa0[3\u2060–\u206012] (at most 15\xa0%)" in full


def test_further_figures_say_on_how_many_questions_their_rates_stand(tmp_path):
    rate = {"value": 0.5, "k": 20, "n": 40, "low": 0.35, "high": 0.65}
    row = {"name": "c=1", "metrics": {"asr": rate, "harmless_right": {**rate, "n": 48}, "utility": {**rate, "n": 7}}}
    sweep = tmp_path / "sweep.json"
    sweep.write_text(json.dumps({"schema": 1, "rows": [row, {**row, "name": "c=2"}]}))
    run = runs_builder.write_run(tmp_path / "base", "base", count=1)
    html = page.render(content.collect([run], ReportOptions(sweep=[sweep])))
    assert "95 % intervals. Questions: n = 40 to 48.</figcaption>" in html


def test_a_guard_that_does_nothing_for_the_main_tables_questions_is_said_to(tmp_path):
    base, guard = (runs_builder.write_run(tmp_path / name, name, count=1) for name in ("base", "guard"))
    assert "ASR is not clearly lower with it" not in page.render(content.collect([base, guard]), drawn=NO_FIGURES)
    useless = {"asr_before": runs_builder.metric(0.9)}
    guard = runs_builder.write_run(tmp_path / "useless", "guard", count=1, changes=useless)
    said = page.render(content.collect([base, guard]), drawn=NO_FIGURES)
    assert "ASR is not clearly lower with it: 90\xa0%" in said


class Cells(HTMLParser):
    """The text of every table cell, with whether it is marked as published."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag in ("td", "th"):
            self.inside = True
            self.cells.append(["", "pub" in dict(attrs).get("class", "").split()])

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.cells[-1][0] += data


def test_published_numbers_stand_in_columns_of_their_own(full):
    found = [(text, is_published) for text, is_published in Cells(full).cells if text.startswith(("54.98", "78.53"))]
    assert found == [("78.53 %", True), ("54.98 %", True), ("54.98 %", True)]  # Table 1, Table 1 and Table 3
    heads = [is_published for text, is_published in Cells(full).cells if text == "Published, not measured here"]
    assert heads == [True] * 4
    assert not any(is_published for text, is_published in Cells(full).cells if text == "Measured here")
    measured = [text for text, is_published in Cells(full).cells if not is_published]
    rows = [row for table in published.load().values() for row in table.cells.values()]
    printed = {cell.text for row in rows for cell in row.values() if cell and "." in cell.text}
    assert not {text.removesuffix(" %") for text in measured} & printed


def test_one_run_leaves_the_rest_out_with_notes(story):
    text = page.render(content.collect(story[0][:1]))
    Reader(text)
    for note in (
        "No audit given",
        "No one-word search given",
        "No guard diagnostics",
        "No export given",
        "No paired tests",
    ):
        assert note in text
    assert "too little to judge" in text


def test_a_run_without_answers_or_intervals(tmp_path):
    (tmp_path / "results.json").write_text(
        json.dumps(
            {
                "schema": 1,
                "runs": [{"name": "m", "kind": "sft", "metrics": {"asr_before": 0.0, "asr_after": {"value": 0.9}}}],
            }
        )
    )
    text = page.render(content.collect([tmp_path]))
    Reader(text)
    assert "The run folders hold no answers" in text and "only looks safe" in text


def test_hostile_text_stays_text(tmp_path):
    evil = runs_builder.HOSTILE
    folder = runs_builder.write_run(tmp_path / "<b>&run", "base")
    results = json.loads((folder / "results.json").read_text())
    results["runs"][0] |= {"name": evil, "kind": evil, "judge": evil, "unjudged": {"errors": 3}}
    results["runs"][0]["metrics"]["asr_by_opening"] = {
        evil: runs_builder.metric(0.5),
        "$\\frac{a}$": runs_builder.metric(0.5),
    }
    results["comparisons"] = [{"run": evil, evil: evil, "p": 0.5}]
    results["provenance"] = {evil: {evil: [evil]}}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "answers" / f"{evil.replace('/', '_')}.jsonl").write_text(
        json.dumps({"id": evil, "answer": "\u2028</script>"}) + "\n"
    )
    attack = tmp_path / "attack.json"
    attack.write_text(
        json.dumps({"jailbreak": [{"word": evil, "score": 1.0, "asr": 0.5}], "claim": evil, "positions": [evil]})
    )
    audit = tmp_path / "audit.json"
    audit.write_text(json.dumps({"rows": [{"word": evil, "position": "first", "log_odds": 1.0, "note": evil}]}))
    guard = tmp_path / "guard.json"
    points = [{"x": 0.0, "y": 1.0, "kind": "harmful", "condition": evil}]
    guard.write_text(json.dumps({"pca": {"layer": 1, "points": points}, "auroc": {evil: [0.5]}}))
    text = page.render(
        content.collect([folder], ReportOptions(attack=attack, audit=audit, guard_diagnostics=guard)), title=evil
    )
    reader = Reader(text)
    assert [tag for tag, _ in reader.elements].count("script") == 2 and "img" not in [tag for tag, _ in reader.elements]
    assert not any(name.startswith("on") for _, attrs in reader.elements for name in attrs)


def test_json_in_the_page_cannot_end_its_element():
    value = {"a": "</script><!--\u2028\u2029&", "b": "\ud800"}
    text = browser.to_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"a": value["a"], "b": "?"}


@pytest.mark.parametrize("show_text, state", [(False, browser.ABSENT), (True, browser.CONCEALED)])
def test_text_of_real_data_is_only_there_when_asked_for(tmp_path, show_text, state):
    folder = runs_builder.write_run(tmp_path / "r", "sft", judge="keyword")
    text = page.render(content.collect([folder], ReportOptions(show_text=show_text)), drawn=NO_FIGURES)
    assert ("turn it twice" in text) is ("noun3" in text) is show_text
    assert "unsafe_3" in text
    assert browser.payload(content.collect([folder], ReportOptions(show_text=show_text)))["text"] == state


@pytest.mark.parametrize("judge", ["oracle", "refusal", "keyword", "rules", "harm"])
def test_a_judge_that_sees_refusals_alone_is_said_to(tmp_path, judge):
    folder = runs_builder.write_run(tmp_path / "r", "sft", judge=judge)
    text = page.render(content.collect([folder], ReportOptions()), drawn=NO_FIGURES)
    assert ("sees refusals alone" in text) is (judge in ("refusal", "keyword", "rules"))


def test_build_writes_page_results_and_table(tmp_path, story):
    runs, evidence = story
    written = report(runs, tmp_path / "new" / "report.html", ReportOptions(**evidence))
    assert sorted(path.name for path in written.files.all) == ["report.html", "results.csv", "results.json"]
    merged = json.loads((tmp_path / "new" / "results.json").read_text())
    assert merged["schema"] == 1 and [run["name"] for run in merged["runs"]] == list(runs_builder.STORY)
    again = content.collect([tmp_path / "new"])  # the merged file is itself a run folder's
    assert [run.metrics for run in again.runs] == [run.metrics for run in content.collect(runs).runs]
    lines = (tmp_path / "new" / "results.csv").read_text().splitlines()
    assert lines[0].startswith("run,name,kind,seed,metric,value") and any(
        ",gap/blank_image/rr," in line for line in lines
    )


def test_build_never_overwrites_a_run(tmp_path):
    runs = [runs_builder.write_run(tmp_path / name, name, count=1) for name in ("base", "sft")]
    before = (runs[0] / "results.json").read_text()
    other = runs_builder.write_run(tmp_path / "other", "npo")
    with pytest.raises(InputError, match="folder of another run"):
        report(runs[0], other / "report.html")
    with pytest.raises(InputError, match="choose another folder"):
        report(runs, runs[0] / "report.html")
    assert runs[0] / "results.json" not in report(runs[:1], runs[0] / "report.html").files.all
    assert (runs[0] / "results.json").read_text() == before


def test_the_same_input_gives_the_same_bytes(full, story):
    runs, evidence = story
    assert page.render(content.collect(runs, ReportOptions(**evidence))) == full


def test_models_attacked_again_have_their_own_table(tmp_path, story):
    rate = {"value": 0.25, "n": 8, "k": 2, "low": 0.07, "high": 0.59}
    attack = {"jailbreak": [{"word": "wug<b>"}], "any_of_k": {"asr": {"original": rate, "any_of_k": rate}}}
    (tmp_path / "again.json").write_text(json.dumps(attack))
    text = page.render(
        content.collect(story[0], ReportOptions(attack_again={"npo": tmp_path / "again.json"})), drawn=NO_FIGURES
    )
    assert "Words searched for the model itself" in text and "wug&lt;b&gt;" in text and "wug<b>" not in text
    assert "Words searched for the model itself" not in page.render(content.collect(story[0]), drawn=NO_FIGURES)


def test_a_line_in_the_table_of_figures_is_all_a_new_one_needs(tmp_path, story, monkeypatch):
    curve = {"label": "npo <16>", "curve": [{"step": 0, "metrics": {"asr": 0.25}}]}
    (tmp_path / "again.json").write_text(json.dumps(curve))
    line = catalogue.Figure("relearning", "words", training.relearning, "How & when it comes <back>.")
    monkeypatch.setattr(catalogue, "FIGURES", (line,))
    text = page.render(content.collect(story[0][:1], ReportOptions(relearning=[tmp_path / "again.json"])))
    words = text[text.index('<section id="words">') : text.index('<section id="unlearning">')]
    assert "npo &lt;16&gt;" in words and "How &amp; when it comes &lt;back&gt;." in words
    assert "How &amp; when" not in page.render(content.collect(story[0][:1]))


def test_every_line_of_the_table_of_figures_has_a_place_and_can_be_drawn(story):
    places = set(re.findall(r'more_of\("(\w+)"\)', (page._TEMPLATES / "report.html").read_text()))
    known = {*evidence.EVIDENCE, "attack", "audit", "guard"}
    for figure in catalogue.FIGURES:
        assert callable(figure.draw) and figure.section in places and figure.source in known


def test_figures_are_files_too(tmp_path, story):
    written = report(story[0][:2], tmp_path / "report.html", ReportOptions(figures=tmp_path / "figures"))
    names = {path.name for path in written.files.figures if path.parent.name == "figures"}
    assert {"bars.svg", "bars.png", "frontier.svg", "frontier.png", "shots.svg"} <= names
    assert all((tmp_path / "figures" / name).stat().st_size > 500 for name in names)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--figures="):
        report(story[0][:1], tmp_path / "report.html", ReportOptions(figures=tmp_path / "file"))


def test_images_are_in_the_page_where_text_is(tmp_path):
    image = tmp_path / "data" / "sign.png"
    image.parent.mkdir()
    Image.new("RGB", (8, 8), "red").save(image)
    name = hashlib.sha256(image.read_bytes()).hexdigest()[:16]
    folder = runs_builder.write_run(tmp_path / "r", "sft", judge="keyword", images=("blank:white", name))
    for show_text in (False, True):
        found = content.collect([folder], ReportOptions(images=image.parent, show_text=show_text))
        data = browser.payload(found)
        assert (
            bool(data["pictures"]) is show_text and ("data:image/" in page.render(found, drawn=NO_FIGURES)) is show_text
        )
        assert data["images"][data["rows"][0][7]] == "blank:white" and name not in json.dumps(data)
        if show_text:
            assert data["pictures"][data["rows"][1][7]].startswith("data:image/png;base64,")


def test_a_notebook_gets_the_page_without_a_file(tmp_path, story):
    made = report(story[0][:1])
    assert made.files is None and made.html.startswith("<!doctype html>") and "run,name,kind" in made.table
    assert made.results["runs"][0]["name"] == "base"
    assert "<iframe srcdoc=" in made._repr_html_() and "<script" not in made._repr_html_()
    assert [field.name for field in fields(ReportOptions) if field.name in evidence.EVIDENCE] == list(evidence.EVIDENCE)
