"""The papers' own numbers, read from third_party/published/*.csv: never mixed with what was measured here."""

import csv
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from vlm_mu_jax.errors import InputError

_COLUMNS = ("row", "column", "value", "unit", "source", "trust", "note")
# A checkout keeps the tables with other people's work; a wheel installs them under share/ (see pyproject.toml).
_CHECKOUT = Path(__file__).parents[3] / "third_party" / "published"
_INSTALLED = Path("share", "vlm_mu_jax", "published")


@dataclass(frozen=True)
class PublishedNumber:
    """One published number as printed (`text`, empty when no value was found), with where it is from."""

    text: str
    unit: str
    source: str
    trust: str
    note: str


@dataclass(frozen=True)
class PublishedTable:
    """A published table: `cells[row][column]`, rows and columns in the file's order; a cell may be missing (None)."""

    name: str
    columns: tuple[str, ...]
    cells: dict[str, dict[str, PublishedNumber | None]]

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys(cell.source for row in self.cells.values() for cell in row.values() if cell))

    @property
    def trusts(self) -> list[str]:
        return list(dict.fromkeys(cell.trust for row in self.cells.values() for cell in row.values() if cell))


def folder() -> Path | None:
    """Where the published tables are: in the checkout, else where a wheel puts them; None when in neither."""
    schemes = (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user"))
    places = [_CHECKOUT, *(Path(sysconfig.get_path("data", scheme)) / _INSTALLED for scheme in schemes)]
    return next((place for place in places if any(place.glob("*.csv"))), None)


def load(place: Path | None = None) -> dict[str, PublishedTable]:
    """All published tables by file stem; empty when none are found. Raises InputError for a file of another layout."""
    place = place or folder()
    return {path.stem: read(path) for path in sorted(place.glob("*.csv"))} if place else {}


def read(path: Path) -> PublishedTable:
    """One table from its long-form CSV (one line per number). Raises InputError when the columns are not ours."""
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise InputError(f"{path}: columns must be {', '.join(_COLUMNS)}")
        lines = list(reader)
    columns = tuple(dict.fromkeys(line["column"] for line in lines))
    cells: dict[str, dict[str, PublishedNumber | None]] = {}
    for line in lines:
        row = cells.setdefault(line["row"], dict.fromkeys(columns))
        row[line["column"]] = PublishedNumber(line["value"], line["unit"], line["source"], line["trust"], line["note"])
    return PublishedTable(path.stem, columns, cells)
