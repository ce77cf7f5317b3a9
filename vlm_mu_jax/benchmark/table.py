"""The result of a suite as a table for people."""

_COLUMNS = ("name", "ours", "peer", "unit", "ratio", "floor")


def text(result: dict) -> str:
    """One line per row. Keys of a row beyond the common ones become further columns, those of "memory_*" in GiB."""
    rows = result["rows"]
    names = [*_COLUMNS, *dict.fromkeys(key for row in rows for key in row if key not in _COLUMNS)]
    cells = [names, *[[_cell(name, row.get(name)) for name in names] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = [
        "  ".join(
            text.ljust(w) if name in ("name", "unit") else text.rjust(w)
            for name, text, w in zip(names, line, widths, strict=True)
        )
        for line in cells
    ]
    return "\n".join([f"{result['suite']} on {result['device']}", *lines])


def _cell(name: str, value: object) -> str:
    if name.startswith("memory") and isinstance(value, int | float):
        return f"{value / 2**30:.2f} GiB"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 100 else f"{value:.1f}"
    return "-" if value is None else str(value)
