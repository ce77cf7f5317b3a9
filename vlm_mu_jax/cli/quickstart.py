"""Runs the whole story on the miniature, from nothing to a report.

Builds the miniature, converts it, fine-tunes it for safety and shows the mirage, finds the words that break it,
unlearns with NPO and RMU and attacks again, measures the alignment gap and closes it with a guard, exports the
unlearned model, and writes OUT/report.html. Every step is a command that also works by itself; it is printed before
it runs. Steps that are already done are skipped, so a killed run goes on where it stopped.

Example:
  bin/quickstart --seed=0 --out=runs/quickstart
"""

import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from absl import flags

from vlm_mu_jax.cli import command
from vlm_mu_jax.errors import JobError

_OUT = flags.DEFINE_string("out", "runs/quickstart", "folder of all outputs")
_SEED = flags.DEFINE_integer("seed", 0, "seed of the world, the training runs and the attack", lower_bound=0)
_FRESH = flags.DEFINE_bool("fresh", False, "delete the outputs of an earlier run first")

ROOT = Path(__file__).resolve().parents[2]
EVAL = "--max_new_tokens=32 --batch_size=64"
SAFETY = "mini/data/train.json"
GAP, GAP_VALIDATION = "mini/data/text_harm.json", "mini/data/text_harm_validation.json"
EVALUATED = "eval_base eval_sft eval_sft_diverse eval_npo eval_rmu eval_guard"
REPORT = (
    "--attack=attack_sft.json --attack_again=npo=attack_npo.json --attack_again=rmu=attack_rmu.json --audit=audit.json"
    " --guard_diagnostics=diagnostics.json --training=sft --training=npo --training=rmu --export=npo_hf"
)


@dataclasses.dataclass(frozen=True)
class Step:
    """title: what the reader is told. command: the command line after bin/. made: what it leaves, relative to --out."""

    title: str
    command: str
    made: str


def steps(seed: int) -> list[Step]:
    """The story; paths are relative to --out."""
    select = f"select --checkpoint=base --guard=guard_raw --data={GAP_VALIDATION} --validation_share=1 --out=guard"
    return [
        Step("Build the miniature: a tiny LLaVA and its world", f"miniature --out=mini --seed={seed}", "mini/hf"),
        Step("Convert it from Hugging Face to Orbax", "convert_hf --source=mini/hf --out=base", "base"),
        Step("Audit the safety data for telling words", f"audit --data={SAFETY} --out=audit.json", "audit.json"),
        _train("Safety fine-tuning (SFT)", "sft", seed),
        _attack("Search the whole vocabulary for words that break the SFT model", "sft", seed),
        _eval("base", "base", seed, "--checkpoint=base"),
        _eval("sft", "sft", seed, "--checkpoint=sft --baseline=eval_base"),
        _train("SFT with diversified openings: does rebalancing fix it?", "sft_diverse", seed),
        _eval("sft_diverse", "sft", seed, "--checkpoint=sft_diverse --baseline=eval_base"),
        Step(
            "Harmful answers of the base model: what NPO and RMU will forget",
            f"eval --checkpoint=base --data=mini/data --workdir=forget --subset=train --sets=unsafe_before {EVAL}",
            "forget/results.json",
        ),
        _train("Unlearn with NPO", "npo", seed),
        _eval("npo", "npo", seed, "--checkpoint=npo --baseline=eval_sft"),
        _train("Unlearn with RMU", "rmu", seed),
        _eval("rmu", "rmu", seed, "--checkpoint=rmu --baseline=eval_sft"),
        _attack("Attack the NPO model again, with words searched for it", "npo", seed),
        _attack("Attack the RMU model again, with words searched for it", "rmu", seed),
        Step(
            "Extract the safety direction from the language model, text only",
            "guard extract --checkpoint=base --anchors=mini/data/anchors.json --out=guard_raw"
            " --decide=example --gate_source=text",
            "guard_raw",
        ),
        Step("Choose the guard on validation requests", f"guard {select} --max_new_tokens=32 --batch_size=48", "guard"),
        _eval("guard", "guard", seed, "--checkpoint=base --guard=guard --baseline=eval_base"),
        Step(
            "Look inside: hidden states with and without an image",
            f"guard diagnose --checkpoint=base --guard=guard --data={GAP} --out=diagnostics.json",
            "diagnostics.json",
        ),
        Step("Export the unlearned model to Hugging Face", "convert_hf --export --source=npo --out=npo_hf", "npo_hf"),
        Step("Write the report", f"report {EVALUATED} --out=report.html {REPORT}", "report.html"),
    ]


def _train(title: str, name: str, seed: int) -> Step:
    config = ROOT / "configs" / f"miniature_{name}.py"
    paths = "--config.model.init=base --config.data.root=mini/data"
    return Step(title, f"train --config={config} {paths} --config.seed={seed} --workdir={name}", f"{name}/model")


def _attack(title: str, name: str, seed: int) -> Step:
    return Step(
        title,
        f"attack --checkpoint={name} --reference=base --data=mini/data --out=attack_{name}.json --seed={seed}"
        " --max_new_tokens=32",
        f"attack_{name}.json",
    )


def _eval(name: str, kind: str, seed: int, options: str) -> Step:
    return Step(
        f"Evaluate: {name}",
        f"eval {options} --data=mini/data --workdir=eval_{name} --name={name} --kind={kind} --seed={seed}"
        f" --attack_words=attack_sft.json {EVAL}",
        f"eval_{name}/results.json",
    )


def main(argv: list[str]) -> None:
    out = Path(_OUT.value).expanduser()
    if _FRESH.value and out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    _check_seed(out)
    begin, plan = time.monotonic(), steps(_SEED.value)
    for number, step in enumerate(plan, start=1):
        last = number == len(plan)
        print(f"\n[{number}/{len(plan)}] {step.title}", flush=True)
        if (out / step.made).exists() and not last:
            print(f"    done before: {out / step.made}", flush=True)
            continue
        _run(step, out)
    minutes = (time.monotonic() - begin) / 60
    print(f"\nDone in {minutes:.1f} min. Open {out / 'report.html'} in a browser.")


def _check_seed(out: Path) -> None:
    """One folder holds one seed: mixing two would compare models of different worlds."""
    from vlm_mu_jax.errors import InputError

    mark = out / "seed.txt"
    if mark.exists() and mark.read_text().strip() != str(_SEED.value):
        raise InputError(f"{out} holds seed {mark.read_text().strip()}; use another --out, or --fresh to start over")
    mark.write_text(f"{_SEED.value}\n")


def _run(step: Step, out: Path) -> None:
    print(f"    bin/{step.command}", flush=True)
    name, *arguments = shlex.split(step.command)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", f"vlm_mu_jax.cli.{name}", *arguments],
        cwd=out, env={**os.environ, "PYTHONPATH": path}, check=False,
    )  # fmt: skip
    if done.returncode:
        raise JobError(f"step {step.title!r} failed (exit code {done.returncode}); its message stands above")


if __name__ == "__main__":
    command.run(main, __doc__)
