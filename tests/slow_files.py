"""Test files that take long, the longest first: `bin/test --fast` leaves them out, `bin/test` begins with them.

The list beside this file is measured, not chosen. After a full run it is written anew:

    bin/test --junitxml=times.xml
    .venv/bin/python tests/slow_files.py times.xml
"""

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

LIST = Path(__file__).with_suffix(".txt")
SECONDS = 3.0  # of all tests of a file together


def read() -> list[str]:
    """Paths relative to tests/."""
    return LIST.read_text(encoding="utf-8").split()


def measured(junit: str | Path) -> list[str]:
    """The files of a run's JUnit report that took longer than `SECONDS`, the longest first."""
    seconds: Counter[str] = Counter()
    for case in ElementTree.parse(junit).iter("testcase"):
        seconds[case.get("classname").removeprefix("tests.")] += float(case.get("time"))
    return [f"{name.replace('.', '/')}.py" for name, total in seconds.most_common() if total > SECONDS]


if __name__ == "__main__":
    LIST.write_text("\n".join(measured(sys.argv[1])) + "\n", encoding="utf-8")
