"""Guards a model at inference: steers it along a safety direction of its own language tower.

  extract   takes the direction from paired anchor texts and writes a guard folder
  select    tries settings of a guard on half of a request file, keeps the best within an over-refusal bound
  apply     answers a request file with the guard on, with the requests' own, a blank, or no image
  diagnose  measures what an image does to the model's states (PCA, AUROC, cosines, blank images of all kinds) and,
            with --answers, to its answers
  bake      exports the guarded model to Hugging Face: in its weights, or with a module that steers it
  export    writes the guard as one file: PyTorch hooks for transformers, a control vector for llama.cpp, or a
            vector for AISteer360

A guard belongs to the weights it was extracted from and is refused on others (--allow_other_model overrules).
With --decide=example --gate_source=text the language model, asked the question alone, decides whether the guard acts.
Removing the direction (--operator=project_out) makes an aligned model *less* safe; it is offered for measurement.

Example:
  bin/guard extract --checkpoint=runs/base --anchors=runs/mini/data/anchors.json --out=runs/guard_raw \\
      --decide=example --gate_source=text
  bin/guard select --checkpoint=runs/base --guard=runs/guard_raw --data=runs/mini/data --out=runs/guard
  bin/guard apply --checkpoint=runs/base --guard=runs/guard --data=runs/mini/data --out=runs/guarded.jsonl
  bin/guard diagnose --checkpoint=runs/base --data=runs/mini/data --out=runs/diagnostics.json
"""

from absl import flags

from vlm_mu_jax.cli import (
    cluster,
    command,
    guard_apply,
    guard_bake,
    guard_diagnose,
    guard_export,
    guard_extract,
    guard_flags,
    guard_select,
    mesh_flag,
)
from vlm_mu_jax.errors import InputError

ACTIONS = {
    "extract": guard_extract,
    "select": guard_select,
    "apply": guard_apply,
    "diagnose": guard_diagnose,
    "bake": guard_bake,
    "export": guard_export,
}
TOGETHER = ("extract", "select")  # what several processes share out between them
for _module in (guard_flags, mesh_flag, cluster, *ACTIONS.values()):
    flags.adopt_module_key_flags(_module)


def main(argv: list[str]) -> None:
    from vlm_mu_jax.storage import model_folder

    action = ACTIONS[argv[1]]
    if argv[1] in TOGETHER:
        cluster.join_from_flags()
    elif cluster.COORDINATOR.value:
        raise InputError(f"bin/guard {argv[1]} runs in one process; {' and '.join(TOGETHER)} take --coordinator")
    for flag in action.NEEDS:
        if not flag.value:
            raise InputError(f"bin/guard {argv[1]} needs --{flag.name}; see bin/guard --help")
    run = action.job_from_flags()  # tells everything that is wrong before the model is loaded, which may take minutes
    command.prepare_jax()
    with mesh_flag.placed(mesh_flag.sizes_from_flags(), guard_flags.BATCH.value, guard_flags.TOKENS.value):
        run(model_folder.load(guard_flags.CHECKPOINT.value))
    cluster.leave_together()


if __name__ == "__main__":
    command.run(main, __doc__, list(ACTIONS))
