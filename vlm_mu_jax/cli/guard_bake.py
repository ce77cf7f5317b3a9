"""bin/guard bake: the guarded model as a Hugging Face checkpoint."""

from absl import flags

from vlm_mu_jax.cli import guard_flags
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_json

_MODULE = flags.DEFINE_bool(
    "module", False, "bake: leave the weights alone and add a module that steers them (trust_remote_code)"
)

NEEDS = (guard_flags.GUARD,)


def check() -> None:
    """What can be wrong before the model is loaded: a guard that cannot be weights, an --out that is in use."""
    from pathlib import Path

    from vlm_mu_jax.conversion.exporter import MARKER
    from vlm_mu_jax.files.folders import check_replaceable
    from vlm_mu_jax.steering import artifact
    from vlm_mu_jax.steering.bake import obstacle
    from vlm_mu_jax.steering.guard import settings_of
    from vlm_mu_jax.storage import model_folder

    check_replaceable(guard_flags.OUT.value, MARKER)
    use = settings_of(guard_flags.GUARD.value, artifact.read(guard_flags.GUARD.value)[1])
    hf_config = read_json(model_folder.find(Path(guard_flags.CHECKPOINT.value)) / "config.json")
    reason = obstacle(use, hf_config)
    if reason is not None and not _MODULE.value:
        raise InputError(f"{guard_flags.GUARD.value} cannot be baked into weights: {reason}; add --module")


def run(model) -> None:
    from vlm_mu_jax import progress
    from vlm_mu_jax.steering.bake import export_baked, export_with_module
    from vlm_mu_jax.steering.guard import load_guard

    guard = load_guard(guard_flags.GUARD.value, model, guard_flags.ALLOW.value)
    export = export_with_module if _MODULE.value else export_baked
    export(guard, model, guard_flags.OUT.value, progress=progress.bar)
    print(f"written to {guard_flags.OUT.value}")
    if _MODULE.value:
        print("load it with AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)")
