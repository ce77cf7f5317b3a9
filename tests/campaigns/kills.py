"""kill -9 at random moments of every command that takes long: the resumed result equals the uninterrupted one.

    .venv/bin/python -m tests.campaigns.kills --kills=20 --seed=1-10 --out=/tmp/kills

Each job runs once without interruption. Then it is started again in a fresh copy of the world, killed after a processor
time drawn evenly from that of an uninterrupted run, started again, perhaps killed again (half of the times), and at
last left alone. A trial fails when

- a file that a reader would take for complete differs from the uninterrupted one, right after a kill or at the end,
- an answer is lost or doubled,
- a server that is killed while it answers (tests/campaigns/killed_server.py) leaves a changed file, or a client takes
  part of an answer for the whole, or the next server answers another thing,
- the last run ends with another code than 0.

docs/reliability.md has the figures.
"""

import argparse
import collections
import dataclasses
import json
import os
import random
import shutil
import signal
from pathlib import Path

from tests import command_server
from tests.campaigns import forks, killed_server, seeds
from tests.campaigns.world import write_world

VOLATILE = (
    "second",
    "goodput",
    "time",
    "date",
    "created",
    "rate",
    "started",
    "version",
    "packages",
    "compile",
    "path",
    "workdir",
    "git",
)
PARTIAL = (".jsonl",)  # files that grow line by line; what stands in them is complete lines


@dataclasses.dataclass(frozen=True)
class Job:
    """command: the words after `bin/`, with OUT for its output. results: what it leaves, relative to the world."""

    name: str
    command: str
    results: tuple[str, ...]


_ASKED = "--max_new_tokens=3 --batch_size=2"
JOBS = (
    Job("convert", "convert_hf --source=hf --out=OUT", ("OUT",)),
    Job("export", "convert_hf --export --source=ours --out=OUT", ("OUT",)),
    Job(
        "train",
        "train --config=tiny_config.py --workdir=OUT",
        ("OUT/metrics.jsonl", "OUT/model"),
    ),
    Job("generate", f"generate --checkpoint=ours --data=data/train.json --out=OUT.jsonl {_ASKED}", ("OUT.jsonl",)),
    Job(
        "eval",
        f"eval --checkpoint=ours --data=data --workdir=OUT {_ASKED}",
        ("OUT/results.json", "OUT/answers"),
    ),
    Job(
        "attack",
        "attack --checkpoint=ours --data=data --words=list.txt --goal=jailbreak --shortlist=2 --shots=1"
        f" --search_questions=2 --verify_questions=2 --out=OUT.json {_ASKED}",
        ("OUT.json",),
    ),
    Job(
        "relearn",
        "relearn --checkpoint=ours --data=data --forget=2 --forget_answers=data/forget.jsonl --steps=2 --every=1"
        " --workdir=OUT --max_new_tokens=3 --batch_size=2 --eval_batch_size=2 --max_questions=2",
        ("OUT/relearn.json",),
    ),
    Job(
        "guard select",
        "guard select --checkpoint=ours --guard=guard --data=data/text_harm.json --validation_share=1 --out=OUT"
        f" --operators=add,amplify --strengths=1 --layer_sets=1 --gates=none --scopes=last --ranks=1 {_ASKED}",
        ("OUT/guard.json", "OUT/guard.safetensors"),
    ),
    Job(
        "curate",
        "curate --safety=data/train.json --candidates=data/forget.jsonl --judge=refusal --out=OUT",
        ("OUT",),
    ),
)


@dataclasses.dataclass
class Trial:
    job: str
    kills: list[float]
    faults: list[str]


def contents(place: Path, results: tuple[str, ...]) -> dict[str, object]:
    """Every file of the results that has its final name -> its content without what differs between two runs."""
    found = {}
    for name in results:
        path = place / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not any(part.startswith(".") or "tmp" in part for part in file.parts[-3:]):
                found[str(file.relative_to(place))] = _content(file)
    return found


def _content(file: Path) -> object:
    if file.suffix == ".json":
        return _steady(json.loads(file.read_text()))
    if file.suffix == ".jsonl":
        lines = file.read_text().split("\n")
        return [json.dumps(_steady(json.loads(line)), sort_keys=True) for line in lines[:-1]]
    return None if file.suffix in (".svg", ".png", ".md") or file.name == "_CHECKPOINT_METADATA" else file.read_bytes()


def _steady(value: object) -> object:
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in value.items() if not any(word in k.lower() for word in VOLATILE)}
    return [_steady(v) for v in value] if isinstance(value, list) else value


