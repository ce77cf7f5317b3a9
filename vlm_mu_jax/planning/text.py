"""A plan as lines of text."""

from typing import Any

_GIB = 2**30


def text(found: dict[str, Any]) -> str:
    """Lines for people."""
    lines = [f"{found['what']} on {found['topology']}: {found['chips']} x {found['chip']}", *found["about"]]
    lines.append(f"basis        {found['basis']}")
    lines.append(_memory(found))
    if "roofline" in found:
        lines += _speed(found)
    need, have = found["peak_bytes_per_chip"], found["hbm_bytes"]
    verdict = "fits" if found["fits"] else "does not fit"
    if need:
        lines.append(f"verdict      {verdict}: {need / _GIB:.2f} of {have / _GIB:.2f} GiB per chip")
    else:
        lines.append(f"verdict      {verdict} into {have / _GIB:.2f} GiB per chip")
    if "advice" in found:
        lines.append(f"change       {found['advice']}")
    return "\n".join(lines)


def _memory(found: dict[str, Any]) -> str:
    parts = [
        ("arguments", "argument_bytes"),
        ("temporaries", "temporary_bytes"),
        ("outputs", "output_bytes"),
        ("of them in place", "aliased_bytes"),
        ("peak", "peak_bytes_per_chip"),
    ]
    shown = [f"{name} {found[key] / _GIB:.2f}" for name, key in parts if found.get(key) is not None]
    return f"memory       {', '.join(shown)} GiB per chip"


def _speed(found: dict[str, Any]) -> list[str]:
    bounds, unit = found["roofline"], found["unit"]
    executed = found["executed_flops_per_chip"] * found["chips"]
    lines = [
        f"FLOPs        {found['flops_per_step']:.3e} per {unit} (analytic); the program executes {executed:.3e}",
        "collectives  "
        + (
            ", ".join(
                f"{kind} {one['count']:.0f} ({one['bytes'] / 1e9:.1f} GB, {one['sent'] / 1e9:.1f} GB sent per chip)"
                for kind, one in found["collectives"].items()
            )
            or "none"
        ),
        f"roofline     {found['roofline_seconds']:.3f} s per {unit}, bound by {found['bound']} "
        f"(compute {bounds['compute']:.3f}, memory {bounds['memory']:.3f}, links {bounds['links']:.3f}); "
        f"MFU {100 * found['mfu_at_roofline']:.0f} % there",
    ]
    if "tokens_per_second" in found:
        lines.append(f"tokens       {found['tokens_per_second']:.0f} per second at the roofline, on all chips")
        lines.append(f"per turn     {per_turn(found)}")
    if found["kernels"]:
        lines.append("kernels      " + ", ".join(f"{name} {n:.0f}" for name, n in found["kernels"].items()))
    return lines


def per_turn(found: dict[str, Any]) -> str:
    """Collectives of one forward pass of generation (the prefill's share included), by kind: number x mean size."""
    kinds = [(kind, one["count"], one["bytes"]) for kind, one in found["collectives_per_turn"].items() if one["count"]]
    return ", ".join(f"{kind} {count:.0f} x {size / count / 1024:.0f} KiB" for kind, count, size in kinds) or "none"
