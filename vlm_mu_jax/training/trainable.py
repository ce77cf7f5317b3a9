"""What trains: whole parameters by path pattern, slices of stacked layers, and LoRA pairs.

Only what trains has gradients and optimizer state. For RMU on layers 5..7 the trainable leaf is the [3, F, D] slice,
not the [L, F, D] stack. Inside the loss the decoder runs blocks 5..7 on the slice and all others on the frozen stack.
That stack still holds the originals, so it is the reference model without a second copy. Below block 5 nothing is kept
for the backward pass, and above block 7 no weight gets a gradient.

Trainable leaves are master copies, by default in float32. They are rounded to the model's dtype when the weights are
assembled. Without them, in bfloat16, a step of 5e-7 on a weight of 0.02 would be lost to rounding.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model import lora as lora_lib
from vlm_mu_jax.model.params import Params, ParamSpec, Specs, flatten, unflatten
from vlm_mu_jax.model.stacks import Stack, freeze
from vlm_mu_jax.model.stored import StoredLinear, merged

Tree = dict[str, Any]
Dtypes = Mapping[str, Any]  # parameter path -> dtype


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which parameters train.

    Attributes:
      select: regular expressions over whole paths, such as "decoder/layers/w.*". A parameter trains when one of them
        matches its path in full.
      slices: (path, layers) pairs. Of these stacks only the given layers train.
      lora_rank: rank of LoRA adapters; 0 for none.
      lora_alpha: adapters are scaled by alpha / rank.
      lora_targets: regular expressions over the decoder's linears, which get adapters.
      master_dtype: dtype of the trained copies, and so of the sums of gradients and of the optimizer state. None keeps
        the model's.

    Raises:
      InputError: a negative rank.
    """

    select: tuple[str, ...] = (".*",)
    slices: tuple[tuple[str, tuple[int, ...]], ...] = ()
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = (".*",)
    master_dtype: str | None = "float32"

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise InputError(f"train.lora_rank must be 0, for no adapters, or more, not {self.lora_rank}")

    @classmethod
    def of(
        cls, select: Sequence[str] = (".*",), slices: Mapping[str, Sequence[int]] | None = None, **rest: Any
    ) -> "Selection":
        """From lists and a dict, as written in configs."""
        pairs = tuple(sorted((path, tuple(layers)) for path, layers in (slices or {}).items()))
        return cls(tuple(select), pairs, **{k: tuple(v) if isinstance(v, list) else v for k, v in rest.items()})

    @property
    def lora_scale(self) -> float:
        return self.lora_alpha / self.lora_rank if self.lora_rank else 0.0


ALL = Selection()
FROZEN_VISION = Selection(select=("decoder/.*", "projector/.*"))  # what LLaVA and the seed code train


def selected_paths(selection: Selection, specs: Specs) -> list[str]:
    """Paths of the parameters that train whole.

    Raises:
      InputError: a pattern or slice that matches nothing, a layer out of range, a path chosen twice, nothing chosen.
    """
    flat = flatten(specs)
    for pattern in selection.select:
        if not any(re.fullmatch(pattern, path) for path in flat):
            raise InputError(f"train.select: {pattern!r} matches no parameter; paths look like {_examples(flat)}")
    chosen = [path for path in flat if any(re.fullmatch(pattern, path) for pattern in selection.select)]
    for path, layers in selection.slices:
        if path not in flat or flat[path].axes[0] != "layers":
            raise InputError(
                f"train.slices: {path!r} is no stacked parameter; they look like {_examples(flat, 'layers/')}"
            )
        if path in chosen:
            raise InputError(f"train.slices: {path!r} also matches train.select; choose the whole stack or some layers")
        depth = flat[path].shape[0]
        if not layers or len(set(layers)) != len(layers) or not all(0 <= layer < depth for layer in layers):
            raise InputError(f"train.slices: {path!r} has layers 0..{depth - 1}, not {list(layers)}")
    if not chosen and not selection.slices and not selection.lora_rank:
        raise InputError("nothing trains: set train.select, train.slices or train.lora_rank")
    return chosen


def _examples(flat: Mapping[str, Any], part: str = "") -> str:
    return ", ".join([path for path in flat if part in path][:3])


def trainable_specs(selection: Selection, specs: Specs) -> Tree:
    """Declarations of the trainable tree: {"weights", "slices", "lora"}, each present only when it holds something."""
    flat = flatten(specs)
    parts = {"weights": unflatten({path: flat[path] for path in selected_paths(selection, specs)})}
    parts["slices"] = unflatten(
        {
            path: ParamSpec((len(layers), *flat[path].shape[1:]), flat[path].axes, flat[path].init)
            for path, layers in selection.slices
        }
    )
    parts["lora"] = (
        lora_lib.lora_specs(specs, selection.lora_targets, selection.lora_rank) if selection.lora_rank else {}
    )
    return {name: part for name, part in parts.items() if part}


