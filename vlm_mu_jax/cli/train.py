"""Trains a model: visual instruction tuning (lm), safety fine-tuning (sft), unlearning (npo, rmu) and baselines.

The config names the model, data, objective, what trains and how long; --config.KEY=VALUE changes one key. --config is a
file, or the name of one in configs/ or in the package. The workdir gets checkpoints, metrics (metrics.jsonl and
TensorBoard) and at the end the trained model folder in model/. Running the same command again goes on where it stopped.

With --config.eval.every=N it answers a few questions after every N updates (evaluations.jsonl), and the result is the
model of the best evaluation; the processes of a job generate together, process 0 judges. A config with a sweep runs
one such training per point, in one process, each in a folder of its own, and writes sweep.json, table.md and
frontier.svg.

Example:
  bin/train --config=configs/miniature_unlearn.py:npo --config.model.init=runs/base --workdir=runs/npo \\
      --config.eval.every=25 --config.eval.data=runs/mini/data
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from vlm_mu_jax.cli import cluster, command, config_flag

if TYPE_CHECKING:
    from vlm_mu_jax.training.spec import Observers

_CONFIG = config_flag.define()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)
flags.adopt_module_key_flags(cluster)
flags.adopt_module_key_flags(config_flag)


def main(argv: list[str]) -> None:
    from vlm_mu_jax.errors import InputError

    workdir = Path(_WORKDIR.value)
    if _CONFIG.value is None:
        raise InputError("--config is required; give an experiment file such as configs/miniature_unlearn.py")
    if workdir.is_file():
        raise InputError(f"--workdir={workdir} is a file; give a folder")
    speaks = cluster.join_from_flags(preemption=True)
    from vlm_mu_jax import progress
    from vlm_mu_jax.storage import model_folder
    from vlm_mu_jax.training import settings
    from vlm_mu_jax.training.spec import Observers
    from vlm_mu_jax.training.step_log import EvaluationLog, StepLog

    config = settings.checked(_CONFIG.value)
    if config["model"]["init"]:
        model_folder.find(config["model"]["init"])  # told before anything is made
    command.prepare_jax(workdir)
    log, evaluations = StepLog(config["steps"]), EvaluationLog(config["steps"])
    observers = Observers(progress.bar, log=log, on_evaluation=evaluations) if speaks else Observers()
    if config["sweep"]:
        _sweep(config, workdir, observers)
    else:
        _train(config, workdir, observers, speaks)
    cluster.leave_together()


def _train(config: Mapping[str, Any], workdir: Path, observers: "Observers", speaks: bool) -> None:
    import dataclasses

    from vlm_mu_jax.training.goodput import Goodput, summary
    from vlm_mu_jax.training.step_log import SPEED
    from vlm_mu_jax.training.train import train

    goodput = Goodput()
    trained = train(config, workdir, observers=dataclasses.replace(observers, goodput=goodput))
    if speaks:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in trained.last.items() if name not in ("step", *SPEED))
        which = f"as of step {trained.step}" if config["eval"]["every"] else f"after {config['steps']} steps"
        print(f"{workdir}/model written {which}" + (f" ({shown})" if shown else ""))
        print(summary(goodput.result()))


def _sweep(config: Mapping[str, Any], workdir: Path, observers: "Observers") -> None:
    from vlm_mu_jax.files import outputs
    from vlm_mu_jax.reporting.figures import canvas, training
    from vlm_mu_jax.training.sweep import markdown, run_sweep

    content = run_sweep(config, workdir, progress=observers.progress, observers=observers)
    outputs.write_text(workdir / "frontier.svg", canvas.standalone(training.sweep_frontier(content)))
    print(markdown(content))
    print(f"best: {workdir / content['best'] / 'model'}; table.md, sweep.json and frontier.svg are in {workdir}")


if __name__ == "__main__":
    command.run(main, __doc__)
