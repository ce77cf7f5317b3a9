"""The report in a real Chromium: hostile text in every field, and many answers.

    .venv/bin/python -m tests.campaigns.report --strings=1000 --answers=50000 --out=/tmp/report

Strings of the runs' and the evidence's files, in every field of free text (FREE), are replaced by hostile ones, half of
them outside the answers. The campaign fails when a script of
such a string runs, when an element of it comes into being, when the console says anything, when the page asks for an
address, or when the page of many answers paints later than PAINT seconds. docs/reliability.md has the figures.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAINT = 2.0
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
HACK = "window.hacked=1"
STRINGS = (
    f"<script>{HACK}</script>",
    f"</script><script>{HACK}</script>",
    f"<img src=x onerror={HACK}>",
    f"<svg onload={HACK}>",
    f'"><svg/onload={HACK}>',
    f"'><iframe srcdoc='<script>parent.{HACK[7:]}</script>'>",
    f"<!--<script>{HACK}",
    f"--><script>{HACK}</script>",
    f"]]><script>{HACK}</script>",
    f"javascript:{HACK}",
    f"</style><script>{HACK}</script>",
    f"</textarea></title><script>{HACK}</script>",
    f"`${{{HACK}}}`",
    f"{{{{constructor.constructor('{HACK}')()}}}}",
    f"\u2028{HACK}//",
    f"\\u003cscript>{HACK}\\u003c/script>",
    f'" autofocus onfocus={HACK} x="',
    f"' style=animation-name:x onanimationstart={HACK} '",
    "<base href=https://example.invalid/><link rel=stylesheet href=//example.invalid/x>",
    "<meta http-equiv=refresh content=0;url=https://example.invalid>",
    "\u202eevil\u202c\x00\x1b[31m",
    "&lt;script&gt;" + HACK,
    "=cmd|' /C calc'!A0",
    "x" * 5000,
)
FREE = (
    "name",
    "question",
    "answer",
    "word",
    "id",
    "text",
    "run",
    "baseline",
    "image_id",
    "prompt_sha",
    "model",
    "judge",
)


def hostile(rng: random.Random, number: int) -> str:
    """One of STRINGS, with a number that makes it the only one of its kind, between other text at times."""
    text = rng.choice(STRINGS).replace(HACK, f"window.hacked={number}")
    return rng.choice(("{}", "{}", "a {} b", "\n{}\t")).format(text)


def strings(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every string in a JSON value."""
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(one, str):
            yield (*path, key)
        else:
            yield from strings(one, (*path, key))


def replaced(value: Any, path: tuple, text: str) -> Any:
    """`value` with the string at `path` replaced, in place."""
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = text


def spoil(folder: Path, files: list[Path], rng: random.Random, count: int) -> int:
    """Puts `count` hostile strings into fields of free text of the files; returns how many."""
    values = {file: _read(file) for file in files}
    fields = [(file, path) for file, value in values.items() for path in strings(value) if _free(path)]
    rng.shuffle(fields)
    for number, (file, path) in enumerate(fields[:count]):
        replaced(values[file], path, hostile(rng, number))
    for file, value in values.items():
        lines = value if file.suffix == ".jsonl" else [value]
        file.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return min(count, len(fields))


def _read(file: Path) -> Any:
    text = file.read_text()
    return [json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else json.loads(text)


def _free(path: tuple) -> bool:
    return next((key for key in reversed(path) if isinstance(key, str)), "") in FREE


def story(folder: Path, rng: random.Random, count: int, answers: int) -> tuple[list[Path], dict, dict[str, int]]:
    """Runs and evidence with `count` hostile strings, `answers` answers over all runs.

    Results and evidence have fewer fields of free text than there are strings; the answers take what is left.

    Returns:
      the runs, the evidence as the report takes it, and how many strings stand in which kind of file.
    """
    from tests.reporting import runs_builder

    evidence = runs_builder.write_evidence(folder / "evidence")
    per_set = -(-answers // (4 * len(runs_builder.STORY)))
    runs = runs_builder.write_story(folder, count=max(per_set, 12))
    answer_files = sorted(folder.glob("*_0/answers/*.jsonl"))
    others = [*folder.glob("*_0/results.json"), *folder.glob("evidence/*.json")]
    made = spoil(folder, sorted(others), rng, count // 2)
    return runs, evidence, {"results and evidence": made, "answers": spoil(folder, answer_files, rng, count - made)}


def opened(page: Path) -> dict:
    """What a Chromium makes of the page: {faults, first_paint_seconds}."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            browser.get(page.as_uri())
            return _seen(browser)
        finally:
            browser.quit()


def _seen(browser: Any) -> dict:
    browser.execute_script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    for field in browser.execute_script("return [...document.querySelectorAll('select')].map((field) => field.id)"):
        browser.execute_script(
            "const field = document.getElementById(arguments[0]); if (!field) return;"
            "for (const option of [...field.options].slice(0, 12)) {"
            " field.value = option.value; field.dispatchEvent(new Event('change', {bubbles: true})); }"
            "field.selectedIndex = 0; field.dispatchEvent(new Event('change', {bubbles: true}));",
            field,
        )
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    console = [entry["message"] for entry in browser.get_log("browser")]
    made = ("iframe", "base", "meta[http-equiv=refresh]", "a[href^=javascript]")
    marks = ", ".join((*made, "[onerror]", "[onload]", "[onfocus]", "[onanimationstart]"))
    faults = {
        "a script ran": browser.execute_script("return window.hacked === undefined ? null : String(window.hacked)"),
        "an element came of a string": browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.outerHTML.slice(0, 200))", marks
        ),
        "asked for": [url[:200] for url in urls if not url.startswith(("file:", "data:", "chrome"))],
        "the console said": console[:5],
    }
    paint = "return performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)[0]"
    found = [f"{what}: {seen}" for what, seen in faults.items() if seen]
    return {"faults": found, "first_paint_seconds": round((browser.execute_script(paint) or 1e6) / 1000, 2)}


def campaign(out: Path, count: int, answers: int, seed: int) -> dict:
    """Builds the page and opens it; the figures, with faults."""
    from vlm_mu_jax import report
    from vlm_mu_jax.reporting import ReportOptions

    shutil.rmtree(out, ignore_errors=True)
    runs, evidence, made = story(out, random.Random(seed), count, answers)
    page = out / "report.html"
    report(runs, page, ReportOptions(**evidence))
    figures = {"seed": seed, "strings": made, "answers": answers, "page_MB": round(page.stat().st_size / 1e6, 1)}
    figures |= opened(page)
    if figures["first_paint_seconds"] > PAINT:
        figures["faults"].append(f"first paint after {figures['first_paint_seconds']} s")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strings", type=int, default=1000)
    parser.add_argument("--answers", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    figures = campaign(given.out, given.strings, given.answers, given.seed)
    (given.out / "figures.json").write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))
    sys.exit(bool(figures["faults"]))


if __name__ == "__main__":
    main()
