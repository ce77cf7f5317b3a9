"""Test files that take long: `bin/test --fast` leaves them out.

The list beside this file is measured, not chosen. After a full run it is written anew:

    bin/test --junitxml=times.xml
    .venv/bin/python tests/slow_files.py times.xml
"""

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

LIST = Path(__file__).with_suffix(".txt")
SECONDS = 6.0  # of all tests of a file together


def read() -> frozenset[str]:
    """Paths relative to tests/."""
    return frozenset(LIST.read_text(encoding="utf-8").split())


def measured(junit: str | Path) -> list[str]:
    """The files of a run's JUnit report that took longer than `SECONDS`, in order."""
    seconds: Counter[str] = Counter()
    for case in ElementTree.parse(junit).iter("testcase"):
        seconds[case.get("classname").removeprefix("tests.")] += float(case.get("time"))
    return sorted(f"{name.replace('.', '/')}.py" for name, total in seconds.items() if total > SECONDS)


if __name__ == "__main__":
    LIST.write_text("\n".join(measured(sys.argv[1])) + "\n", encoding="utf-8")
