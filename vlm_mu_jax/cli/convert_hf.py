"""Converts a Hugging Face checkpoint or a GGUF file into a model folder of ours, and back to Hugging Face.

The way back (--export) writes a folder that `transformers` loads; unless the weights were trained or cast in between,
it holds the same tensors bit for bit. Both ways hold a few tensors at a time, whatever the size of the model. Nothing
is downloaded when --source is a local folder; a hub id that looks like a local path is written hub:ORG/NAME.

A GGUF file (Llama, Qwen2, Qwen3, Gemma 3) is dequantised: its quantised weights become float32 unless --dtype says
otherwise.

A folder that an earlier conversion wrote is replaced. A trained model, or anything else, is replaced with --overwrite
only.

Example:
  bin/convert_hf --source=llava-hf/llava-1.5-7b-hf --out=runs/base
  bin/convert_hf --source=lmsys/vicuna-7b-v1.5 --lora=LLAVA_LORA --vision_tower=CLIP --allow_pickle --out=runs/base
  bin/convert_hf --source=SmolLM2-135M-Instruct.Q4_1.gguf --out=runs/smollm2
  bin/convert_hf --export --source=runs/npo --out=runs/npo_hf
  bin/convert_hf --export --as=adapter --source=runs/npo_lora --out=runs/npo_adapter
"""

from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import command

if TYPE_CHECKING:
    from vlm_mu_jax.conversion.convert import ConvertOptions
    from vlm_mu_jax.conversion.exporter import ExportOptions

_SOURCE = flags.DEFINE_string(
    "source",
    None,
    "checkpoint folder, GGUF file or hub id; with --export our model folder or a run's workdir",
    required=True,
)
_OUT = flags.DEFINE_string("out", None, "folder to write", required=True)
_EXPORT = flags.DEFINE_bool("export", False, "from our format to Hugging Face's")
_TEMPLATE = flags.DEFINE_string(
    "template",
    "auto",
    "chat template of the model: auto takes the checkpoint's own, or what its kind is known to have; or a name",
)
_CHAT_TEMPLATE = flags.DEFINE_string("chat_template", None, "a jinja file to take as the model's chat template instead")
_SYSTEM = flags.DEFINE_string("system", None, "system text of prompts, in place of the chat template's own")
_DTYPE = flags.DEFINE_string("dtype", None, "cast weights to float32, bfloat16 or float16; default: as they are stored")
_ALLOW_PICKLE = flags.DEFINE_bool(
    "allow_pickle", False, "read PyTorch .bin weights where there are no safetensors; tensors only, nothing is executed"
)
_VISION_TOWER = flags.DEFINE_string(
    "vision_tower", None, "CLIP folder or hub id of an original (liuhaotian) LLaVA that has no vision tower inside"
)
_LORA = flags.DEFINE_string("lora", None, "PEFT LoRA adapter (folder or hub id) to merge into --source")
_DIALECT = flags.DEFINE_string(
    "dialect", None, "with --export: spelling of the tensor names; default: that of the original checkpoint"
)
_AS = flags.DEFINE_enum(
    "as", "model", ["model", "adapter"], "with --export: the whole model, or the LoRA adapter of a run, for peft"
)
_SHARD_GB = flags.DEFINE_float("shard_gb", 5.0, "with --export: largest weights file, in GB", lower_bound=0.001)
_RESULTS = flags.DEFINE_list(
    "results", [], "with --export: folders of bin/eval whose numbers the model card (README.md) shows"
)
_PUSH = flags.DEFINE_string("push", None, "with --export: ORG/NAME, the repository on the hub that --out is sent to")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "with --push: only say what would go")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace whatever is in --out, even a trained model")


def main(argv: list[str]) -> None:
    """Runs the conversion the flags ask for."""
    import os

    from vlm_mu_jax.errors import InputError

    os.environ["JAX_PLATFORMS"] = "cpu"  # only moves numbers: an accelerator stays free for whoever uses it
    importing = ("dtype", "template", "chat_template", "system", "allow_pickle", "vision_tower", "lora")
    exporting = ("as", "dialect", "shard_gb", "results", "push", "dry_run")
    idle = importing if _EXPORT.value else exporting
    given = [f"--{name}" for name in idle if flags.FLAGS[name].present]
    if given:
        verb = "does nothing" if len(given) == 1 else "do nothing"
        raise InputError(f"{', '.join(given)} {verb} {'with' if _EXPORT.value else 'without'} --export; leave it out")
    if _EXPORT.value:
        from vlm_mu_jax.conversion.exporter import ExportOptions

        shard_bytes = int(_SHARD_GB.value * 1e9)
        options = ExportOptions(_AS.value, _DIALECT.value, shard_bytes, _OVERWRITE.value, tuple(_RESULTS.value))
        return _export(_SOURCE.value, _OUT.value, options, _PUSH.value, _DRY_RUN.value)
    from vlm_mu_jax.conversion.convert import ConvertOptions

    options = ConvertOptions(
        template=_TEMPLATE.value,
        chat_template=_CHAT_TEMPLATE.value,
        system=_SYSTEM.value,
        dtype=_DTYPE.value,
        allow_pickle=_ALLOW_PICKLE.value,
        vision_tower=_VISION_TOWER.value,
        lora=_LORA.value,
        overwrite=_OVERWRITE.value,
    )
    _import(_SOURCE.value, _OUT.value, options)


def _import(source: str, out: str, options: "ConvertOptions") -> None:
    from vlm_mu_jax import progress
    from vlm_mu_jax.conversion.convert import convert

    done = convert(source, out, options, progress.bar)
    print(f"{out}: {done.describe()}")
    for warning in done.warnings:
        print(f"warning: {warning}")
    if not done.has_tokenizer:
        print(f"warning: {source} has no tokenizer files; most commands need them beside the weights")


def _export(source: str, out: str, options: "ExportOptions", repository: str | None, dry_run: bool) -> None:
    from vlm_mu_jax import progress
    from vlm_mu_jax.conversion import push
    from vlm_mu_jax.conversion.exporter import export

    if repository is not None:
        push.check_name(repository)
    done = export(source, out, options, progress.bar)
    print(f"{out}: {done.describe(source)}")
    if repository is not None:
        push.push(done.folder, repository, dry_run, print)


if __name__ == "__main__":
    command.run(main, __doc__)
