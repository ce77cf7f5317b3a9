"""Mutations of the files that commands read: structure-aware where the format has a structure, bytes elsewhere."""

import json
import random
import struct
from collections.abc import Callable

HOSTILE = (
    None,
    True,
    -1,
    0,
    2**70,
    10**400,  # json.loads refuses more than 4,300 digits
    1e308,
    float("nan"),
    float("-inf"),
    "",
    "\x00",
    "a\u2028b",
    "\ud800",
    "../../etc/passwd",
    "x" * 100_000,
    [],
    {},
    [[]],
    {"": ""},
    [None, 1, "a", {}],
)
DEEP = '"DEEP"'  # stands for 20,000 nested lists, which no Python object of this depth can be written as
TEMPLATES = (
    "{% for i in range(1000000000) %}x{% endfor %}",
    "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}",
    "{{ 'x' * 1000000000 }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ raise_exception('stop') }}",
    "{% include '/etc/passwd' %}",
    "{{ messages[99].content }}",
    "{{ 10 ** 10 ** 8 }}",
    "",
)


def mutated(name: str, content: bytes, rng: random.Random) -> bytes:
    """`content` of a file called `name`, changed. Two in three changes know the format."""
    known = _of_format(name)
    if known is None or rng.random() < 1 / 3:
        return _bytes(content, rng)
    return known(content, rng)


def _of_format(name: str) -> Callable[[bytes, random.Random], bytes] | None:
    ending = name.rsplit(".", 1)[-1]
    return {
        "json": _json,
        "jsonl": _lines,
        "safetensors": _safetensors,
        "jinja": _template,
        "gguf": _header,
        "bin": _pickle,
        "png": _png,
        "jpg": _jpeg,
        "csv": _table,
        "txt": _table,
    }.get(ending)


def _bytes(content: bytes, rng: random.Random) -> bytes:
    kind, data = rng.randrange(7), bytearray(content)
    at = rng.randrange(len(data) + 1)
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        for _ in range(rng.choice((1, 4, 64))):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    if kind == 2:
        return b""
    if kind == 3:
        return b"\xef\xbb\xbf" + content
    if kind == 4:
        return bytes(data[:at]) + rng.randbytes(rng.choice((1, 16, 4096))) + bytes(data[at:])
    if kind == 5:
        return bytes(data[:at]) + bytes(data[at:])[: rng.randrange(256)] + bytes(data[at:])
    return content.decode("utf-8", "replace").encode("utf-16")


def _json(content: bytes, rng: random.Random) -> bytes:
    value = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 3))):
        value = _node(value, rng)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    text = text.replace(DEEP, "[" * 20_000 + "]" * 20_000)
    return text.encode("utf-8", "surrogatepass")


def _node(value, rng: random.Random):
    """`value` with one node, drawn on the way down, replaced, taken away, doubled, renamed or scaled."""
    inner = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    if not len(inner) or rng.random() < 0.15:
        if type(value) in (int, float) and abs(value) < 2**63 and rng.random() < 0.5:
            return rng.choice((value * 1000, -value, value + 1, value / 3, str(value), value * 10**9))
        return rng.choice((*HOSTILE, DEEP.strip('"')))
    key = rng.choice(list(inner))
    changed = dict(value) if isinstance(value, dict) else list(value)
    kind = rng.randrange(10)
    if kind == 0:
        del changed[key]
    elif kind == 1 and isinstance(changed, list):
        changed.append(changed[key])
    elif kind == 1:
        changed[rng.choice(("", "__class__", key + "x", key.upper()))] = changed.pop(key)
    else:
        changed[key] = _node(changed[key], rng)
    return changed


def _lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    if not lines:
        return b"[]\n"
    at = rng.randrange(len(lines))
    lines[at] = rng.choice(
        (
            lambda: _json(lines[at], rng) + b"\n",
            lambda: _json(lines[at], rng) + b"\n",
            lambda: lines[at][: rng.randrange(len(lines[at]))],
            lambda: b"\n",
            lambda: lines[at] * 2,
            lambda: b"[1]\n",
        )
    )()
    return b"".join(lines)


