"""Chat templates: conversations as the text that a model was trained with.

A checkpoint's own template is jinja. It is rendered as transformers renders it, in the same sandbox: the template is a
stranger's code, and its length and that of what it prints are limited. The named templates serve checkpoints that have
none, as those of the original LLaVA and Vicuna, whose templates are in their code only.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.data import template_limits
from vlm_mu_jax.data.records import Turn
from vlm_mu_jax.data.template_limits import LONGEST_TEXT
from vlm_mu_jax.errors import InputError

OWN = "own"  # the name of a checkpoint's own template
FILE = "chat_template.jinja"  # where a model folder of ours keeps it, and transformers reads it
LONGEST_SOURCE = 1 << 18  # characters of a template; the longest published ones have some 2 ** 14
_PROBE = "vlm-mu-probe"

Message = dict[str, Any]  # {"role": "system" | "user" | "assistant", "content": [{"type": "text" | "image", ...}]}


def to_messages(turns: Sequence[Turn], system: str | None = None) -> list[Message]:
    """The conversation as transformers takes it, every content a list of parts."""
    messages = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    for turn in turns:
        parts = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in turn.parts]
        messages.append({"role": turn.role, "content": parts})
    return messages


@dataclasses.dataclass(frozen=True)
class NamedTemplate:
    """A template as the few texts that it consists of.

    A question is `before` + images + words + `after`. An answer is `gap` + words, then `end`. The system text stands in
    front of the first question, in `system_form`.

    Attributes:
      system: the template's own system text; "" for none.
      end: what ends an answer; "" = the model's end token. Another text must be an end token too (as Llama 3's), or
        generation runs on behind it and `Processor.decode` cuts it off.
      between: what stands between the placeholders of two images; a line break stands behind the last.
    """

    before: str
    after: str
    gap: str = " "
    end: str = ""
    between: str = "\n"
    system: str = ""
    system_form: str = "{} "
    name: str = ""

    @property
    def identity(self) -> str:
        return self.name

    def render(self, messages: Sequence[Message], ready: bool, image: str, special: Mapping[str, str]) -> str:
        """The conversation's text, its images as one placeholder `image` each, in front of their turn's words.

        Args:
          messages: as of `to_messages`.
          ready: whether an answer is asked for; these templates print the same either way.
          special: texts of the model's special tokens; `eos_token` ends the answers before the last.
        """
        own = self.system_form.format(self.system) if self.system else ""
        text = ""
        for number, message in enumerate(messages):
            words = "".join(part["text"] for part in message["content"] if part["type"] == "text")
            count = sum(part["type"] == "image" for part in message["content"])
            if message["role"] == "system":
                own = self.system_form.format(words)
            elif message["role"] == "user":
                pictures = self.between.join([image] * count) + "\n" if count else ""
                text += (
                    f"{self.before}{own}{pictures}{words}{self.after}"
                    if self.system_inside
                    else (f"{own}{self.before}{pictures}{words}{self.after}")
                )
                own = ""
            else:
                last = number == len(messages) - 1
                text += self.gap + words + (self.end or ("" if last else special.get("eos_token", "")))
        return text

    @property
    def system_inside(self) -> bool:
        """Whether the system text belongs into the first question, as Llama 2's does."""
        return "<<SYS>>" in self.system_form


_SYSTEM = (
    "A chat between a curious {who} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {who}'s questions."
)
# Sources: haotian-liu/LLaVA@c121f04:llava/conversation.py (conv_vicuna_v1, conv_llava_v1, conv_llava_v0,
# conv_mistral_instruct, conv_llava_plain) and the chat templates of the llava-hf checkpoints: llava_hf of LLaVA-1.5 and
# of 1.6 with Vicuna, mistral_instruct of 1.6 with Mistral, llama_3 of llama3-llava-next (which puts its line break
# before the question even without an image; here a question alone is what Llama 3 itself has).
TEMPLATES = {
    "llava_hf": NamedTemplate("USER: ", " ASSISTANT:"),
    "vicuna_v1": NamedTemplate("USER: ", " ASSISTANT:", system=_SYSTEM.format(who="user")),
    "llava_v1": NamedTemplate("USER: ", " ASSISTANT:", system=_SYSTEM.format(who="human")),
    "llava_v0": NamedTemplate(
        "###Human: ", "###Assistant:", end="###", system=_SYSTEM.format(who="human"), system_form="{}"
    ),
    "mistral_instruct": NamedTemplate("[INST] ", " [/INST]", system_form="<<SYS>>\n{}\n<</SYS>>\n\n"),
    "llama_3": NamedTemplate(
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        gap="",
        end="<|eot_id|>",
        between="",
        system_form="<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
    ),
    "plain": NamedTemplate("", "\n", "", system_form="{}\n"),
}
TEMPLATES = {name: dataclasses.replace(one, name=name) for name, one in TEMPLATES.items()}


