"""Turns a matplotlib figure into inline SVG that follows the page's colours, in light and in dark, and into files.

matplotlib writes fixed colours, but a page has two themes. So every figure is drawn in the colours of the light theme,
one per role (`ink`, `asr` ... below). In the SVG text they become CSS variables, and the page decides their look.
Text stays text: it can be searched and read aloud. matplotlib's own XML writer escapes a hostile label.

Every figure is drawn twice: wide, and inside `narrow()` for a phone, where the panels stand one under the other and the
letters keep their size.
"""

import contextlib
import contextvars
import html
import io
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure
from matplotlib.text import Text

from vlm_mu_jax.files import outputs

# Roles of colour, the same in every figure. The page's style sheet gives each a colour-blind safe value per theme.
ROLES = ("ink", "muted", "line", "card", "asr", "rr", "right", "ir", "utility", "null", "accent")
_CSS = (Path(__file__).parents[1] / "page" / "templates" / "report.css").read_text(encoding="utf-8")
_LIGHT = {role: re.search(rf"--{role}: (#[0-9a-f]{{6}})", _CSS)[1] for role in ROLES}  # the first is the light theme's
_ROLE_OF = {color: f"var(--{role})" for role, color in _LIGHT.items()}  # one colour, one role: a test holds that
_DOTS_PER_INCH = 200
_WIDE, _PHONE = 10.0, 3.7  # inches; the phone's width makes 8 points about 11 pixels on a screen of 420
_LETTER = 4.8  # points that one letter of a legend or an axis label takes, about
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_narrow = contextvars.ContextVar("narrow", default=False)

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",  # the same figure gives the same bytes
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.parse_math": False,  # a dollar sign in a word is a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


class Drawing(str):
    """One figure as inline SVG, that is as text; `name` and `figure` serve to write it to files.

    `narrow` is the same figure for a phone, where it was drawn.
    """

    name: str
    figure: Figure
    narrow: "Drawing | None" = None


def color(role: str) -> str:
    """The colour to draw a role in. Raises KeyError for a role the page does not know."""
    return _LIGHT[role]


def style():
    """The drawing style of every figure, as a context manager."""
    themed = {
        **dict.fromkeys(("text.color", "axes.titlecolor"), color("ink")),
        **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), color("muted")),
        **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), color("line")),
    }
    return matplotlib.rc_context({**_STYLE, **themed})


@contextlib.contextmanager
def narrow() -> Iterator[None]:
    """Figures drawn inside are for a phone."""
    token = _narrow.set(True)
    try:
        yield
    finally:
        _narrow.reset(token)


def panels(columns: int, height: float, *, rows: int = 1, width: float = _WIDE, share_y: bool = True, ratios=None):
    """A figure [inches] with `rows` x `columns` axes as a flat list, transparent, ready to draw on.

    On a phone the axes stand one under the other, each as high as it would be side by side.
    """
    grid, share = {"width_ratios": ratios} if ratios else None, "row" if share_y else False
    if _narrow.get():
        rows, columns, height, width, grid = rows * columns, 1, height * columns, _PHONE, None
        share = share_y
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots(rows, columns, sharey=share, squeeze=False, gridspec_kw=grid)
    for axis in axes.flat:
        axis.patch.set_alpha(0)
    return figure, list(axes.flat)


def tiled(count: int, most: int) -> tuple[int, int]:
    """(columns, rows) for `count` panels, at most `most` in a row, the rows as equal as can be: 3 x 2 for 6 by 5."""
    rows = count if _narrow.get() else -(-count // most)
    return -(-count // rows), rows


def legend(figure: Figure, handles: Sequence, labels: Sequence[str], columns: int, **options) -> None:
    """One legend above all panels, in at most `columns` columns, in fewer where a phone has no room for them."""
    if not labels:
        return
    room = 72 * figure.get_figwidth() / (_LETTER * max(map(len, labels)) + 34)
    columns = max(1, min(columns, int(room)))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, **options)


def legend_beside(axis, **options):
    """The legend of a single panel: to its right, or above it on a phone. Returns matplotlib's legend."""
    if _narrow.get():
        handles, labels = axis.get_legend_handles_labels()
        return axis.figure.legend(handles, labels, loc="outside upper left", ncols=1, **options)
    return axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), labelspacing=0.9, **options)


