"""All figures of a page: those that the page's template names, and those of FIGURES, made of further files.

A figure of your own is one line in FIGURES: the file it is made from, the section it stands in, the function that
draws it, its caption.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vlm_mu_jax.reporting import wording
from vlm_mu_jax.reporting.figures import (
    attacks,
    canvas,
    defences,
    hidden_states,
    holds,
    models,
    shots,
    training,
    turns,
    word_effects,
    words,
)
from vlm_mu_jax.reporting.figures.canvas import Drawing
from vlm_mu_jax.reporting.inputs.content import Content


@dataclass(frozen=True)
class Figure:
    """One figure made of further files.

    Attributes:
      source: a name of `inputs.evidence.EVIDENCE`, or "attack", "audit", "guard" for the files of those names.
      section: the id of a section of the page.
      draw: takes the list of the files' objects; None where there is nothing to draw.
      caption: the sentences below it.
      rates: keys of the rates it shows, for the number of questions at the caption's end.
    """

    source: str
    section: str
    draw: Callable[[list[dict[str, Any]]], Drawing | None]
    caption: str
    rates: tuple[str, ...] = ()


FIGURES = (
    Figure(
        "methods",
        "words",
        attacks.methods,
        "Attacks by other means than one word, any of their tries, each beside a control of as many tries. 'Searched':"
        " the attack was made for the very questions it is measured on. Bars: 95 % intervals.",
        ("original", "control", "attack"),
    ),
    Figure(
        "audit",
        "words",
        word_effects.attribution,
        "Every dot a word: how strongly it goes with refusal in the training data, against what it does to the model's"
        " refusal margin (log-odds that the answer starts with a refusal) when it opens the question; beside it, where"
        " a second model was searched, how much of that is gone there (with the sign of the effect; the other sign: it"
        " has grown). Lines: 95 % intervals of the log odds; in brackets: of the correlation (r Pearson, ρ Spearman),"
        " by bootstrap over words.",
    ),
    Figure(
        "sweep",
        "unlearning",
        training.sweeps,
        "The points of a sweep on validation questions, as they stand and under every word put first; the worst asking"
        " of a question counts. Line: points that no other beats. Thin lines: 95 % intervals.",
        ("asr", "harmless_right"),
    ),
    Figure(
        "relearning",
        "unlearning",
        training.relearning,
        "Relearning attack: the model is fine-tuned further and asked again; the worst asking of a question counts. A"
        " line that rises early had hidden the harm, not removed it. Bars: 95 % intervals.",
        ("asr", "harmless_right", "rr"),
    ),
    Figure(
        "holds",
        "unlearning",
        holds.situations,
        "What holds: each model in every situation. Grey strokes: the control of the same row (null words, random"
        " suffixes, the weights before, training on harmless examples). Bars: 95 % intervals.",
        ("rate", "control"),
    ),
    Figure(
        "holds",
        "unlearning",
        holds.depth,
        "How deep: the share of the tokens of harmful answers that can be read off each layer while the model is shown"
        " them. Where the model's own head no longer reads them and a linear probe does, the answer is still there."
        " Dashed: what the place and the token before give. Bars: 95 % intervals, which take tokens as independent.",
    ),
    Figure(
        "guard",
        "gap",
        defences.directions,
        "First the separation that a direction fitted inside each condition reaches on requests it has not seen; where"
        " it stays high, an image has turned the direction, not removed the difference. Then the cosine of the text's"
        " direction with those of the conditions, and blank images of all kinds. The requests are those of the plot"
        " above.",
    ),
    Figure(
        "guard",
        "gap",
        defences.answers,
        "The same requests beside every kind of image: outcomes, perplexity and length of the answers. Bars: 95 %"
        " intervals.",
    ),
    Figure(
        "defences",
        "gap",
        defences.defences,
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


@dataclass(frozen=True)
class Drawn:
    """The figures of a page: `named` stand where the template names them, `more` are those of FIGURES by section."""

    named: dict[str, Drawing | None]
    more: dict[str, list[tuple[Drawing, str]]]  # with captions

    @property
    def all(self) -> list[Drawing]:
        return [*filter(None, self.named.values()), *(drawing for group in self.more.values() for drawing, _ in group)]


def draw(content: Content) -> Drawn:
    """All figures, None where the input is missing. Seeds share a figure as long as it stays readable."""
    runs = content.runs
    named: dict[str, Callable[[], Drawing | None]] = {
        "bars": lambda: models.main_bars(runs),
        "composition": lambda: models.composition(runs),
        "frontier": lambda: models.frontier(runs),
        "openings": lambda: models.openings(runs),
        "shots": lambda: shots.k_curve(runs),
        "turns": lambda: turns.asr_by_turn(runs),
        "gap": lambda: models.alignment_gap(runs),
        "audit": lambda: words.word_audit(content.audit) if content.audit else None,
        "search": lambda: words.one_word_search(content.attack) if content.attack else None,
        "pca": lambda: hidden_states.hidden_states(content.guard) if content.guard else None,
        "auroc": lambda: hidden_states.separation(content.guard) if content.guard else None,
        "training": lambda: training.training_curves(content.training),
    }
    more: dict[str, list[tuple[Drawing, str]]] = {}
    for figure in FIGURES:
        files = content.files(figure.source)
        if files and (drawing := _twice(lambda draw=figure.draw, files=files: draw(files))):
            asked = wording.size_range(questions(files, figure.rates))
            caption = f"{figure.caption} Questions: {asked}." if asked else figure.caption
            more.setdefault(figure.section, []).append((drawing, caption))
    return Drawn({name: _twice(draw) for name, draw in named.items()}, more)


def _twice(draw: Callable[[], Drawing | None]) -> Drawing | None:
    """A figure with its form for a phone."""
    drawing = draw()
    if drawing:
        with canvas.narrow():
            drawing.narrow = draw()
    return drawing
