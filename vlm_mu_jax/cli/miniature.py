"""Builds the miniature: a tiny complete LLaVA trained from scratch on nonsense words and drawn signs, and its data.

Writes OUT/hf (an ordinary Hugging Face LLaVA checkpoint) and OUT/data (VLGuard and LLaVA JSON with PNG images).
Everything else treats them like any other checkpoint and data. Takes about three minutes on two cores.

Example:
  bin/miniature --out=runs/mini --seed=0
"""

from absl import flags

from vlm_mu_jax.cli import command

_OUT = flags.DEFINE_string("out", None, "folder to write hf/ and data/ into", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "decides words, signs, data, weights and batches", lower_bound=0)


def main(argv: list[str]) -> None:
    from vlm_mu_jax import progress
    from vlm_mu_jax.miniature.checkpoint import build_miniature

    command.enable_compilation_cache()
    build_miniature(_OUT.value, _SEED.value, progress.bar)
    print(f"{_OUT.value}/hf and {_OUT.value}/data written")


if __name__ == "__main__":
    command.run(main, __doc__)