@dataclasses.dataclass(frozen=True)
class JinjaTemplate:
    """A checkpoint's own template, or one given as a file.

    Attributes:
      source: the jinja text.
      name: what it is called in files and messages.

    Raises InputError when the source is too long or no template.
    """

    source: str
    name: str = OWN
    end: str = ""  # what `decode` cuts an answer at: a template's ends are tokens, which it never sees

    def __post_init__(self):
        if len(self.source) > LONGEST_SOURCE:
            raise InputError(
                f"the chat template has {len(self.source)} characters, more than {LONGEST_SOURCE}; is it one?"
            )
        self._compiled  # noqa: B018 (a template that is none is refused here)

    @property
    def identity(self) -> str:
        """Name and hash: equal for equal templates alone."""
        return f"{self.name}:{self.sha256[:12]}"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.source.encode("utf-8", "replace")).hexdigest()

    def render(self, messages: Sequence[Message], ready: bool, image: str, special: Mapping[str, str]) -> str:
        """The conversation's text as `apply_chat_template` gives it.

        Args:
          messages: as of `to_messages`.
          ready: whether the text ends where an answer begins (`add_generation_prompt`).
          image: the placeholder of an image, for a template that takes texts alone.
          special: texts of the model's special tokens, which a template may use by name.

        Raises InputError for what the template refuses, or when it prints too much.
        """
        if not self.takes_parts:
            messages = [{**one, "content": _as_text(one["content"], image)} for one in messages]
        return self._print(messages, ready, special)

    @functools.cached_property
    def takes_parts(self) -> bool:
        """Whether a message's content may be a list of parts; else it is one text."""
        try:
            text = self._print([{"role": "user", "content": [{"type": "text", "text": _PROBE}]}], True, {})
        except InputError:
            return False
        return _PROBE in text and "'type'" not in text and '"type"' not in text

    @functools.cached_property
    def _compiled(self) -> Any:
        import jinja2
        from transformers.utils.chat_template_utils import _compile_jinja_template  # heavy import

        try:
            # transformers' own sandbox, with its filters and functions
            return template_limits.compiled(_compile_jinja_template("").environment, self.source)
        except jinja2.TemplateError as error:
            raise InputError(f"the chat template is no jinja template ({_line(error)}); correct it") from None
        except (RecursionError, OverflowError):
            raise InputError("the chat template is nested too deeply; correct it") from None

    def _print(self, messages: Sequence[Message], ready: bool, special: Mapping[str, str]) -> str:
        import jinja2

        values = {**special, "messages": messages, "add_generation_prompt": ready, "tools": None, "documents": None}
        pieces, length = [], 0
        try:
            with template_limits.limited():
                for piece in self._compiled.generate(**values):
                    pieces.append(piece)
                    length += len(piece)
                    if length > LONGEST_TEXT:
                        raise InputError(f"the chat template prints more than {LONGEST_TEXT} characters; correct it")
        except jinja2.TemplateError as error:  # what the template itself refuses comes as one, too
            raise InputError(f"the chat template refuses the conversation: {_line(error)}") from None
        except InputError:
            raise
        except Exception as error:  # a stranger's code raises anything
            raise InputError(f"the chat template fails on the conversation: {_line(error)}") from None
        return "".join(pieces)


ChatTemplate = NamedTemplate | JinjaTemplate


def get(template: "str | ChatTemplate") -> "ChatTemplate":
    """The template itself, or the named one of that name. Raises InputError for a name that is none."""
    if not isinstance(template, str):
        return template
    if template not in TEMPLATES:
        raise InputError(f"template {template!r} is unknown; use one of {', '.join(TEMPLATES)}")
    return TEMPLATES[template]


def read(path: Path) -> "JinjaTemplate":
    """The template of a file. Raises InputError when it is missing, unreadable or no template."""
    try:
        return JinjaTemplate(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such chat template; convert the model again, or name a template") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a chat template ({_line(error)})") from None


def of_folder(folder: str | Path) -> "JinjaTemplate | None":
    """A checkpoint's own template, from the first place that has one where transformers keeps it; None for none.

    Of several named ones it is that called "default". Raises InputError when it is no template.
    """
    folder = Path(folder)
    if (folder / FILE).is_file():
        return read(folder / FILE)
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        found = json_object(folder / name).get("chat_template")
        if isinstance(found, list):
            found = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        if isinstance(found, dict):
            found = found.get("default", next(iter(found.values()), None) if len(found) == 1 else None)
        if isinstance(found, str) and found.strip():
            return JinjaTemplate(found)
    return None


def json_object(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is none. Broken files are reported by whoever needs them."""
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _as_text(parts: Sequence[Message], image: str) -> str:
    """Parts as one text. Images in front of the words stand on lines of their own, as LLaVA's do."""
    text = ""
    for i, part in enumerate(parts):
        if part["type"] == "text":
            text += part["text"]
        else:
            in_front = all(one["type"] == "image" for one in parts[:i])
            text += image + ("\n" if in_front else "")
    return text


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
