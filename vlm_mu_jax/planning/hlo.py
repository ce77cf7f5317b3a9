"""What one chip does in a compiled program, read from its HLO text: products, memory traffic, collectives.

XLA's own cost analysis counts the body of a loop once. Here every instruction counts as often as its computation runs:
a loop's body is multiplied by the trip count in the loop's condition, which is an upper bound where the loop may stop
early. The text of a kernel holds no products. Those of splash attention are known by name, others are only listed.
"""

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

# Products [T, T, H] per head in the kernels of splash attention (a causal mask skips half): scores and reads forward;
# scores, their gradient and the one wanted for queries; one more for keys and values.
_SPLASH = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f16": 16}  # of other types the digits say it
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "iota",
    "after-all",
    "partition-id",
    "replica-id",
    "copy-done",
}
_CUTS = ("dynamic-slice", "slice", "gather")  # what they read of an operand is as large as what they make


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array. fast: it lies in on-chip memory (layout S(1) of a TPU), not in HBM."""

    dtype: str
    dims: tuple[int, ...]
    fast: bool

    @property
    def bytes(self) -> int:
        bits = _BITS.get(self.dtype) or int(re.match(r"[a-z]+(\d+)", self.dtype)[1])
        return math.prod(self.dims) * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`name = shapes opcode(operands), attributes`. A tuple has more than one shape."""

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool


@dataclasses.dataclass
class Collective:
    """Collectives of one kind per run of the program. bytes: of the arrays they make (reduce-scatter: take). sent:
    bytes that leave one chip under ring algorithms."""

    count: float = 0
    bytes: float = 0
    sent: float = 0


@dataclasses.dataclass(frozen=True)
class Work:
    """Of one chip per run. flops: matrix products. traffic: bytes read from and written to HBM by all instructions.
    collectives: by kind. kernels: Pallas kernels by name, times run."""

    flops: float
    traffic: float
    collectives: dict[str, Collective]
    kernels: dict[str, float]


