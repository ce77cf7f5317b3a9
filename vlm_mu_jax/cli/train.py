"""Trains a model: visual instruction tuning (lm), safety fine-tuning (sft), unlearning (npo, rmu) and baselines.

The config file names the model, data, objective, what trains and how long; --config.KEY=VALUE changes one key. The
workdir gets checkpoints, metrics (metrics.jsonl and TensorBoard) and at the end the trained model folder in model/.
Running the same command again goes on where it stopped.

Example:
  bin/train --config=configs/miniature_npo.py --config.model.init=runs/base --workdir=runs/npo
"""

from absl import flags
from ml_collections import config_flags

from vlm_mu_jax.cli import command

_CONFIG = config_flags.DEFINE_config_file("config", None, "experiment file with get_config(), see configs/")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)


def main(argv: list[str]) -> None:
    from pathlib import Path

    from vlm_mu_jax.errors import InputError

    if _CONFIG.value is None:
        raise InputError("--config is required; give an experiment file such as configs/miniature_npo.py")
    if Path(_WORKDIR.value).is_file():
        raise InputError(f"--workdir={_WORKDIR.value} is a file; give a folder")
    from vlm_mu_jax.training import settings

    config = settings.checked(_CONFIG.value)
    command.enable_compilation_cache()

    from vlm_mu_jax.cli import progress
    from vlm_mu_jax.training.run import run

    last = run(config, _WORKDIR.value, progress.bar)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in last.items() if name not in ("step", "seconds"))
    print(f"{_WORKDIR.value}/model written after {config['steps']} steps" + (f" ({shown})" if shown else ""))


if __name__ == "__main__":
    command.run(main, __doc__)