def split(
    params: Params, selection: Selection, specs: Specs, key: jax.Array, keep_originals: bool
) -> tuple[Tree, Tree]:
    """Trainable tree and frozen tree.

    Args:
      params: all weights; they stay valid (trainable leaves are copies).
      key: for new LoRA pairs.
      keep_originals: also keep the start values of parameters that train whole. An objective needs them when it
        compares with the model before training in every step (Hold, KL, UNDIAL). Slices and LoRA need no copy.
    """
    flat, chosen = flatten(params), selected_paths(selection, specs)
    master = None if selection.master_dtype is None else jnp.dtype(selection.master_dtype)
    slices = tuple((path, tuple(layers)) for path, layers in selection.slices)
    whole, stacks = ({path: flat[path] for path in paths} for paths in (chosen, dict(slices)))
    weights, parted = _copied(whole, stacks, slices, master)
    parts: Tree = {"weights": unflatten(weights), "slices": unflatten(parted)}
    if selection.lora_rank:
        parts["lora"] = lora_lib.init_lora(specs, selection.lora_targets, selection.lora_rank, key)
    gone = () if keep_originals else set(chosen)
    return {name: part for name, part in parts.items() if part}, unflatten(
        {p: x for p, x in flat.items() if p not in gone}
    )


@functools.partial(jax.jit, static_argnames=("slices", "master"))
def _copied(
    whole: dict[str, jax.Array],
    stacks: dict[str, jax.Array],
    slices: tuple[tuple[str, tuple[int, ...]], ...],
    master: Any,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Copies of whole parameters, and of some layers of others. One program: outside of it each shape would be one."""

    def copy(leaf: jax.Array) -> jax.Array:
        return jnp.array(leaf, dtype=master or leaf.dtype, copy=True)

    sliced = {path: copy(stacks[path][np.array(layers)]) for path, layers in slices}
    return {path: copy(leaf) for path, leaf in whole.items()}, sliced


def dtypes(params: Params) -> Dtypes:
    """Dtype of every parameter: assembled weights have them again."""
    return {path: leaf.dtype for path, leaf in flatten(params).items()}


def assemble(trainable: Tree, frozen: Tree, selection: Selection, dtypes: Dtypes) -> tuple[Params, dict | None]:
    """Parameters and adapters for `forward`, differentiable in `trainable`.

    With slices or adapters, decoder stacks that do not train whole come as `stacks.Stack`, whose frozen layers cost no
    gradient and are read in place.
    """
    flat, sliced = _merged_whole(trainable, frozen, dtypes)
    for path, layers in selection.slices:
        part = sliced[path].astype(dtypes[path])
        in_decoder = path.startswith(lora_lib.PREFIX)
        flat[path] = Stack(flat[path], part, layers) if in_decoder else _written(flat[path], part, layers)
    params = unflatten(flat)
    if selection.lora_rank or any(path.startswith(lora_lib.PREFIX) for path, _ in selection.slices):
        whole = flatten(trainable.get("weights", {}))
        blocks = params["decoder"]["layers"]
        frozen_blocks = {name: leaf for name, leaf in blocks.items() if lora_lib.PREFIX + name not in whole}
        params["decoder"]["layers"] = blocks | freeze(frozen_blocks)
    return params, _adapters(trainable, selection, dtypes)


def rests(prefix: str, selection: Selection, specs: Specs) -> bool:
    """Whether no parameter below this path trains."""
    paths = {*selected_paths(selection, specs), *(path for path, _ in selection.slices)}
    return not any(path.startswith(prefix) for path in paths)


def shared_blocks(selection: Selection, specs: Specs) -> int | None:
    """How many leading decoder blocks compute the same under the weights in training and before it.

    None: not even the embedded tokens are the same.
    """
    outside = {"decoder/norm_D", "decoder/head_DV"}  # read after the last block
    paths = set(selected_paths(selection, specs)) - outside | {path for path, _ in selection.slices}
    if not all(path.startswith(lora_lib.PREFIX) for path in paths):
        return None
    if selection.lora_rank or paths - {path for path, _ in selection.slices}:
        return 0
    return min((layer for _, layers in selection.slices for layer in layers), default=_depth(specs))


def finished(trainable: Tree, frozen: Tree, selection: Selection, dtypes: Dtypes) -> Params:
    """The trained weights as an ordinary parameter tree, adapters merged in."""
    flat, sliced = _merged_whole(trainable, frozen, dtypes)
    for path, layers in selection.slices:
        flat[path] = _written(flat[path], sliced[path].astype(dtypes[path]), layers)
    params, lora = unflatten(flat), _adapters(trainable, selection, dtypes)
    if any(isinstance(leaf, StoredLinear) for leaf in flat.values()):
        return merged(params, lora)
    return params if lora is None else lora_lib.merge(params, lora)


def _merged_whole(trainable: Tree, frozen: Tree, dtypes: Dtypes) -> tuple[dict[str, Any], dict[str, Any]]:
    """All parameters by path, with those that train whole as they are now; and the trained slices by path."""
    flat = flatten(frozen)
    for path, leaf in flatten(trainable.get("weights", {})).items():
        flat[path] = leaf.astype(dtypes[path])
    return flat, flatten(trainable.get("slices", {}))


def _depth(specs: Specs) -> int:
    return specs["decoder"]["layers"]["wq_LDNH"].shape[0]


def _written(stack: jax.Array, part: jax.Array, layers: tuple[int, ...]) -> jax.Array:
    return stack.at[jnp.asarray(layers)].set(part)


def _adapters(trainable: Tree, selection: Selection, dtypes: Dtypes) -> dict | None:
    if "lora" not in trainable:
        return None
    return lora_lib.adapters(trainable["lora"], selection.lora_scale, dtypes[lora_lib.PREFIX + "wq_LDNH"])