class Module:
    """A parsed HLO module."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        current: dict[str, Instruction] | None = None
        for line in text.splitlines():
            if current is None:
                header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
                if header:
                    current = self.computations[header[2]] = {}
                    self.entry = header[2] if header[1] else self.entry
            elif re.match(r"\}(,|$)", line):
                current = None
            elif found := _instruction(line):
                current[found.name] = found

    def work(self) -> Work:
        """Everything one chip does in one run."""
        flops = traffic = 0.0
        seen: dict[tuple, tuple[float, str, Instruction]] = {}
        kernels: Counter = Counter()
        times = self.times()
        fused = {
            name
            for body in self.computations.values()
            for i in body.values()
            if i.opcode == "fusion"
            for name in _called(i, "calls")
        }
        for name, count in times.items():
            for one in self.computations[name].values():
                flops += count * self._flops(one, name)
                traffic += 0 if name in fused else count * self._traffic(one, name)
                kind = one.opcode.removesuffix("-start")
                if kind in COLLECTIVES:
                    channel = re.search(r"channel_id=(\d+)", one.attributes)
                    key = (kind, channel[1] if channel else (name, one.name))  # a split one stands several times
                    if count > seen.get(key, (0,))[0]:
                        seen[key] = (count, "reduce-scatter" if name.startswith("all-reduce-scatter") else kind, one)
                elif kind == "custom-call" and 'custom_call_target="tpu_custom_call"' in one.attributes:
                    kernels[one.name.split(".")[0]] += count
        return Work(flops, traffic, _collectives(seen.values()), dict(kernels))

    def times(self) -> dict[str, float]:
        """How often each computation runs in one run of the program."""
        times: dict[str, float] = defaultdict(float)

        def visit(name: str, count: float) -> None:
            times[name] += count
            for one in self.computations[name].values():
                if one.opcode == "while":
                    body, condition = _called(one, "body")[0], _called(one, "condition")[0]
                    visit(body, count * self.trips(one, condition))
                else:
                    for key in ("calls", "to_apply", "branch_computations", "called_computations"):
                        for called in _called(one, key):
                            visit(called, count)

        visit(self.entry, 1.0)
        return dict(times)

    def trips(self, loop: Instruction, condition: str) -> int:
        """Times a loop's body runs: XLA's own annotation, or the bound of its counter over what each turn adds."""
        if known := re.search(r'known_trip_count[^}]*?"?n"?[:=]"?(\d+)', loop.attributes):
            return int(known[1])
        names = [condition]
        for one in self.computations[condition].values():
            names += _called(one, "calls")
        tests = [one for name in names for one in self.computations[name].values()]
        bound = max((int(one.attributes) for one in tests if _is_number(one)), default=1)
        return -(-bound // self._stride(tests, _called(loop, "body")[0]))

    def _stride(self, tests: list[Instruction], body_name: str) -> int:
        """What one turn adds to the counter (2 in loops that XLA unrolled), 1 when it is not written plainly."""
        body = self.computations[body_name]
        root = next(one for one in body.values() if one.root)
        for read in tests:
            place = re.search(r"index=(\d+)", read.attributes) if read.opcode == "get-tuple-element" else None
            added = body.get(root.operands[int(place[1])]) if place and root.opcode == "tuple" else None
            if added is not None and added.opcode == "add":
                steps = [body[name] for name in added.operands if name in body and _is_number(body[name])]
                return int(steps[0].attributes) if steps else 1
        return 1

    def _operand(self, computation: str, name: str) -> tuple[Shape, ...]:
        found = self.computations[computation].get(name)
        return found.shapes if found else ()

    def _flops(self, one: Instruction, computation: str) -> float:
        products = next((n for name, n in _SPLASH.items() if one.name.startswith(name)), 0)
        if one.opcode == "custom-call" and products:
            shapes = [shape for name in one.operands for shape in self._operand(computation, name)]
            queries = next(x.dims for x in shapes if len(x.dims) > 2 and x.dtype in ("bf16", "f16", "f32"))
            return float(products * math.prod(queries) * queries[-2])  # [(rows,) heads, T, H]
        if one.opcode not in ("dot", "convolution"):
            return 0.0
        left, right = (self._operand(computation, name)[0].dims for name in one.operands[:2])
        out = one.shapes[0].dims
        if one.opcode == "dot":
            contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)[1]
            return 2.0 * math.prod(out) * math.prod(left[int(d)] for d in contracted.split(",") if d)
        labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
        size = right[labels[2].index("i")] * math.prod(out[labels[3].index(label)] for label in "bf")
        for axis, pairs in _windows(one.attributes, left, out, labels).items():
            size *= pairs if axis is not None else 1
        return 2.0 * size

    def _traffic(self, one: Instruction, computation: str) -> float:
        """HBM bytes of one instruction outside of fusions; slices of a big array count as what they touch."""
        if one.opcode in _FREE or one.opcode.endswith("-done") or "AllocateBuffer" in one.attributes:
            return 0.0
        read = [self._operand(computation, name) for name in one.operands]
        if one.opcode == "fusion":
            return self._fusion_traffic(_called(one, "calls")[0], one, read)
        if one.opcode in _CUTS:
            return 2.0 * sum(_slow(one.shapes))
        if one.opcode == "dynamic-update-slice":
            return 2.0 * sum(_slow(read[1]))
        if one.opcode == "copy-start":  # (destination, source, context)
            return float(sum(_slow(one.shapes[:2])))
        shapes = one.shapes[-1:] if one.opcode.endswith("-start") else one.shapes
        return float(sum(_slow(shapes)) + sum(sum(_slow(shapes)) for shapes in read))

    def _fusion_traffic(self, body_name: str, one: Instruction, read: list[tuple[Shape, ...]]) -> float:
        total = 0.0
        for i, shapes in enumerate(read):
            whole = float(sum(_slow(shapes)))
            touched, passed_on = self._touched(body_name, i, whole) if whole else (0.0, False)
            total += whole if passed_on else touched
        body = self.computations[body_name]
        root = next(inner for inner in body.values() if inner.root)
        outputs = root.operands if root.opcode == "tuple" else [root.name]
        for name, shape in zip(outputs, one.shapes, strict=False):
            total += self._written(body_name, name, shape) if any(_slow((shape,))) else 0.0
        return total

    def _touched(self, body_name: str, number: int, whole: float) -> tuple[float, bool]:
        """Bytes that a fusion reads of its operand of this number, which has `whole` bytes, and whether that operand is
        what it makes. Fusions may be nested: that of a product holds the one that cuts a layer out of a stack."""
        body = self.computations[body_name]
        users: dict[str, list[Instruction]] = defaultdict(list)
        for inner in body.values():
            for operand in set(inner.operands):
                users[operand].append(inner)
        total, passed_on = 0.0, False
        names = [x.name for x in body.values() if x.opcode == "parameter" and int(x.attributes) == number]
        while names:
            name = names.pop()
            passed_on = passed_on or body[name].root
            for user in users[name]:
                if user.opcode in ("bitcast", "copy"):  # another layout, which inside a fusion nothing is written for
                    names.append(user.name)
                elif user.opcode in _CUTS:
                    total += sum(shape.bytes for shape in user.shapes)
                elif user.opcode == "fusion":
                    for i in (i for i, operand in enumerate(user.operands) if operand == name):
                        part, same = self._touched(_called(user, "calls")[0], i, whole)
                        total += part
                        names += [user.name] if same else []
                elif not (user.opcode == "dynamic-update-slice" and user.operands[0] == name):
                    return whole, False
        return min(total, whole), passed_on

    def _written(self, body_name: str, name: str, shape: Shape) -> float:
        """Bytes that a fusion writes of its output `shape`, which the instruction `name` makes."""
        body = self.computations[body_name]
        one = body[name]
        while one.opcode in ("bitcast", "copy", "convert", "fusion"):
            if one.opcode == "fusion":
                body = self.computations[_called(one, "calls")[0]]
                one = next(inner for inner in body.values() if inner.root)
            elif one.operands[0] in body:
                one = body[one.operands[0]]
            else:
                break
        changed = body[one.operands[1]].shapes if one.opcode == "dynamic-update-slice" else (shape,)
        return float(sum(part.bytes for part in changed))


def _slow(shapes: tuple[Shape, ...]) -> Iterator[int]:
    """Bytes of the arrays that lie in HBM (scalars do not)."""
    return (shape.bytes for shape in shapes if not shape.fast and shape.dims)


def _collectives(found: Iterator) -> dict[str, Collective]:
    totals: dict[str, Collective] = defaultdict(Collective)
    for count, kind, one in found:
        group = _group_size(one.attributes)
        shapes = one.shapes
        if one.opcode.endswith("-start"):  # (taken, made); a permute adds two counters
            shapes = shapes[1:2] if kind == "collective-permute" else shapes[len(shapes) // 2 :]
        size = sum(shape.bytes for shape in shapes)
        size *= group if one.opcode.startswith("reduce-scatter") else 1
        share = {"all-reduce": 2 * (group - 1) / group, "collective-permute": 1}.get(kind, (group - 1) / group)
        total = totals[kind]
        total.count, total.bytes = total.count + count, total.bytes + count * size
        total.sent += count * size * share
    return dict(totals)


def _group_size(attributes: str) -> int:
    """Chips that take part in one group of a collective."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return listed[1].count(",") + 1
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(iota[1])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    return 2  # a permute has pairs