def run_whole(job: Job, world: Path, place: Path) -> tuple[dict[str, object], float]:
    """(the contents of an uninterrupted run, its seconds of a processor). What it compiles stays in the cache."""
    for _ in range(2):
        fresh(world, place)
        _, status, used = os.wait4(forks.start(job.command, place), 0)
        said = (place.parent / "stderr").read_text()
        assert os.waitstatus_to_exitcode(status) == 0, f"{job.name} does not run: {said[-2000:]}"
    return contents(place, job.results), used.ru_utime + used.ru_stime


def trial(job: Job, world: Path, place: Path, whole: dict[str, object], seconds: float, rng: random.Random) -> Trial:
    """One start, one or more kills, and the run that is left alone."""
    fresh(world, place)
    done = Trial(job.name, [], [])
    while not done.kills or rng.random() < 0.5:
        child = forks.start(job.command, place)
        after = rng.uniform(0, seconds)
        if _killed(child, after):
            done.kills.append(round(after, 3))
            done.faults += compared(contents(place, job.results), whole, complete=False)
        elif not done.kills:  # it was faster than the first run: draw an earlier moment
            fresh(world, place)
            seconds *= 0.8
        else:
            break
    code = os.waitstatus_to_exitcode(os.waitpid(forks.start(job.command, place), 0)[1])
    if code != 0:
        done.faults.append(f"exit code {code}: {(place.parent / 'stderr').read_text()[-500:]}")
    done.faults += compared(contents(place, job.results), whole, complete=True)
    return done


def _killed(child: int, after: float) -> bool:
    """Kills the process when it has used so many seconds; False if it has ended before."""
    if forks.has_used(child, after):
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def compared(found: dict[str, object], whole: dict[str, object], complete: bool) -> list[str]:
    """What differs. Before the end files may be missing, and files of lines may be shorter."""
    faults = [f"{name} is missing" for name in whole if complete and name not in found]
    for name, value in found.items():
        want = whole.get(name)
        if name not in whole:
            faults += [f"{name} should not be there"] if complete else []
        elif not complete and name.endswith(PARTIAL):
            value, want = _unjudged(value), _unjudged(want)
            wrong = not set(value) <= set(want) or len(set(value)) < len(value)
            faults += [f"{name}: lines that the whole run has not, or has once"] if wrong else []
        elif value != want:
            faults.append(f"{name} differs")
    return faults


def _unjudged(lines: list[str]) -> list[str]:
    """Lines without labels, which a judge adds when all answers are there."""
    return [json.dumps({k: v for k, v in json.loads(line).items() if k != "labels"}, sort_keys=True) for line in lines]


def fresh(world: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(world, place)


class Campaign:
    """Trials of the jobs in a folder; what an uninterrupted run leaves is found once for all seeds."""

    def __init__(self, out: Path, only: str = "", show: bool = False) -> None:
        """only: jobs whose name holds this. show: prints every trial."""
        self.out, self.place, self.show = out, out / "place", show
        self.world = write_world(out / "world")
        command_server.warm()
        self.jobs = [job for job in JOBS if only in job.name] + ([None] if only in "serve" else [])
        self.whole: dict[str, tuple] = {}
        self.said = ""

    def run(self, kills: int, seed: int) -> dict:
        """Kills until `kills` processes have been killed; the figures, which grow in OUT/figures.json."""
        rng, count, failed, trials = random.Random(seed), collections.Counter(), [], 0
        order: list[Job | None] = []
        while sum(count.values()) < kills:
            order = order or rng.sample(self.jobs, len(self.jobs))
            made = self._trial(order.pop(), rng)
            trials += 1
            count[made.job] += len(made.kills)
            failed += [dataclasses.asdict(made)] if made.faults else []
            figures = {"seed": seed, "kills": dict(count), "trials": trials, "failed": failed}
            (self.out / "figures.json").write_text(json.dumps(figures, indent=1))
            if self.show:
                print(f"{made.job}: killed after {made.kills} s: {'; '.join(made.faults) or 'equal'}", flush=True)
        return figures

    def _trial(self, job: Job | None, rng: random.Random) -> Trial:
        """That of a job, or of the server."""
        if job is None:
            self.said = self.said or killed_server.answer_alone(self.world, self.place)
            after, faults = killed_server.trial(self.world, self.place, self.said, rng)
            return Trial("serve", [after], faults)
        if job.name not in self.whole:
            self.whole[job.name] = run_whole(job, self.world, self.place)
        return trial(job, self.world, self.place, *self.whole[job.name], rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="for every seed")
    parser.add_argument("--only", default="", help="jobs whose name holds this")
    seeds.add_flags(parser)
    given = parser.parse_args()
    campaign = Campaign(given.out, given.only, show=True)
    seeds.run(given, lambda seed: campaign.run(given.kills, seed))


if __name__ == "__main__":
    main()
