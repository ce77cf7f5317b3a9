"""Further files that the report can show, and the figures made of them: the one place to add a figure to the page."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Evidence:
    """A further JSON file of the report: `what` is the help of its flag; `rows` must be a list of objects in it."""

    what: str
    rows: str


@dataclass(frozen=True)
class Figure:
    """One figure made of such files: `draw` ("module.function" of this package) takes the list of their objects.

    `source` is a flag of EVIDENCE, or "attack", "audit", "guard" for the files of those names; `section` is the id of
    a section of the page. `draw` returns a `canvas.Drawing`, or None where there is nothing to draw. `rates`: keys of
    the rates it shows, for the number of questions behind the caption.
    """

    source: str
    section: str
    draw: str
    caption: str
    rates: tuple[str, ...] = ()


# A further figure is one line in FIGURES; if it reads a file of its own, one line here too: the flag of bin/report.
EVIDENCE = {
    "sweep": Evidence("sweep.json that bin/train wrote for a config with a sweep", "rows"),
    "relearning": Evidence("relearn.json of bin/relearn", "curve"),
    "saliency": Evidence("audit.json of bin/audit --saliency: which words of a question decide a refusal", "rows"),
    "methods": Evidence("attack.json of bin/attack with another --method than one_word", "rows"),
    "defences": Evidence("defences.json of bin/defences: defences by instruction setting and image", "rows"),
}
FIGURES = (
    Figure(
        "methods",
        "words",
        "figures_attack.methods",
        "Attacks by other means than one word, any of their tries, each beside a control of as many tries. 'Searched':"
        " the attack was made for the very questions it is measured on. Bars: 95 % intervals.",
        ("original", "control", "attack"),
    ),
    Figure(
        "audit",
        "words",
        "figures_audit.attribution",
        "Every dot a word: how strongly it goes with refusal in the training data, against what it does to the model's"
        " refusal margin (log-odds that the answer starts with a refusal) when it opens the question; beside it, where"
        " a second model was searched, how much of that is gone there (with the sign of the effect; the other sign: it"
        " has grown). Lines: 95 % intervals of the log odds; in brackets: of the correlation (r Pearson, ρ Spearman),"
        " by bootstrap over words.",
    ),
    Figure(
        "sweep",
        "unlearning",
        "figures_training.sweeps",
        "The points of a sweep on validation questions, as they stand and under every word put first; the worst asking"
        " of a question counts. Line: points that no other beats. Thin lines: 95 % intervals.",
        ("asr", "harmless_right"),
    ),
    Figure(
        "relearning",
        "unlearning",
        "figures_training.relearning",
        "Relearning attack: the model is fine-tuned further and asked again; the worst asking of a question counts. A"
        " line that rises early had hidden the harm, not removed it. Bars: 95 % intervals.",
        ("asr", "harmless_right", "rr"),
    ),
    Figure(
        "guard",
        "gap",
        "figures_defences.directions",
        "Left: the separation that a direction fitted inside each condition reaches on requests it has not seen; where"
        " it stays high, an image has turned the direction, not removed the difference. Middle: cosine of the text's"
        " direction with those of the conditions. Right: blank images of all kinds. The requests are those of the plot"
        " above.",
    ),
    Figure(
        "guard",
        "gap",
        "figures_defences.answers",
        "The same requests beside every kind of image: outcomes, perplexity and length of the answers. Bars: 95 %"
        " intervals.",
    ),
    Figure(
        "defences",
        "gap",
        "figures_defences.defences",
        "Defences side by side. Of several templates or words the worst counts. Bars: 95 % intervals.",
        ("asr", "rr_harmless"),
    ),
)


def questions(found: Any, rates: tuple[str, ...]) -> Iterator[int]:
    """The n of every rate of these names, at whatever depth of a file."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            n = value.get("n") if key in rates and isinstance(value, Mapping) else None
            yield from [n] if isinstance(n, int) else questions(value, rates)
    elif isinstance(found, list | tuple):
        for value in found:
            yield from questions(value, rates)
