"""Converts a Hugging Face checkpoint (LLaVA-1.5 or Llama family, safetensors) into our model folder, and back.

The way back (--export) writes a folder that `transformers` loads; unless the weights were trained or cast in between,
it holds the same tensors bit for bit. Nothing is downloaded when --source is a local folder.

Example:
  bin/convert_hf --source=llava-hf/llava-1.5-7b-hf --out=runs/base
  bin/convert_hf --export --source=runs/npo --out=runs/npo_hf
"""

from absl import flags

from vlm_mu_jax.cli import command

_SOURCE = flags.DEFINE_string(
    "source", None, "checkpoint folder or hub id; with --export our model folder or a run's workdir", required=True
)
_OUT = flags.DEFINE_string("out", None, "folder to write", required=True)
_EXPORT = flags.DEFINE_bool("export", False, "from our format to Hugging Face's")
_TEMPLATE = flags.DEFINE_string(
    "template", "auto", "conversation template of the model; auto reads it off the checkpoint's chat template"
)
_DTYPE = flags.DEFINE_string("dtype", None, "cast weights to float32, bfloat16 or float16; default: as they are stored")
_DIALECT = flags.DEFINE_string(
    "dialect", None, "with --export: spelling of the tensor names; default: that of the original checkpoint"
)


def main(argv: list[str]) -> None:
    """Runs the conversion the flags ask for."""
    from vlm_mu_jax.errors import InputError

    if _EXPORT.value:
        if _DTYPE.value or _TEMPLATE.value != "auto":
            raise InputError("--dtype and --template do nothing with --export; leave them out")
        _export()
    else:
        if _DIALECT.value:
            raise InputError("--dialect does nothing without --export; leave it out")
        _import()


def _import() -> None:
    from vlm_mu_jax import model_folder
    from vlm_mu_jax.cli import progress
    from vlm_mu_jax.convert import importer
    from vlm_mu_jax.convert.template import choose_template
    from vlm_mu_jax.folders import check_replaceable

    check_replaceable(_OUT.value, model_folder.SETTINGS)
    done = importer.import_checkpoint(_SOURCE.value, _DTYPE.value, progress.bar)
    template = choose_template(done.folder, _TEMPLATE.value, done.config.vision is not None)
    print(f"writing {_OUT.value} ...", flush=True)
    model_folder.write_model_folder(
        _OUT.value, done.params, done.hf_config, done.folder, template, done.dialect, done.provenance
    )
    print(f"{_OUT.value}: {_size(done.params)}, {done.dtype}, template {template}, from {done.dialect} tensor names")
    if not model_folder.has_tokenizer(done.folder):
        print(f"warning: {done.folder} has no tokenizer files; most commands need them beside the weights")


def _export() -> None:
    from vlm_mu_jax.cli import progress
    from vlm_mu_jax.convert import exporter

    exporter.export_checkpoint(_SOURCE.value, _OUT.value, _DIALECT.value, progress=progress.bar)
    print(f"{_OUT.value}: written; transformers loads it")


def _size(params: dict) -> str:
    from vlm_mu_jax.model.params import flatten

    count = sum(leaf.size for leaf in flatten(params).values())
    return f"{count / 1e9:.2f} billion parameters" if count >= 1e8 else f"{count:,} parameters"


if __name__ == "__main__":
    command.run(main, __doc__)
