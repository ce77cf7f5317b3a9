"""The PEFT adapter of a LoRA run: its pairs, over the model it started from, beside the merged model."""

from pathlib import Path

from vlm_mu_jax.conversion import names
from vlm_mu_jax.conversion.peft_writer import FOLDER, write_adapter
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.params import Params, Specs, flatten
from vlm_mu_jax.parallel import distributed
from vlm_mu_jax.storage import origin
from vlm_mu_jax.training.trainable import Selection, Tree, selected_paths


def save_adapter(
    workdir: Path, learned: Tree, params: Params, selection: Selection, specs: Specs, start: Path, dialect: str
) -> str:
    """Writes `adapter/` into the workdir.

    Args:
      learned: trained leaves of the run, with the pairs under "lora".
      params: the trained weights; what was trained without LoRA is taken from them.
      selection: what trained.
      specs: parameters of the model.
      start: folder of the model that the run started from.
      dialect: spelling of the checkpoint that the model came from.

    Returns:
      the folder's name, or why an adapter cannot hold this run.
    """
    flat = flatten(params)
    pairs = {
        "decoder": {
            "layers": {
                name: {half: distributed.to_host(leaf) for half, leaf in pair.items()}
                for name, pair in learned["lora"]["decoder"]["layers"].items()
            }
        }
    }
    whole = dict.fromkeys(selected_paths(selection, specs)) | dict(selection.slices)
    try:
        write_adapter(
            workdir / FOLDER,
            pairs,
            selection.lora_alpha,
            whole,
            lambda path: distributed.to_host(flat[path]),
            specs,
            names.for_adapters(dialect, specs),
            _base(start),
        )
    except InputError as error:
        return f"none: {error}"
    return FOLDER


def _base(start: Path) -> str:
    """The checkpoint that the start model was converted from, or its own folder if it is more than a conversion."""
    provenance = origin.provenance(start)
    converted = "source" in provenance and not provenance.get("lora")
    return str(provenance["source"] if converted else start)
