"""The table between Hugging Face checkpoints and our parameters, read in both directions.

A row says which tensor of the file is which parameter (or which layer of a stacked parameter) and how the array is
laid out in each. Spellings of the same checkpoint differ only in prefixes: a `Dialect` is nothing but those prefixes.
Rows and dialects are declared by the families (`model/families/`) and by the parts they are made of. File keys were
taken from `save_pretrained` of transformers 4 and 5 (5.23), see tests/conversion/test_names.py.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model import params as params_lib
from vlm_mu_jax.model.families import DIALECTS
from vlm_mu_jax.model.tensors import Dialect, Layout, Shape

# Tensors that old checkpoints carry and that hold no learned value: recomputed from the config.
IGNORED = (
    re.compile(r"(^|\.)rotary_emb\.inv_freq$"),
    re.compile(r"(^|\.)embeddings\.position_ids$"),
)

# What a whole CLIP checkpoint holds besides the vision tower: the text tower and the way into the common space.
CLIP_TEXT = (
    re.compile(r"^text_model\."),
    re.compile(r"^(text|visual)_projection\.weight$"),
    re.compile(r"^logit_scale$"),
)


def default_dialect(specs: params_lib.Specs) -> Dialect:
    """The dialect written when the weights came from nowhere else."""
    return fitting(specs)[0]


@dataclasses.dataclass(frozen=True)
class Slot:
    """One tensor of the file: which parameter it is, and which layer of it (None: not stacked)."""

    key: str
    path: str
    layer: int | None
    shape: Shape  # ours, without the layer axis
    layout: Layout

    @property
    def file_shape(self) -> Shape:
        return self.layout.file_shape(self.shape)

    def index(self) -> tuple[int, ...]:
        """Where this tensor sits in the parameter's array."""
        return () if self.layer is None else (self.layer,)


def slots(specs: params_lib.Specs, dialect: Dialect) -> Iterator[Slot]:
    """Every tensor that a checkpoint of this dialect holds for these parameters, stacked parameters layer by layer."""
    flat = params_lib.flatten(specs)
    unknown = flat.keys() - {row.path for row in dialect.rows}
    assert not unknown, f"parameters without a row in the name table: {sorted(unknown)}"
    for template, path, layout in dialect.rows:
        if path not in flat:
            continue
        shape = flat[path].shape
        layers = range(shape[0]) if "{l}" in template else (None,)
        for layer in layers:
            key = template.format(l=layer, **dialect.prefixes)
            yield Slot(key, path, layer, shape if layer is None else shape[1:], layout)


def for_adapters(dialect: str, specs: params_lib.Specs) -> Dialect:
    """The module names of the class that reads checkpoints of `dialect`, as adapters need them.

    That is transformers >= 4.52 whatever its files say, or LLaVA's own class for its own layout.
    """
    if dialect.startswith("llava_original"):
        return DIALECTS["llava_original"]
    return next((one for one in fitting(specs) if one.modules), default_dialect(specs))


def head(dialect: Dialect) -> str:
    """Key of the output matrix."""
    return dialect.head + "weight"


def embedding(dialect: Dialect) -> str:
    """Key of the token embeddings."""
    return dialect.text + "embed_tokens.weight"


def fitting(specs: params_lib.Specs) -> list[Dialect]:
    """The dialects that a model with these parameters can be spelled in, the usual one first."""
    paths = set(params_lib.flatten(specs))
    kind = [dialect for dialect in DIALECTS.values() if (dialect.vision is not None) == ("vision" in specs)]
    return [one for one in kind if paths.issuperset(one.marks) and paths <= {row.path for row in one.rows}]


def find_dialect(keys: Collection[str], specs: params_lib.Specs, source: str) -> Dialect:
    """The dialect that explains most of the file's keys.

    Raises:
      InputError: none explains a single one.
    """
    present = set(keys)
    scores = {dialect.name: sum(slot.key in present for slot in slots(specs, dialect)) for dialect in fitting(specs)}
    best = max(scores, key=scores.__getitem__)
    if not scores[best]:
        kind = "LLaVA" if "vision" in specs else "Llama-family"
        example = min(present, default="none at all")
        what = f"config.json says {kind}, but no tensor has such a name (found {example})"
        raise InputError(f"{source}: {what}; use another checkpoint")
    return DIALECTS[best]


def is_ignored(key: str) -> bool:
    return any(pattern.search(key) for pattern in IGNORED)


def is_clip_text(key: str) -> bool:
    """Whether a tensor of a CLIP checkpoint belongs to its text half."""
    return any(pattern.search(key) for pattern in CLIP_TEXT)
