"""Every file that a command reads, mutated, and what the command makes of it.

    .venv/bin/python -m tests.campaigns.hostile --cases=500 --seed=1-20 --out=/tmp/hostile
    .venv/bin/python -m tests.campaigns.hostile --only=report --seed=7 --cases=50 --out=/tmp/report

Makes one tiny world (a LLaVA, its converted folder, data, answers, a guard, results), then draws cases: one target, one
of its files, one mutation (tests/campaigns/mutations.py). A case fails when the command

- ends with another code than 0 or 2 (1 is for faults of the machine or of our own), or by a signal,
- prints a traceback,
- ends with 2 and says more than MOST_LINES lines, or leaves an output under its final name (files of answers grow
  line by line and are gone on with, so they may stay),
- takes more than SECONDS of processor time, more than WAIT seconds, or more than MEMORY.

The input of every failure is kept in OUT/failures, and the same seed draws the same cases. docs/reliability.md has the
figures.
"""

import argparse
import collections
import dataclasses
import json
import os
import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests import command_server
from tests.campaigns import forks, seeds
from tests.campaigns.mutations import mutated
from tests.campaigns.world import write_world

SECONDS, WAIT, MEMORY, MOST_LINES = 60, 3600, 2 * 2**30, 3
OUT = "OUT"


@dataclasses.dataclass(frozen=True)
class Target:
    """One command and the files that it reads.

    Attributes:
      name: of the target, as figures count it.
      command: the words after `bin/`; OUT stands for its output.
      files: relative to the world; each is mutated in turn.
      changes: a folder of the world that the command goes on with; every case has a fresh copy of it.
    """

    name: str
    command: str
    files: tuple[str, ...]
    changes: str = ""


