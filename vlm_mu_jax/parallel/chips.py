"""What a chip can do: peak rate, memory and links, from the makers' data sheets. For MFU and rooflines."""

import dataclasses

_GIB = 2**30
_DOCS = "docs.cloud.google.com/tpu/docs/"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    flops: dense bfloat16 FLOP/s. memory: bytes a program may use; TPU: what the compiler of libtpu 0.0.42 allows; GPU:
    what nvidia-smi reports, less 1 GiB for the CUDA context. bandwidth: HBM bytes/s. links: bytes/s that leave the chip
    over all its links together (half of a data sheet's bidirectional figure). kinds: beginnings of jax's `device_kind`,
    the longest match wins. source: where rate, bandwidth and links stand.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    links: float
    kinds: tuple[str, ...]
    source: str


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 197e12, 15.75 * _GIB, 819e9, 200e9, ("TPU v5 lite", "TPU v5e"), _DOCS + "v5e"),
        Chip("v5p", 459e12, 95.74 * _GIB, 2765e9, 600e9, ("TPU v5", "TPU v5p"), _DOCS + "v5p"),
        Chip("v6e", 918e12, 31.25 * _GIB, 1638e9, 400e9, ("TPU v6 lite", "TPU v6e"), _DOCS + "v6e"),
        Chip("A100", 312e12, 79.0 * _GIB, 2039e9, 300e9, ("NVIDIA A100",), "NVIDIA A100 80GB SXM data sheet"),
        Chip("H100", 989e12, 78.6 * _GIB, 3350e9, 450e9, ("NVIDIA H100",), "NVIDIA H100 SXM data sheet, dense"),
        Chip("H200", 989e12, 139.4 * _GIB, 4800e9, 450e9, ("NVIDIA H200",), "NVIDIA H200 SXM data sheet, dense"),
        Chip("L4", 121e12, 21.5 * _GIB, 300e9, 32e9, ("NVIDIA L4",), "NVIDIA L4 data sheet, dense; PCIe 4.0 x16"),
    )
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip that a jax device is, None when it is not in the table (a CPU, another GPU)."""
    matches = [(len(kind), chip) for chip in CHIPS.values() for kind in chip.kinds if device_kind.startswith(kind)]
    return max(matches, key=lambda match: match[0])[1] if matches else None
