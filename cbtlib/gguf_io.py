"""GGUF files of one vocabulary read and written again with another.

Notable choices: the header is read here, because the `gguf` package's reader makes arrays of each of 262,144 strings,
which takes longer than all the rest of the conversion; tensors stay on disk until they are asked for. Writing is the
package's. Layout: ggml-org/ggml, docs/gguf.md, version 3, little-endian.
"""

import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, TokenType

from cbtlib import CbtError

# struct's letter for each type of number in a GGUF header
FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass
class Gguf:
    """A GGUF file: header fields {key: (type, value)} and tensors {name: (type, shape, offset)}."""

    path: Path
    fields: dict[str, tuple[GGUFValueType, Any]]
    tensors: dict[str, tuple[GGMLQuantizationType, tuple[int, ...], int]]

    def __getitem__(self, key: str) -> Any:
        return self.fields[key][1]

    @cached_property
    def kinds(self) -> list[int]:
        """The TokenType of each token."""
        return self["tokenizer.ggml.token_type"]

    @cached_property
    def pieces(self) -> list[str]:
        """The text of each token, with spaces as spaces."""
        return [text.replace("\u2581", " ") for text in self["tokenizer.ggml.tokens"]]

    @cached_property
    def ids(self) -> dict[str, int]:
        """The plain pieces: text -> id. Only these take part in merges."""
        return {text: i for i, text in enumerate(self.pieces) if self.kinds[i] == TokenType.NORMAL}

    def raw(self, name: str) -> np.ndarray:
        """A tensor as stored: float32, or (..., bytes of a row) when it is quantised."""
        kind, shape, offset = self.tensors[name]
        if kind == GGMLQuantizationType.F32:
            return np.memmap(self.path, np.float32, "r", offset, shape)
        return np.memmap(self.path, np.uint8, "r", offset, gguf.quant_shape_to_byte_shape(shape, kind))


def read(path: Path) -> Gguf:
    """Read the header of a GGUF file; raises CbtError when it is none."""
    data = np.memmap(path, np.uint8, "r")
    at = 4

    def number(form: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from("<" + form, data.data, at)
        at += struct.calcsize("<" + form)
        return value

    def text() -> str:
        nonlocal at
        size = number("Q")
        at += size
        return data[at - size : at].tobytes().decode()

    def value(kind: int) -> Any:
        nonlocal at
        if kind == GGUFValueType.STRING:
            return text()
        if kind != GGUFValueType.ARRAY:
            return number(FORMS[kind])
        item, size = number("I"), number("Q")
        if item == GGUFValueType.STRING:
            return [text() for _ in range(size)]
        array = np.frombuffer(data, "<" + FORMS[item], size, at)
        at += array.nbytes
        return array.tolist()

    if data[:4].tobytes() != b"GGUF" or number("I") != 3:
        raise CbtError(f"{path} is not a GGUF file of version 3")
    tensor_count, field_count = number("Q"), number("Q")
    fields = {}
    for _ in range(field_count):
        key, kind = text(), GGUFValueType(number("I"))
        fields[key] = (kind, value(kind))
    tensors = {}
    for _ in range(tensor_count):
        name, dimensions = text(), number("I")
        shape = tuple(number("Q") for _ in range(dimensions))[::-1]
        tensors[name] = (GGMLQuantizationType(number("I")), shape, number("Q"))
    start = -(-at // gguf.GGUF_DEFAULT_ALIGNMENT) * gguf.GGUF_DEFAULT_ALIGNMENT
    return Gguf(path, fields, {name: (kind, shape, start + offset) for name, (kind, shape, offset) in tensors.items()})


def write(folder: Path, source: Gguf, kept: list[int], tensors: dict[str, np.ndarray]) -> None:
    """Write `source` with the vocabulary `kept` and other tensors to folder/model.gguf, and the ids to kept.npy."""
    writer = gguf.GGUFWriter(folder / "model.gguf", source["general.architecture"])
    for key, (kind, value) in source.fields.items():
        if key == "general.architecture":
            continue
        if isinstance(value, list) and len(value) == len(source.kinds):
            value = [value[i] for i in kept]
        elif key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
            value = kept.index(value)
        writer.add_key_value(key, value, kind)
    for name, tensor in tensors.items():
        quantised = tensor.dtype == np.uint8
        writer.add_tensor(name, tensor, raw_dtype=source.tensors[name][0] if quantised else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    np.save(folder / "kept.npy", np.array(kept, dtype=np.int32))
