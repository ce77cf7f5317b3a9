"""Which chat template a checkpoint gets: its own, one that is asked for, or the one that its kind is known to have."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.data import chat_template
from vlm_mu_jax.data.chat_template import OWN, TEMPLATES, JinjaTemplate
from vlm_mu_jax.errors import InputError

_LLAVA_15 = re.compile(r"llava[-_]?v?1[._-]?[56]")
_OTHER_FAMILIES = re.compile(r"llama[-_]?[23]|34b|hermes|yi-|qwen|phi|gemma|mpt|mistral")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A checkpoint's chat template.

    Attributes:
      name: a name of `TEMPLATES`, or "own".
      origin: where it comes from, for people.
      own: the template of that name "own".
      system: the system text of conversations that have none of their own; None = the template's.
    """

    name: str
    origin: str
    own: JinjaTemplate | None = None
    system: str | None = None

    def facts(self) -> dict[str, Any]:
        """What provenance says of it."""
        sha256 = {} if self.own is None else {"sha256": self.own.sha256}
        return {"name": self.name, "from": self.origin, **sha256, "system": self.system}

    def write(self, folder: Path) -> None:
        """Makes the template the own one of a model folder, unless it is already."""
        if self.own is not None and chat_template.of_folder(folder) != self.own:
            (folder / chat_template.FILE).write_text(self.own.source, encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the caller wants of the chat template.

    Attributes:
      template: "auto", "own", or a name of `TEMPLATES`.
      chat_template: a jinja file to take instead.
      system: a system text to use in place of the template's.
    """

    template: str = "auto"
    chat_template: str | Path | None = None
    system: str | None = None


def choose_template(
    folder: Path, wanted: Wanted, hf_config: Mapping[str, Any], dialect: str, named: Sequence[str] = ()
) -> Chosen:
    """The template of a checkpoint. "auto" takes the checkpoint's own, or else what its kind is known to have.

    Args:
      folder: where the checkpoint's tokenizer is.
      hf_config: its config.json.
      dialect: spelling of its tensors' names.
      named: what the checkpoint and its parts are called, which may say the kind.

    Raises:
      InputError: the wanted template does not exist or is none, or nothing says which one the checkpoint was trained
        with.
    """
    if wanted.chat_template is not None:
        if wanted.template != "auto":
            raise InputError("--chat_template and --template both choose the template; give one")
        return Chosen(OWN, str(wanted.chat_template), chat_template.read(Path(wanted.chat_template)), wanted.system)
    if wanted.template not in ("auto", OWN, *TEMPLATES):
        raise InputError(f"--template={wanted.template}: not known; use auto, own or one of {', '.join(TEMPLATES)}")
    if wanted.template in TEMPLATES:
        return Chosen(wanted.template, "--template", None, wanted.system)
    own = chat_template.of_folder(folder)
    if own is not None:
        return Chosen(OWN, "the checkpoint", own, wanted.system)
    name = None if wanted.template == OWN else _by_kind(folder, hf_config, dialect, named)
    if name is None:
        raise InputError(
            f"{folder}: has no chat template, and nothing says which one it was trained with; give --template="
            f"{'|'.join(TEMPLATES)}, or a jinja file with --chat_template"
        )
    return Chosen(name, "the kind of checkpoint", None, wanted.system)


def _by_kind(folder: Path, hf_config: Mapping[str, Any], dialect: str, named: Sequence[str]) -> str | None:
    """What checkpoints without a chat template had in their code: fastchat and llava conversation.py."""
    names = " ".join([*map(str, named), str(_name(folder)), str(hf_config.get("_name_or_path")), str(folder.resolve())])
    names = names.lower()
    vicuna = "vicuna" in names or bool(_LLAVA_15.search(names) and not _OTHER_FAMILIES.search(names))
    if "vision_config" not in hf_config:
        return "vicuna_v1" if vicuna else "plain"  # a text model without a template is a base model
    language = hf_config.get("text_config", {}).get("model_type", "llama")
    if dialect.startswith("llava_original"):
        return {"mistral": "mistral_instruct", "llama": "vicuna_v1" if vicuna else None}.get(language)
    # Early llava-hf revisions of 1.5 and 1.6.
    if language == "mistral" and hf_config["model_type"] == "llava_next":
        return "mistral_instruct"
    return "llava_hf" if language in ("llama", "mistral") else None


def _name(folder: Path) -> Any:
    """What the checkpoint's own config calls it; an original LLaVA's is not kept in ours."""
    return chat_template.json_object(folder / "config.json").get("_name_or_path")
