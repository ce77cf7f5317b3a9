"""The report in a real headless Chromium: filters work, hidden text stays hidden, hostile text is inert, no network."""

import hashlib
import json
import shutil
import time

import pytest
from PIL import Image

from tests.reporting import runs_builder
from vlm_mu_jax import report
from vlm_mu_jax.reporting import ReportOptions

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no chromium with chromedriver on this machine (Debian: chromium, chromium-driver)",
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
    "--force-prefers-reduced-motion",
)

FIRST_PAINT = "return performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)[0]"


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
    report(runs, out, ReportOptions(**inputs))
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
    evidence = runs_builder.write_evidence(root / "evidence")
    image = root / "data" / "sign.png"
    image.parent.mkdir()
    Image.new("RGB", (8, 8), "red").save(image)
    name = hashlib.sha256(image.read_bytes()).hexdigest()[:16]
    runs = runs_builder.write_story(root, images=(name, "blank:white", "0" * 16))
    return runs, {**evidence, "images": image.parent}


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
    assert browser.find_elements("css selector", "#rows script, #rows [onerror]") == []
    sources = [image.get_attribute("src") for image in browser.find_elements("css selector", "#rows img")]
    assert all(source.startswith("data:image/png;base64,") for source in sources)


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


def test_labels_are_counted_and_differences_found(browser, page):
    browser.find_element("css selector", "button[type=reset]").click()
    assert not page("f-differ").is_enabled()
    choose(page("f-run"), "sft")
    assert sorted(page("tally").text.split("\n")) == ["16 answered", "16 irrelevant", "16 refused"]
    choose(page("f-beside"), "npo")  # names of one length: the invented labels are the same
    page("f-differ").click()
    assert page("count").text == "0 of 240 answers"
    choose(page("f-beside"), "base")
    assert page("count").text == "48 of 240 answers"
    for row in browser.find_elements("css selector", "#rows tr"):
        mine, other = [chip.text for chip in row.find_elements("css selector", ".chip")]
        assert mine != other
    browser.find_element("css selector", "button[type=reset]").click()
    assert page("count").text == "240 of 240 answers" and not page("f-differ").is_selected()


def test_images_stand_beside_the_question(browser, page):
    browser.find_element("css selector", "button[type=reset]").click()
    lines = browser.find_elements("css selector", "#rows tr")[:3]
    shown = [line.find_elements("css selector", "img") for line in lines]
    assert [len(images) for images in shown] == [1, 0, 0]
    assert browser.execute_script("return arguments[0].naturalWidth", shown[0][0]) == 8
    assert "harmless_0" in shown[0][0].get_attribute("alt") and "blank image, white" in lines[1].text


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

    wanted = ["f-run", "f-beside", "f-set", "f-label", "f-word", "f-text", "f-differ"]  # in the order of the eye
    choose(page("f-beside"), "npo")  # with nothing beside it there is no difference to ask for
    page("f-run").click()
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    seen = []
    for _ in range(9):
        active = browser.switch_to.active_element
        seen.append(active.get_attribute("id"))
        outline = browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", active)
        assert outline != "none" or len(seen) == 1, f"{seen[-1]}: focus by keyboard must be seen"
        ActionChains(browser).send_keys(Keys.TAB).perform()
    assert [name for name in seen if name in wanted] == wanted
    assert all(page(name).accessible_name for name in wanted)


def test_tab_starts_at_a_link_past_the_navigation_and_reaches_every_part(browser, page):
    order = browser.execute_script(
        "const all = [...document.querySelectorAll('a[href], button, select, input, summary, [tabindex]')];"
        "return all.map((element) => [element.tabIndex, element.className, element.textContent.trim().slice(0, 20)]);"
    )
    assert order[0][1] == "skip" and {index for index, *_ in order} == {0}, "no order of its own, nothing left out"
    unreachable = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter((part) => part.tabIndex !== 0 || !part.ariaLabel &&"
        " !part.getAttribute('aria-labelledby')).length"
    )
    assert unreachable == 0, "what scrolls must scroll by keyboard, and have a name"


