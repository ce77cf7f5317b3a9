"""Signals, two processes on one folder, a full disk, a read-only folder, a clock set back: saved, or refused in a line.

    .venv/bin/python -m tests.campaigns.signals --each=5 --seed=1-10 --out=/tmp/signals

The jobs are those of tests/campaigns/kills.py. In every trial a job meets one trouble and is then run again without it.
A trial fails when

- a traceback is printed, or a refusal has more than MOST_LINES lines,
- a file under its final name differs from the one of an uninterrupted run, after the trouble or at the end,
- the last run ends with another code than 0.

A full disk and a read-only folder need the right to mount a tmpfs; without it the disk is one of small files
(RLIMIT_FSIZE), and the read-only trials are left out. docs/reliability.md has the figures.
"""

import argparse
import collections
import contextlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests import command_server
from tests.campaigns import forks, seeds
from tests.campaigns.kills import JOBS, Job, compared, contents, fresh, run_whole
from tests.campaigns.world import write_world

MOST_LINES = 3
ENDS = (0, 1, 2, 130, -signal.SIGTERM)


def start(job: Job, place: Path, mark: str = "") -> int:
    return forks.start(job.command, place, mark=mark)


def ended(child: int, place: Path, mark: str = "") -> tuple[int, list[str]]:
    """(exit code, faults of what it said)."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = (place.parent / f"stderr{mark}").read_text(errors="replace")
    lines = [line for line in said.splitlines() if line.startswith("error")]
    faults = [f"a traceback: {said[-2000:]}"] if "Traceback (most recent call last)" in said else []
    faults += [f"exit code {code}: {said[-300:]}"] if code not in ENDS else []
    faults += [f"exit code {code} without a line"] if code in (1, 2) and not lines else []
    return code, faults + ([f"{len(lines)} lines"] if len(lines) > MOST_LINES else [])


def signalled(number: int) -> Callable:
    def trouble(job: Job, place: Path, seconds: float, rng: random.Random) -> list[str]:
        child = start(job, place)
        if forks.has_used(child, rng.uniform(0, seconds)):
            os.kill(child, number)
        return ended(child, place)[1]

    return trouble


def two_at_once(job: Job, place: Path, seconds: float, rng: random.Random) -> list[str]:
    """The later one waits, is refused, or finds the work done."""
    first = start(job, place)
    forks.has_used(first, rng.uniform(0, seconds))
    second = start(job, place, "2")
    codes, faults = zip(ended(first, place), ended(second, place, "2"), strict=True)
    return [*faults[0], *faults[1], *([] if 0 in codes else [f"exit codes {codes}"])]


def full_disk(job: Job, place: Path, seconds: float, rng: random.Random) -> list[str]:
    if os.path.ismount(place):
        used = shutil.disk_usage(place).used
        _remount(place, f"size={used + rng.randrange(4096, 2_000_000)}")
        found = ended(start(job, place), place)[1]
        _remount(place, "size=1g")
        return found
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (rng.randrange(1, 50_000), before[1]))
    try:
        child = start(job, place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return ended(child, place)[1]


def read_only(job: Job, place: Path, seconds: float, rng: random.Random) -> list[str]:
    _remount(place, "ro")
    code, faults = ended(start(job, place), place)
    _remount(place, "rw")
    return faults + (["exit code 0 though nothing can be written"] if code == 0 else [])


def clock_back(job: Job, place: Path, seconds: float, rng: random.Random) -> list[str]:
    """Stopped half-way, with files of tomorrow, and gone on with ten days earlier."""
    faults = signalled(signal.SIGKILL)(job, place, seconds, rng)
    for file in place.rglob("*"):
        os.utime(file, (time.time() + 86_400,) * 2, follow_symlinks=False)
    now, time.time = time.time, lambda: now() - 864_000
    try:
        child = start(job, place)
    finally:
        time.time = now
    return [one for one in faults if "exit code -9" not in one] + ended(child, place)[1]


TROUBLES = {
    "SIGTERM": signalled(signal.SIGTERM),
    "SIGINT": signalled(signal.SIGINT),
    "two at once": two_at_once,
    "full disk": full_disk,
    "read-only": read_only,
    "clock back": clock_back,
}
ON_TMPFS = ("full disk", "read-only")


def _remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def can_mount(folder: Path) -> bool:
    """Whether a tmpfs can be mounted here."""
    with _disk(folder) as made:
        return made


@contextlib.contextmanager
def _disk(place: Path) -> Iterator[bool]:
    place.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(place)]
    made = bool(shutil.which("mount")) and subprocess.run(words, capture_output=True).returncode == 0
    try:
        yield made
    finally:
        if made:
            subprocess.run(["umount", "-l", str(place)], check=True)


def trial(trouble: str, job: Job, world: Path, place: Path, whole: tuple, rng: random.Random) -> list[str]:
    """The faults of one job that meets one trouble and is run again."""
    wanted, seconds = whole
    shutil.rmtree(place, ignore_errors=True)
    with _disk(place) if trouble in ON_TMPFS else contextlib.nullcontext(False) as made:
        shutil.copytree(world, place, dirs_exist_ok=True) if made else fresh(world, place)
        faults = TROUBLES[trouble](job, place, seconds, rng)
        faults += compared(contents(place, job.results), wanted, complete=False)
        code, said = ended(start(job, place), place)
        faults += said + ([f"exit code {code} at the end"] if code else [])
        return faults + compared(contents(place, job.results), wanted, complete=True)


class Campaign:
    """Trials of the jobs in a folder; what an untroubled run leaves is found once for all seeds."""

    def __init__(self, out: Path, only: str = "", jobs: str = "", show: bool = False) -> None:
        """only, jobs: troubles and jobs whose name holds this. show: prints every trial."""
        self.out, self.place, self.show = out, out / "place", show
        self.world = write_world(out / "world")
        command_server.warm()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start without
        self.jobs = [job for job in JOBS if jobs in job.name]
        self.troubles = [name for name in TROUBLES if only in name and (name != "read-only" or can_mount(out / "disk"))]
        self.whole: dict[str, tuple] = {}

    def run(self, each: int, seed: int) -> dict:
        """Every trouble `each` times, over the jobs in turn; the figures, which grow in OUT/figures.json."""
        rng, count, failed = random.Random(seed), collections.Counter(), []
        figures = {"seed": seed, "trials": count, "failed": failed}
        for number, (place, trouble) in itertools.product(range(each), enumerate(self.troubles)):
            job = self.jobs[(seed * each + number + place) % len(self.jobs)]
            if job.name not in self.whole:
                self.whole[job.name] = run_whole(job, self.world, self.place)
            faults = trial(trouble, job, self.world, self.place, self.whole[job.name], rng)
            count[trouble] += 1
            failed += [{"trouble": trouble, "job": job.name, "faults": faults}] if faults else []
            if self.show:
                print(f"{trouble}, {job.name}: {'; '.join(faults) or 'held'}", flush=True)
            (self.out / "figures.json").write_text(json.dumps(figures, indent=1))
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=3, help="for every seed")
    parser.add_argument("--only", default="", help="troubles whose name holds this")
    parser.add_argument("--jobs", default="", help="jobs whose name holds this")
    seeds.add_flags(parser)
    given = parser.parse_args()
    campaign = Campaign(given.out, given.only, given.jobs, show=True)
    seeds.run(given, lambda seed: campaign.run(given.each, seed))


if __name__ == "__main__":
    main()
