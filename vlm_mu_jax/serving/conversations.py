"""Messages of a chat request as the prompt that the model reads."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_mu_jax.data.records import ImagePart, Turn
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.serving.pictures import PictureLimits, read_picture
from vlm_mu_jax.serving.prompt_runs import ServedPrompt
from vlm_mu_jax.serving.requests import RequestError, check_text, shown
from vlm_mu_jax.storage.model_folder import Model

MOST_MESSAGES = 1000


def chat_prompt(messages: Any, model: Model, limits: PictureLimits) -> ServedPrompt:
    """The prompt of a conversation, in the checkpoint's chat template.

    Raises:
      RequestError: messages that are none, or an image that cannot be read.
      InputError: what the template refuses.
    """
    if not isinstance(messages, list) or not messages or len(messages) > MOST_MESSAGES:
        raise RequestError(f"messages must be a list of 1 to {MOST_MESSAGES} messages", "messages")
    reading = _Reading(model, limits)
    system, turns = None, []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role in ("system", "developer") and i == 0:
            system = "".join(reading.parts(message, where, images=False))
        elif role in ("user", "assistant"):
            turns.append(Turn(role, tuple(reading.parts(message, where, images=role == "user"))))
        else:
            wanted = "user or assistant, or system for the first" if isinstance(message, dict) else "an object"
            raise RequestError(f"{where}: role must be {wanted}, not {shown(role)}", where)
    if not turns or turns[-1].role != "user":
        raise RequestError("the last message must be the user's", "messages")
    processor, pictures = model.processor, reading.pictures
    ids = processor.conversation_ids(turns, pictures, system)
    words = [Turn(turn.role, tuple(part for part in turn.parts if isinstance(part, str))) for turn in turns]
    text_ids = processor.conversation_ids(words, (), system) if pictures else ids
    pixels = tuple(processor.pixels(picture) for picture in processor.together(pictures))
    return ServedPrompt(tuple(ids), pixels, tuple(reading.names), tuple(text_ids))


def text_prompt(given: str | Sequence[int], model: Model) -> ServedPrompt:
    """The prompt of a plain completion: a text, without a template, or token ids. Raises RequestError."""
    processor, cfg = model.processor, model.config
    ids = processor.plain_ids(given) if isinstance(given, str) else list(given)
    if not ids:
        raise RequestError("the prompt is empty", "prompt")
    if not all(0 <= i < cfg.text.V for i in ids) or cfg.image_token_id in ids:
        raise RequestError("prompt holds ids that are no text tokens of this model", "prompt")
    return ServedPrompt(tuple(ids), text_ids=tuple(ids))


class _Reading:
    """Parts of messages, and the pictures among them in order."""

    def __init__(self, model: Model, limits: PictureLimits):
        self.model, self.limits, self.pictures, self.names = model, limits, [], []

    def parts(self, message: Mapping[str, Any], where: str, images: bool) -> list[str | ImagePart]:
        unknown = [k for k, v in message.items() if k not in ("role", "content", "name", "refusal") and v]
        if unknown:
            raise RequestError(f"{where}: {shown(unknown[0])} is not supported by this server", where)
        content = message.get("content")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list):
            raise RequestError(f"{where}: content must be a text or a list of parts", f"{where}.content")
        return [self._part(part, f"{where}.content[{k}]", images) for k, part in enumerate(content)]

    def _part(self, part: Any, where: str, images: bool) -> str | ImagePart:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            check_text(part["text"], where)
            return part["text"]
        if kind != "image_url":
            raise RequestError(f"{where}: a part is a text or an image_url, not {shown(kind)}", where)
        given = part.get("image_url")
        url = given.get("url") if isinstance(given, dict) else given
        if not isinstance(url, str):
            raise RequestError(f"{where}: image_url holds no url", where)
        return self._image(url, where, images)

    def _image(self, url: str, where: str, images: bool) -> ImagePart:
        if not images:
            raise RequestError(f"{where}: only the user's messages may hold images", where)
        if self.model.config.vision is None:
            raise RequestError(f"{where}: this model reads no images", where)
        if len(self.pictures) == self.limits.number:
            raise RequestError(f"{where}: at most {self.limits.number} images a request", where)
        try:
            picture, name = read_picture(url, self.limits)
        except InputError as error:
            raise RequestError(f"{where}: {error}", f"{where}.image_url") from None
        self.pictures.append(picture)
        self.names.append(name)
        return ImagePart("image")