@pytest.mark.parametrize("width", [360, 420, 768, 1280])
def test_nothing_hangs_out_of_the_page_at_any_width(browser, page, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.fixture
def phone(browser, page):
    size = {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_on_a_phone_every_letter_of_a_figure_can_be_read(browser, page, phone):
    """Each figure shows the form drawn for a phone: whole, inside its card, letters of 10 pixels and more."""
    figures = browser.execute_script("""
        return [...document.querySelectorAll("figure")].map((figure) => {
            const shown = [...figure.querySelectorAll(".plot")].filter((plot) => plot.offsetWidth > 0);
            const svg = shown[0].querySelector("svg"), box = svg.getBoundingClientRect();
            const scale = box.width / svg.viewBox.baseVal.width;
            const texts = [...svg.querySelectorAll("text")];
            const letters = texts.map((text) => parseFloat(getComputedStyle(text).fontSize));
            const right = Math.max(...texts.map((text) => text.getBoundingClientRect().right));
            return [shown.length, scale * Math.min(...letters), box.right <= figure.getBoundingClientRect().right,
                    right <= figure.getBoundingClientRect().right];
        });
    """)
    assert len(figures) == 11
    for count, letters, inside, text_inside in figures:
        assert count == 1 and letters >= 10 and inside and text_inside


def test_on_a_phone_tables_stack_or_say_that_they_scroll(browser, page, phone):
    """No column is cut off in silence: a table fits its card, or a visible hint says how to see the rest."""
    browser.execute_script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    time.sleep(0.3)  # the toggle events follow
    parts = browser.execute_script("""
        return [...document.querySelectorAll(".scroll")].filter((part) => part.offsetWidth > 0).map((part) =>
            [part.scrollWidth > part.clientWidth + 1, part.previousElementSibling.offsetHeight > 0,
             part.previousElementSibling.className, part.getAttribute("aria-label") || ""]);
    """)
    assert len(parts) > 8
    for wider, hinted, name, label in parts:
        assert name.startswith("hint") and wider == hinted, label
    stacked = {label for wider, _, _, label in parts if not wider}
    assert {"The main table", "The gap as a table", "Words searched for the model itself"} <= stacked
    labels = browser.execute_script(
        "return getComputedStyle(document.querySelector('table.main td'), '::before').content"
    )
    assert "Harmful answers (ASR), before" in labels, "a stacked cell says what it is"


def test_prints_without_the_controls(browser, page):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not browser.find_element("css selector", ".filters").is_displayed()
        assert browser.find_element("css selector", "table.main").is_displayed()
        ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(255, 255, 255)"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


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
    word = {"word": "wugwug", "removal": 2.0, "gradient_x_input": -1.0}
    asked = {"saliency": {"questions": [{"id": "q", "kind": "unsafe", "words": [word]}]}}
    (tmp_path / "audit.json").write_text(json.dumps(asked))
    page = opened(browser, tmp_path, [run], show_text=True, audit=tmp_path / "audit.json")
    shown = browser.find_element("css selector", "body")
    assert "turn it twice" not in shown.text and "wugwug" not in shown.text
    browser.find_element("css selector", ".saliency summary").click()
    assert "wugwug" in shown.text
    page("f-text").send_keys("blick")
    assert page("count").text == "0 of 48 answers", "hidden text must not be searchable either"
    page("f-text").clear()
    page("f-text").send_keys("unsafe_")
    page("reveal").click()
    assert "turn it twice" in page("rows").text and page("reveal").get_attribute("aria-pressed") == "true"
    page("reveal").click()
    assert "turn it twice" not in page("rows").text


def test_ten_thousand_answers_stay_quick(browser, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    runs = [runs_builder.write_run(tmp_path / name, name, count=1250) for name in ("base", "sft")]
    page = opened(browser, tmp_path, runs)
    paints = []
    for _ in range(3):  # the best of three: the machine may be busy with other things
        browser.get(browser.current_url)
        paints.append(WebDriverWait(browser, 30).until(lambda page: page.execute_script(FIRST_PAINT)))
    assert min(paints) <= 2000, f"first paint after {paints} ms"
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