def _safetensors(content: bytes, rng: random.Random) -> bytes:
    (size,) = struct.unpack("<Q", content[:8])
    header, body = content[8 : 8 + size], content[8 + size :]
    kind = rng.randrange(4)
    if kind == 0:
        return struct.pack("<Q", rng.choice((0, 1, size - 1, size + 1, 2**40, 2**64 - 1))) + header + body
    if kind == 1:
        return content[: 8 + size] + body[: rng.randrange(len(body))]
    header = _json(header, rng)
    return struct.pack("<Q", len(header)) + header + body


def _pickle(content: bytes, rng: random.Random) -> bytes:
    """One file of the archive that torch.save writes: mostly the pickle itself, with other operations or numbers."""
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in files if name.endswith("data.pkl"))
    if rng.random() < 0.2:
        name = rng.choice(list(files))
    if rng.random() < 0.3:
        files[name] = _bytes(files[name], rng)
    else:
        data = bytearray(files[name])
        for _ in range(rng.choice((1, 2, 8))):
            data[rng.randrange(len(data))] = rng.choice(b"\x00\x01\x7f\x80\xffcRbtjrqhK.(NMJ\x8a]})\x93\x96\x85")
        files[name] = bytes(data)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for key, value in files.items():
            archive.writestr(key, value)
    return out.getvalue()


def _header(content: bytes, rng: random.Random) -> bytes:
    """Numbers of the first part, where a GGUF file keeps its counts, names and types."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 2, 8))):
        at = rng.randrange(min(len(data), 4096) - 8)
        data[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, rng.randrange(256))))
    return bytes(data)


def _png(content: bytes, rng: random.Random) -> bytes:
    """Width, height, depth or kind of the header; the check sum is set right half of the time."""
    import zlib

    data = bytearray(content)
    data[16:24] = struct.pack(">II", rng.choice((0, 1, 9, 60_000, 2**31)), rng.choice((0, 1, 9, 60_000, 2**31)))
    if rng.random() < 0.3:
        data[24:26] = rng.randbytes(2)
    if rng.random() < 0.5:
        data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def _jpeg(content: bytes, rng: random.Random) -> bytes:
    """A segment's length, the height and width of the frame, or a table of another kind."""
    data = bytearray(content)
    segments = [at for at in range(2, min(len(data), 700) - 9) if data[at] == 0xFF and data[at + 1] not in (0, 0xFF)]
    at, kind = rng.choice(segments), rng.randrange(3)
    if kind == 0:
        data[at + 2 : at + 4] = struct.pack(">H", rng.choice((0, 1, 2, 9, 2**16 - 1)))
    elif kind == 1 and (frame := next((a for a in segments if data[a + 1] in (0xC0, 0xC2)), None)) is not None:
        data[frame + 5 : frame + 9] = struct.pack(">HH", *rng.choices((0, 1, 9, 60_000, 2**16 - 1), k=2))
    else:
        data[at + 1] = rng.choice((0xC0, 0xC2, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xE1, 0xFE))
    return bytes(data)


def _template(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        return rng.choice(TEMPLATES).encode()
    text = content.decode()
    at, length = rng.randrange(len(text)), rng.choice((1, 3, 12))
    put = rng.choice(("", "{%", "}}", "{{ x }}", "'", "{% for m in messages %}", "{{ messages }}", "\ud83d\ude00"))
    return (text[:at] + put + text[at + length :]).encode("utf-16", "surrogatepass").decode("utf-16").encode()


def _table(content: bytes, rng: random.Random) -> bytes:
    lines = content.decode().splitlines()
    at = rng.randrange(len(lines))
    lines[at] = rng.choice(
        ('"' + lines[at], lines[at] + ",,,,", "", "\x00", lines[at].replace(",", ";"), "x" * 200_000)
    )
    return "\n".join(lines).encode()