_HF = ("config", "tokenizer", "tokenizer_config", "preprocessor_config", "processor_config", "generation_config")
_STORY = "report base_0 sft_0 npo_0 --out=OUT.html --attack=evidence/attack.json --audit=evidence/audit.json"
_STORY += " --guard_diagnostics=evidence/guard_diagnostics.json --training=evidence/train_npo"
_STORY += " --attack_again=npo=evidence/attack_npo.json"
_OLD = ("holds", "defences", "methods", "relearning", "sweep", "saliency")
_MORE = "report base_0 --out=OUT.html " + " ".join(f"--{name}=old/{name}.json" for name in _OLD)
_ASKED = "--max_new_tokens=1 --batch_size=2"
_SEARCH = "--shortlist=2 --shots=1 --search_questions=2 --verify_questions=2 --out=OUT.json"
_EVIDENCE = ("attack", "audit", "guard_diagnostics", "attack_npo")
TARGETS = (
    Target("convert", "convert_hf --source=hf --out=OUT", tuple(f"hf/{name}.json" for name in _HF)),
    Target("template", "convert_hf --source=hf --out=OUT", ("hf/chat_template.jinja",)),
    Target("weights", "convert_hf --source=hf --out=OUT", ("hf/model.safetensors",)),
    Target("shards", "convert_hf --source=hf_shards --out=OUT", ("hf_shards/model.safetensors.index.json",)),
    Target("pickle", "convert_hf --source=hf_bin --allow_pickle --out=OUT", ("hf_bin/pytorch_model.bin",)),
    Target(
        "adapter",
        "convert_hf --source=hf --lora=lora --out=OUT",
        ("lora/adapter_config.json", "lora/adapter_model.safetensors"),
    ),
    Target("gguf", "convert_hf --source=tiny.gguf --out=OUT", ("tiny.gguf",)),
    Target("export", "convert_hf --export --source=ours --out=OUT", ("ours/config.json", "ours/provenance.json")),
    Target("audit", "audit --data=data/train.json --out=OUT.json", ("data/train.json",)),
    Target("check", "curate --check=data/train.json", ("data/train.json",)),
    Target("check_turns", "curate --check=turns.jsonl", ("turns.jsonl",)),
    Target("check_table", "curate --check=questions.csv", ("questions.csv",)),
    Target("judge", "judge --answers=answers.jsonl --out=OUT.json", ("answers.jsonl",)),
    Target("judge_table", "judge --answers=answers.csv --out=OUT.json", ("answers.csv",)),
    Target("report", _STORY, tuple(f"evidence/{name}.json" for name in _EVIDENCE)),
    Target("report_runs", _STORY, ("base_0/results.json", "sft_0/results.json", "evidence/train_npo/metrics.jsonl")),
    Target("report_answers", _STORY, ("sft_0/answers/unsafe_before.jsonl",)),
    Target(
        "generate",
        "generate --checkpoint=ours --data=data/text_harm.json --max_new_tokens=1 --out=OUT.jsonl",
        ("data/text_harm.json", "data/train/0.png", "ours/tokenizer_config.json", "ours/vlm_mu_jax.json"),
    ),
    Target("tokenizer", "convert_hf --source=hf --out=OUT", ("hf/tokenizer.json",)),
    Target(
        "generate_jpeg",
        "generate --checkpoint=ours --data=data/jpeg.json --max_new_tokens=1 --out=OUT.jsonl",
        ("data/train/0.jpg", "ours/tokenizer.json", "ours/chat_template.jinja", "ours/config.json"),
    ),
    Target(
        "curate",
        "curate --safety=data/train.json --candidates=data/forget.jsonl --judge=refusal --out=OUT",
        ("data/train.json", "data/forget.jsonl", "data/train/1.png"),
    ),
    Target("report_more", _MORE, tuple(f"old/{name}.json" for name in _OLD)),
    Target(
        "train",
        "train --config=tiny_config.py --workdir=OUT --config.steps=1",
        ("data/train.json", "data/forget.jsonl", "data/train/0.png", "ours/config.json"),
    ),
    Target(
        "train_again",
        "train --config=tiny_config.py --workdir=run",
        ("run/config.json", "run/metrics.jsonl", "run/data.json", "run/goodput.json", "run/provenance.json"),
        changes="run",
    ),
    Target(
        "eval_again",
        f"eval --checkpoint=ours --data=data --workdir=asked {_ASKED}",
        ("asked/config.json", "asked/provenance.json", "asked/answers/unsafe_before.jsonl", "data/test.json"),
        changes="asked",
    ),
    Target(
        "words",
        f"attack --checkpoint=ours --data=data --goal=jailbreak --words=audit:old/audit.json {_SEARCH} {_ASKED}",
        ("old/audit.json", "data/test.json"),
    ),
    Target(
        "paraphrases",
        f"attack --checkpoint=ours --data=data --goal=jailbreak --method=paraphrase --word=what"
        f" --paraphrases=paraphrases.json --verify_questions=1 --out=OUT.json {_ASKED}",
        ("paraphrases.json",),
    ),
    Target(
        "wording",
        f"defences --checkpoint=ours --data=data --defences=vanilla,self_reminder --settings=direct"
        f" --perplexity=false --max_questions=1 --defence_prompts=wording.json --workdir=OUT {_ASKED}",
        ("wording.json", "data/text_harm.json"),
    ),
    Target(
        "guard",
        "guard apply --checkpoint=ours --guard=guard --data=data/text_harm.json --max_new_tokens=1 --out=OUT.jsonl",
        ("guard/guard.json", "guard/guard.safetensors"),
    ),
)


@dataclasses.dataclass
class Case:
    target: Target
    file: str
    content: bytes
    code: int = 0
    seconds: float = 0.0
    memory: int = 0
    said: str = ""
    left: tuple[str, ...] = ()

    def faults(self) -> list[str]:
        """Why this case fails; none when all held."""
        lines = [line for line in self.said.splitlines() if line.strip()]
        found = {
            f"exit code {self.code}": self.code not in (0, 2),
            "a traceback": "Traceback (most recent call last)" in self.said,
            f"{len(lines)} lines": self.code == 2 and len(lines) > MOST_LINES,
            f"left {', '.join(self.left)}": self.code != 0 and bool(self.left),
            f"{self.seconds:.0f} s": self.seconds > SECONDS,
            f"{self.memory / 2**30:.1f} GiB": self.memory > MEMORY,
        }
        return [why for why, holds in found.items() if holds]


