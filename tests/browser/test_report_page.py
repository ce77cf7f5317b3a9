"""The report in a real headless Chromium: filters work, hidden text stays hidden, hostile text is inert, no network."""

import json
import shutil
import time

import pytest

from tests.report import runs_builder
from vlm_mu_jax.evaluation import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no chromium with chromedriver on this machine (Debian: chromium, chromium-driver)",
)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1280,900", "--force-prefers-reduced-motion",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def opened(browser, folder, runs, **inputs):
    """Builds the report, opens it and gives a picker of elements by id; the logs before it are dropped."""
    out = folder / "report.html"
    report.build(runs, out, **inputs)
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(out.as_uri())
    return lambda name: browser.find_element("id", name)


def rows(browser):
    return [row.text for row in browser.find_elements("css selector", "#rows tr")]


def choose(field, text):
    from selenium.webdriver.support.ui import Select

    Select(field).select_by_visible_text(text)


def requested(browser):
    """Every address the page asked for."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory, story):
    runs, evidence = story
    return opened(browser, tmp_path_factory.mktemp("page"), runs, **evidence)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    root = tmp_path_factory.mktemp("story")
    return runs_builder.write_story(root), runs_builder.write_evidence(root / "evidence")


def test_opens_without_errors_and_without_network(browser, page):
    assert [url for url in requested(browser) if not url.startswith(("file:", "data:"))] == []
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_opens_with_the_two_models_of_the_story_side_by_side(browser, page):
    assert page("f-run").get_property("value") and page("f-beside").get_property("value")
    assert "Answer of npo" in page("heads").text
    assert all("sft" in row and "npo answer" in row for row in rows(browser)[1:])


def test_hostile_answers_are_text(browser, page):
    page("f-text").clear()
    page("f-text").send_keys("hacked")
    assert runs_builder.HOSTILE in page("rows").text
    assert browser.execute_script("return window.hacked === undefined")
    assert browser.find_elements("css selector", "#rows script, #rows img") == []


def test_filters_narrow_and_clear_widens(browser, page):
    browser.find_element("css selector", "button[type=reset]").click()
    assert page("count").text == "240 of 240 answers"
    choose(page("f-run"), "rmu")
    assert page("count").text == "48 of 240 answers"
    choose(page("f-set"), "unsafe, after one word")
    assert page("count").text == "12 of 240 answers"
    choose(page("f-label"), "refused")
    assert page("count").text == "4 of 240 answers"
    assert all("rmu" in row and "refused" in row and "“what”" in row for row in rows(browser))
    choose(page("f-word"), "share")
    assert page("count").text == "0 of 240 answers" and rows(browser) == []


def test_pages_turn_by_keyboard(browser, page):
    from selenium.webdriver.common.keys import Keys

    browser.find_element("css selector", "button[type=reset]").send_keys(Keys.ENTER)
    first = rows(browser)
    assert page("where").text == "page 1 of 20" and not page("previous").is_enabled()
    page("next").send_keys(Keys.ENTER)
    assert page("where").text == "page 2 of 20" and rows(browser) != first
    page("previous").send_keys(Keys.SPACE)
    assert rows(browser) == first


def test_every_control_is_reached_with_tab_and_has_a_name(browser, page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    wanted = {"f-run", "f-beside", "f-set", "f-label", "f-word", "f-text"}
    page("f-run").click()
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    seen = set()
    for _ in range(8):
        seen.add(browser.switch_to.active_element.get_attribute("id"))
        ActionChains(browser).send_keys(Keys.TAB).perform()
    assert wanted <= seen
    assert all(page(name).accessible_name for name in wanted)


def test_dark_and_light_differ_and_both_can_be_read(browser, page):
    grounds = []
    for theme in ("dark", "light"):
        media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        colors = browser.execute_script(
            "const of = (selector) => getComputedStyle(document.querySelector(selector));"
            "return [of('body').backgroundColor, of('body').color, of('.intro').color, of('.plot text').fill]"
        )
        ground, *texts = [luminance(color) for color in colors]
        grounds.append(ground)
        for text in texts:
            assert (max(ground, text) + 0.05) / (min(ground, text) + 0.05) >= 4.5  # WCAG AA
    assert grounds[0] < 0.05 < 0.8 < grounds[1]


def luminance(color: str) -> float:
    """Relative luminance (WCAG) of "rgb(r, g, b)"."""
    parts = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_real_text_is_hidden_until_asked_for(browser, tmp_path):
    run = runs_builder.write_run(tmp_path / "r", "sft", judge="keyword")
    page = opened(browser, tmp_path, [run], show_text=True)
    assert "turn it twice" not in browser.find_element("css selector", "body").text
    page("f-text").send_keys("blick")
    assert page("count").text == "0 of 48 answers", "hidden text must not be searchable either"
    page("f-text").clear()
    page("f-text").send_keys("unsafe_")
    page("reveal").click()
    assert "turn it twice" in page("rows").text and page("reveal").get_attribute("aria-pressed") == "true"
    page("reveal").click()
    assert "turn it twice" not in page("rows").text


def test_ten_thousand_answers_stay_quick(browser, tmp_path):
    runs = [runs_builder.write_run(tmp_path / name, name, count=1250) for name in ("base", "sft")]
    page = opened(browser, tmp_path, runs)
    browser.find_element("css selector", "button[type=reset]").click()
    assert page("count").text == "10000 of 10000 answers"
    made = [row for name in ("base", "sft") for rows in runs_builder.answers(name, 1250).values() for row in rows]
    expected = sum(row["labels"]["oracle"]["label"] == "answered" for row in made)
    start = time.monotonic()
    choose(page("f-label"), "answered")
    assert (
        page("count").text == f"{expected} of 10000 answers" and time.monotonic() - start < 5
    )  # slow shared machines; about 0.1 s alone
    assert len(rows(browser)) == 12
