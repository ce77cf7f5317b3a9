"""The table of docs/defences.md says what the files in docs/measured/defences say."""

import json
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"
SEEDS = (0, 1, 3)
HEAD = (
    "defence",
    "as asked",
    "any of 3 searched words",
    "the language model refuses",
    "ASR where it refuses (n)",
    "harmless refused: as asked",
    "behind the words",
    "utility",
    "tokens",
)


def percent(metric, interval=False, n=False):
    if metric["value"] is None:
        return "–"
    text = f"{100 * metric['value']:.0f}"
    text += f" [{100 * metric['low']:.0f}, {100 * metric['high']:.0f}]" if interval else ""
    return text + (f" ({metric['n']})" if n else "")


def cells(row):
    asked, words = (row["metrics"]["settings"][name]["own_image"] for name in ("direct", "one_word"))
    alone = row["defence"]["language_model"]
    return (
        percent(asked["asr"]),
        percent(words["asr"], interval=True),
        percent(alone["refused"]),
        percent(alone["asr_where_refused"], interval=True, n=True),
        percent(asked["rr_harmless"]),
        percent(words["rr_harmless"]),
        percent(row["metrics"]["utility"]),
        f"{row['defence']['tokens_per_question']:.0f}",
    )


def measured():
    return [json.loads((DOCS / "measured" / "defences" / f"seed{seed}.json").read_text()) for seed in SEEDS]


def table():
    """A row per defence, the seeds beside each other in every cell."""
    files = measured()
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for rows in zip(*(file["rows"] for file in files), strict=True):
        (name,) = {row["name"] for row in rows}
        merged = (" / ".join(cell) for cell in zip(*map(cells, rows), strict=True))
        lines.append(f"| `{name}` | " + " | ".join(merged) + " |")
    return "\n".join(lines)


def test_the_table_is_what_was_measured():
    assert f"<!-- figures -->\n\n{table()}\n\n<!-- end figures -->" in (DOCS / "defences.md").read_text()


def short_row(name, said):
    """A row of the table in docs/guards.md: the same figures without intervals."""
    rows = [row for file in measured() for row in file["rows"] if row["name"] == name]
    asked, words, _, alone, harmless, worded = ([cells(row)[k].split(" ")[0] for row in rows] for k in range(6))
    parts = (
        said,
        *(" / ".join(some) for some in (asked, words, alone)),
        f"{', '.join(harmless)} / {', '.join(worded)}",
    )
    return "| " + " | ".join(parts) + " |"


def test_the_guides_table_is_a_part_of_it():
    text = (DOCS / "guards.md").read_text()
    rows = {
        "guard": "as selected",
        "erased": "the same, `--erased_words=1`",
        "always": "the same, gate always open",
        "unlearned+guard": "`--erased_words=1`, on the NPO model",
    }
    for name, said in rows.items():
        assert short_row(name, said) in text
