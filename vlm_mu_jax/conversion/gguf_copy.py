"""A GGUF file rewritten with float16 weights, for programs that should run the very weights of a quantised file."""

from pathlib import Path

import gguf
import numpy as np

_WRITER_SETS = ("general.architecture", "general.file_type", "general.quantization_version")


def write_float16(source: str | Path, out: str | Path) -> None:
    """Copies a GGUF file. Matrices become float16, vectors float32, as llama.cpp wants them; the fields stay."""
    reader = gguf.GGUFReader(str(source))
    writer = gguf.GGUFWriter(str(out), reader.get_field("general.architecture").contents())
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for name, field in reader.fields.items():
        if name in _WRITER_SETS or name.startswith("GGUF."):
            continue
        kind, value = field.types[0], field.contents()
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, kind, sub_type=inner)
    for tensor in reader.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, weights.astype(np.float32 if weights.ndim == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
