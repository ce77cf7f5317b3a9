"""The short form of every campaign, in one process: a few cases of those commands that start no model.

    .venv/bin/python -m tests.campaigns.short OUT

Writes OUT/short.json: campaign -> what failed.
"""

import json
import shutil
import sys
from pathlib import Path

from tests.campaigns import hostile, kills, report, servers, signals
from tests.campaigns.world import write_world

HOSTILE = ("convert", "template", "weights", "tokenizer", "audit", "judge", "check", "report")


def main(out: Path) -> None:
    for name in ("hostile", "kills", "signals"):
        (out / name).mkdir(parents=True)
    world = write_world(out / "world", models=False)
    for name in ("hostile", "kills", "signals"):
        (out / name / "world").symlink_to(world)
    failing = dict(enumerate(servers.FAILURES, 16))
    found = {"servers": servers.judge_campaign(out / "servers", 16 + len(failing), 0, failing)["failed"]}
    targets = [target for target in hostile.TARGETS if target.name in HOSTILE]
    found["hostile"] = hostile.campaign(out / "hostile", 8, 0, targets=targets)["failed"]
    found["kills"] = kills.Campaign(out / "kills", only="curate").run(2, 0)["failed"]
    found["signals"] = signals.Campaign(out / "signals", jobs="curate").run(1, 0)["failed"]
    if shutil.which("chromium") and shutil.which("chromedriver"):
        found["report"] = report.campaign(out / "report", 100, 240, 0)["faults"]
    (out / "short.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