def percent_axis(axis, which: str = "x", room: float = 0.0, steps: int = 4) -> None:
    """Marks one axis 0 to 100 % with light grid lines, in `steps` parts. `room` leaves space for labels past 100 %."""
    low = -0.03 if room == 0 else 0.0
    getattr(axis, f"set_{which}lim")(low, 1.03 + room)
    parts = [100 * step // steps for step in range(steps)]
    getattr(axis, f"set_{which}ticks")([p / 100 for p in parts] + [1.0], [*map(str, parts), "100 %"])
    axis.grid(axis=which, linewidth=0.7)


def whisker(axis, low, high, at, role: str, *, vertical: bool = False, width: float = 1.3) -> None:
    """One interval line, or nothing when the interval is unknown."""
    if low is None or high is None:
        return
    ends = ([at, at], [low, high]) if vertical else ([low, high], [at, at])
    axis.plot(*ends, color=color(role), linewidth=width, solid_capstyle="round", zorder=3)


def to_svg(figure: Figure, name: str, title: str) -> Drawing:
    """The figure as one `<svg>` element: `name` keeps its ids apart from other figures, `title` is its spoken name."""
    if _narrow.get():
        name = f"{name}-narrow"
        _wrap(figure)
    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    _saved(figure, stream, format="svg", metadata=nothing)
    text = _CONTROL.sub(" ", stream.getvalue())  # names come from files, and XML has no such characters
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r'\b(id="|href="#|clip-path="url\(#)', rf"\1{name}-", text)
    text = re.sub(r'(?<=style=")[^"]*', lambda found: _recolor(found[0]), text)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    head = f'<svg viewBox="0 0 {size[1]} {size[2]}" role="img" aria-label="{html.escape(title)}">'
    drawing = Drawing(re.sub(r"<svg[^>]*>", lambda _: head, text, count=1).strip())
    drawing.name, drawing.figure = name, figure
    return drawing


def _saved(figure: Figure, to: io.BytesIO | io.StringIO | Path, **options) -> None:
    """Without a word on letters that matplotlib's own font lacks: names may be in any script."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(to, **options)


def _wrap(figure: Figure) -> None:
    """Breaks titles and axis labels that a phone has no room for."""
    letters = int(0.8 * 72 * figure.get_figwidth() / _LETTER)
    for axis in figure.axes:
        tall = max(18, int(0.8 * 72 * figure.get_figheight() / len(figure.axes) / _LETTER))
        axis.set_xlabel(_broken(axis.get_xlabel(), letters))
        axis.set_ylabel(_broken(axis.get_ylabel(), tall))
        title = axis.get_title(loc="left")
        for text in axis.findobj(lambda artist, title=title: isinstance(artist, Text) and artist.get_text() == title):
            text.set_text(_broken(title, letters + 8))  # `set_title` would take its size and weight away


def _broken(text: str, letters: int) -> str:
    return "\n".join(textwrap.fill(" ".join(line.split()), letters) for line in text.split("\n")) if text else text


def standalone(svg: str) -> str:
    """The text of an .svg file that looks as the figure does on the page in its light theme."""
    text = re.sub(r"var\(--(\w+)\)", lambda found: _LIGHT[found[1]], svg)
    text = text.replace("font-family: inherit", "font-family: sans-serif")
    return text.replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" style="background: {color("card")}" ', 1)


def save(drawing: Drawing, folder: Path) -> list[Path]:
    """Writes a figure to `folder` as NAME.svg and NAME.png, as it looks on the light page. Returns the two paths."""
    svg, png = (folder / f"{drawing.name}{ending}" for ending in (".svg", ".png"))
    outputs.write_text(svg, standalone(drawing))
    drawing.figure.patch.set_alpha(None)  # a file has no page behind it
    with outputs.complete_file(png) as partial:
        _saved(drawing.figure, partial, dpi=_DOTS_PER_INCH, facecolor=color("card"))
    return [svg, png]


def _recolor(declarations: str) -> str:
    """Colours of roles become CSS variables and the font becomes the page's own."""
    declarations = re.sub(r"#[0-9a-f]{6}\b", lambda found: _ROLE_OF.get(found[0], found[0]), declarations)
    return re.sub(
        r"font-family: [^;]*", "font-family: inherit", declarations.replace("font-weight: 700", "font-weight: 600")
    )