def drawn(targets: Sequence[Target], world: Path, count: int, seed: int) -> Iterator[Case]:
    """`count` cases; those that the mutation left as they were are drawn again."""
    rng, made = random.Random(seed), 0
    while made < count:
        target = targets[made % len(targets)]
        file = rng.choice([name for name in target.files if (world / name).is_file()])
        before = (world / file).read_bytes()
        content = mutated(file, before, rng)
        if content != before:
            made += 1
            yield Case(target, file, content)


def tried(case: Case, world: Path, place: Path) -> Case:
    """Runs the case in a copy of the world (hard links, but for the mutated file), which is left as it was."""
    if not place.exists():
        shutil.copytree(world, place, copy_function=os.link)
    _renew(case.target, world, place)
    whole = set(place.rglob("*"))
    (place / case.file).unlink()
    (place / case.file).write_bytes(case.content)
    child = forks.start(case.target.command, place, WAIT)
    _, status, used = os.wait4(child, 0)
    case.seconds, case.memory = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
    case.code = os.waitstatus_to_exitcode(status)
    case.said = (place.parent / "stderr").read_text(encoding="utf-8", errors="replace")
    new = sorted(set(place.rglob("*")) - whole)
    case.left = tuple(
        path.name for path in new if path.parent == place and path.name.startswith(OUT) and ".jsonl" not in path.name
    )
    for path in new:
        shutil.rmtree(path) if path.is_dir() and path.exists() else path.unlink(missing_ok=True)
    (place / case.file).unlink(missing_ok=True)
    os.link(world / case.file, place / case.file)
    _renew(case.target, world, place)
    return case


def _renew(target: Target, world: Path, place: Path) -> None:
    """Copies the folder that the command changes: what it writes in place would be written in the world, too."""
    if target.changes:
        shutil.rmtree(place / target.changes, ignore_errors=True)
        shutil.copytree(world / target.changes, place / target.changes)


def campaign(out: Path, cases: int, seed: int, targets: Sequence[Target] = TARGETS, show: bool = False) -> dict:
    """Draws and tries the cases; the figures, which grow in OUT/figures.json. `failed` are the faults."""
    world = write_world(out / "world")
    command_server.warm()
    shutil.rmtree(out / "case", ignore_errors=True)
    failed, codes = [], collections.defaultdict(collections.Counter)
    figures = {"seed": seed, "cases": 0, "failed": failed, "exit_codes": codes, "seconds": 0.0}
    figures |= {"slowest_seconds": 0.0, "largest_GiB": 0.0}
    for case in drawn(targets, world, cases, seed):
        tried(case, world, out / "case")
        codes[case.target.name][str(case.code)] += 1
        if faults := case.faults():
            name = f"{seed}_{figures['cases']}"
            failed.append(f"{name} {case.target.name} {case.file}: {'; '.join(faults)}")
            _keep(case, out / "failures" / name, faults)
            if show:
                print(failed[-1], flush=True)
        figures["cases"] += 1
        figures["seconds"] = round(figures["seconds"] + case.seconds, 2)
        figures["slowest_seconds"] = max(figures["slowest_seconds"], round(case.seconds, 1))
        figures["largest_GiB"] = max(figures["largest_GiB"], round(case.memory / 2**30, 2))
        (out / "figures.json").write_text(json.dumps(figures, indent=1))  # at once: a campaign that is cut short counts
    return figures


def _keep(case: Case, folder: Path, faults: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / Path(case.file).name).write_bytes(case.content)
    about = {"command": case.target.command, "file": case.file, "faults": faults, "said": case.said[-4000:]}
    (folder / "case.json").write_text(json.dumps(about, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200, help="for every seed")
    parser.add_argument("--only", default="", help="targets whose name holds one of these words, with commas")
    seeds.add_flags(parser)
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    targets = [target for target in TARGETS if any(word in target.name for word in given.only.split(","))]
    seeds.run(given, lambda seed: campaign(given.out, given.cases, seed, targets, show=True))


if __name__ == "__main__":
    main()
