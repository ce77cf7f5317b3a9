"""Signals, two processes on one folder, a full disk, a read-only folder, a clock set back: saved, or refused in a line.

    .venv/bin/python -m tests.campaigns.signals --each=50 --out=/tmp/signals

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
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests import command_server
from tests.campaigns.kills import JOBS, Job, compared, contents, fresh, run_whole
from tests.campaigns.world import write_world

MOST_LINES, LIMIT = 3, 300
ENDS = (0, 1, 2, 130, -signal.SIGTERM)


def start(job: Job, place: Path, mark: str = "") -> int:
    return command_server.fork(job.command.split(), place, place.parent, mark, LIMIT)


def ended(child: int, place: Path, mark: str = "") -> tuple[int, list[str]]:
    """(exit code, faults of what it said)."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = (place.parent / f"stderr{mark}").read_text(errors="replace")
    lines = [line for line in said.splitlines() if line.startswith("error")]
    faults = ["a traceback"] if "Traceback (most recent call last)" in said else []
    faults += [f"exit code {code}: {said[-300:]}"] if code not in ENDS else []
    faults += [f"exit code {code} without a line"] if code in (1, 2) and not lines else []
    return code, faults + ([f"{len(lines)} lines"] if len(lines) > MOST_LINES else [])


def signalled(number: int) -> Callable:
    def trouble(job: Job, place: Path, seconds: float, rng: random.Random) -> list[str]:
        child = start(job, place)
        time.sleep(rng.uniform(0, seconds))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        return ended(child, place)[1]

    return trouble


def two_at_once(job: Job, place: Path, seconds: float, rng: random.Random) -> list[str]:
    """The later one waits, is refused, or finds the work done."""
    first = start(job, place)
    time.sleep(rng.uniform(0, seconds))
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


def campaign(out: Path, each: int, seed: int, only: str = "", jobs: str = "", show: bool = False) -> dict:
    """Every trouble `each` times, over the jobs in turn; figures, kept in OUT/figures.json as they grow."""
    world, place = write_world(out / "world"), out / "place"
    command_server.warm()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start without
    chosen = [job for job in JOBS if jobs in job.name]
    troubles = [name for name in TROUBLES if only in name and (name != "read-only" or can_mount(out / "disk"))]
    whole = {job.name: run_whole(job, world, place) for job in chosen}
    rng, count, failed = random.Random(seed), collections.Counter(), []
    figures = {"seed": seed, "trials": count, "failed": failed}
    for number in range(each):
        for name in troubles:
            job = chosen[(number + troubles.index(name)) % len(chosen)]
            faults = trial(name, job, world, place, whole[job.name], rng)
            count[name] += 1
            failed += [{"trouble": name, "job": job.name, "faults": faults}] if faults else []
            if show:
                print(f"{name}, {job.name}: {'; '.join(faults) or 'held'}", flush=True)
            (out / "figures.json").write_text(json.dumps(figures, indent=1))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="troubles whose name holds this")
    parser.add_argument("--jobs", default="", help="jobs whose name holds this")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    figures = campaign(given.out, given.each, given.seed, given.only, given.jobs, show=True)
    print(json.dumps(figures, indent=1))
    sys.exit(bool(figures["failed"]))


if __name__ == "__main__":
    main()
