"""Trains a model: visual instruction tuning (lm), safety fine-tuning (sft), unlearning (npo, rmu) and baselines.

The config file names the model, data, objective, what trains and how long; --config.KEY=VALUE changes one key. The
workdir gets checkpoints, metrics (metrics.jsonl and TensorBoard) and at the end the trained model folder in model/.
Running the same command again goes on where it stopped.

With --config.eval.every=N it answers a few questions after every N updates (evaluations.jsonl), and the result is the
model of the best evaluation; the processes of a job generate together, process 0 judges. A config with a sweep runs
one such training per point, in one process, each in a folder of its own, and writes sweep.json, table.md and
frontier.svg.

Example:
  bin/train --config=configs/miniature_unlearn.py:npo --config.model.init=runs/base --workdir=runs/npo \\
      --config.eval.every=25 --config.eval.data=runs/mini/data
"""

from typing import Any

from absl import flags
from ml_collections import config_flags

from vlm_mu_jax.cli import cluster, command

_CONFIG = config_flags.DEFINE_config_file("config", None, "experiment file with get_config(), see configs/")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)
flags.adopt_module_key_flags(cluster)


def main(argv: list[str]) -> None:
    from pathlib import Path

    from vlm_mu_jax.errors import InputError

    if _CONFIG.value is None:
        raise InputError("--config is required; give an experiment file such as configs/miniature_unlearn.py")
    if Path(_WORKDIR.value).is_file():
        raise InputError(f"--workdir={_WORKDIR.value} is a file; give a folder")
    speaks = cluster.join()
    from vlm_mu_jax.training import settings

    config = settings.checked(_CONFIG.value)
    command.enable_compilation_cache(_WORKDIR.value)

    from vlm_mu_jax.cli.step_log import StepLog

    log = StepLog(config["steps"]) if speaks else None
    if config["sweep"]:
        from vlm_mu_jax.cli import sweep

        sweep.run(config, _WORKDIR.value, log)
    else:
        _train(config, log)


def _train(config: dict, log: Any) -> None:
    from vlm_mu_jax import progress
    from vlm_mu_jax.cli import train_evaluation
    from vlm_mu_jax.cli.step_log import SPEED
    from vlm_mu_jax.training.goodput import Goodput, summary
    from vlm_mu_jax.training.run import run, trained_step

    goodput = Goodput()
    evaluation = train_evaluation.for_training(config, _WORKDIR.value)
    bar = progress.bar if log else None
    last = run(config, _WORKDIR.value, bar, evaluation=evaluation, log=log, goodput=goodput)
    if log:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in last.items() if name not in ("step", *SPEED))
        which = f"after {config['steps']} steps" if evaluation is None else f"as of step {trained_step(_WORKDIR.value)}"
        print(f"{_WORKDIR.value}/model written {which}" + (f" ({shown})" if shown else ""))
        print(summary(goodput.result()))


if __name__ == "__main__":
    command.run(main, __doc__)