def _windows(attributes: str, left: tuple[int, ...], out: tuple[int, ...], labels: re.Match) -> dict[int | None, int]:
    """For every spatial axis of a convolution, pairs of output and window positions that meet an element.

    TPU programs write batched and several-axis products as convolutions whose windows mostly meet padding.
    """
    window = re.search(r"window=\{([^}]*)\}", attributes)
    if not window:
        return {}
    fields = dict(part.split("=") for part in window[1].split())
    sizes = [int(n) for n in fields["size"].split("x")]

    def each(key: str, default: str) -> list[str]:
        return fields[key].split("x") if key in fields else [default] * len(sizes)

    pairs: dict[int | None, int] = {}
    specs = zip(
        sizes, each("stride", "1"), each("pad", "0_0"), each("lhs_dilate", "1"), each("rhs_dilate", "1"), strict=True
    )
    for axis, (size, stride, pad, spread, reach) in enumerate(specs):
        length, outputs = left[labels[1].index(str(axis))], out[labels[3].index(str(axis))]
        first, spread = np.arange(outputs) * int(stride) - int(pad.split("_")[0]), int(spread)
        places = (first + w * int(reach) for w in range(size))
        pairs[axis] = sum(np.count_nonzero((p >= 0) & (p < length * spread) & (p % spread == 0)) for p in places)
    return pairs


def _is_number(one: Instruction) -> bool:
    return one.opcode == "constant" and one.attributes.isdigit()


def _called(one: Instruction, key: str) -> list[str]:
    found = re.search(rf"(?:^|[ ,]){key}=(\{{[^}}]*\}}|%?[\w.\-]+)", one.attributes)
    return re.findall(r"[\w.\-]+", found[1]) if found else []


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not head:
        return None
    rest = line[head.end() :]
    cut = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    opcode = re.match(r"\s*([\w\-]+)\(", rest[cut:])
    if not opcode:
        return None
    inside = rest[cut + opcode.end() - 1 :]
    end = _closing(inside)
    plain = opcode[1] in ("constant", "parameter")
    attributes = inside[1:end] if plain else inside[end + 1 :]
    operands = () if plain else tuple(re.findall(r"%([\w.\-]+)", inside[: end + 1]))
    return Instruction(head[2], tuple(_shapes(rest[:cut])), opcode[1], operands, attributes, bool(head[1]))


def _shapes(text: str) -> Iterator[Shape]:
    for dtype, dims, layout in re.findall(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](\{[^}]*\})?", text):
        if re.search(r"\d|pred", dtype):
            yield Shape(dtype, tuple(int(d) for d in dims.split(",") if d), bool(re.search(r"S\([1-9]", layout)))


def _closing(text: str) -> int:
    """Index of the parenthesis that closes the first one."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return i
    raise ValueError(f"unbalanced parentheses in HLO: {text[:80]}")
