"""Read a file of weights without torch: what ``torch.save`` writes, today or in 2020, and safetensors.

``torch.save`` writes a pickle, which is a program. No pickle is run here: `pickletools` lists its instructions, and
those that make containers, numbers, texts and tensors are followed. All bounds are checked, since a file may be
hostile: what it makes this process allocate is a small multiple of the file's own size.

The formats: https://docs.pytorch.org/docs/stable/notes/serialization.html, https://huggingface.co/docs/safetensors.
"""

import json
import os
import pickletools  # nosec B403 - it lists instructions and runs none
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from app_tier.bundle import BundleBuildError

Array = NDArray[Any]

_BFLOAT16: Final = "<u2"
"""Read as 16 bits, the upper half of a float32; no state dict has unsigned integers of this size."""

_KINDS: Final = (
    ("<f4", "Float", "F32"),
    ("<f8", "Double", "F64"),
    ("<f2", "Half", "F16"),
    (_BFLOAT16, "BFloat16", "BF16"),
    ("<i8", "Long", "I64"),
    ("<i4", "Int", "I32"),
    ("|u1", "Byte", "U8"),
    ("|b1", "Bool", "BOOL"),
)
"""Kinds of numbers: numpy's name, the beginning of the name of torch's storage, and the name in safetensors."""

_PROTO: Final = b"\x80"
"""The first byte of a pickle of torch: the instruction with its version."""

_SAFETENSORS_KINDS: Final = {name: kind for kind, _, name in _KINDS}


@dataclass(frozen=True)
class _Tensor:
    """A view of the storage with this key; the numbers count elements, and are not checked yet."""

    storage: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_weights(path: Path) -> dict[str, Any]:
    """Return the tensors of a state dict by name, also of one that a training script wrapped.

    Floating-point numbers become float32. An array may be a strided view that cannot be written. A value that is no
    tensor stays what it is.

    Raises:
        BundleBuildError: there is no such file, or it is no state dict; the message names the file and the remedy.
    """
    if not path.is_file():
        raise BundleBuildError(f"no weights file {path}: give the path of a state dict with --weights")
    try:
        contents, storages = _read(path)
        for key in ("state_dict", "model"):
            if isinstance(contents, dict) and isinstance(contents.get(key), dict):
                contents = contents[key]
        if not isinstance(contents, dict):
            raise TypeError(f"it holds a {type(contents).__name__}")  # noqa: TRY301 - named with the others below
        return {str(key).removeprefix("module."): _view(value, storages) for key, value in contents.items()}
    except Exception as error:  # a damaged or hostile file raises errors of all kinds
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise BundleBuildError(
            f"{path} is not a state dict ({reason}): write it with torch.save(model.state_dict(), FILE)"
        ) from error


def _read(path: Path) -> tuple[Any, dict[str, Array]]:
    """Return what the file holds, in which tensors are views of storages, and these storages."""
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            return _read_zip(path)
    # Not mapped: training may be writing the file, and what it cuts off would end this process.
    data = path.read_bytes()
    if data[8:9] == b"{":
        return _read_safetensors(data), {}
    if data[257:262] == b"ustar":
        raise ValueError("it is a tar, as torch wrote until 2017")
    if data[:1] != _PROTO:
        raise ValueError("it begins as no file of torch.save or safetensors does" if data else "it is empty")
    return _read_old_format(data)


def _read_safetensors(data: bytes) -> dict[str, Array]:
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    spans = [entry["data_offsets"] for entry in header.values()]
    if any(not 0 <= begin <= end for begin, end in spans) or sum(end - begin for begin, end in spans) > len(data):
        raise ValueError("its tensors overlap")
    return {
        name: _numbers(memoryview(data)[start + begin : start + end], _SAFETENSORS_KINDS[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for (name, entry), (begin, end) in zip(header.items(), spans, strict=True)
    }


def _read_zip(path: Path) -> tuple[Any, dict[str, Array]]:
    """Read torch's format since 1.6: a zip of the pickle and each storage, none of them compressed."""
    with ZipFile(path) as archive:
        names = archive.namelist()
        [folder] = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        if f"{folder}constants.pkl" in names:
            raise ValueError("it is a TorchScript program")
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise ValueError("its files are compressed")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        kinds: dict[str, str] = {}
        contents = _interpret(archive.read(f"{folder}data.pkl"), kinds)
        return contents, {key: _numbers(archive.read(f"{folder}data/{key}"), kind) for key, kind in kinds.items()}


def _read_old_format(data: bytes) -> tuple[Any, dict[str, Array]]:
    """Read torch's format before 1.6: five pickles, then the number of elements and the bytes of each storage."""
    kinds: dict[str, str] = {}
    file = BytesIO(data)
    _magic_number, _version, _machine, contents, keys = (_interpret(file, kinds) for _ in range(5))
    storages = {}
    for key in keys:
        if not isinstance(key, str):  # before it is looked up: the hash of tuples that share tuples may never end
            raise TypeError("a storage has no name")
        count, start = int.from_bytes(file.read(8), "little"), file.tell()
        end = file.seek(count * np.dtype(kinds[key]).itemsize, os.SEEK_CUR)
        storages[key] = _numbers(memoryview(data)[start:end], kinds[key])
    return contents, storages


def _numbers(data: bytes | memoryview, kind: str) -> Array:
    numbers = np.frombuffer(data, kind)
    if kind == _BFLOAT16:
        return (numbers.astype("<u4") << 16).view("<f4")
    return numbers.astype("<f4", copy=False) if numbers.dtype.kind == "f" else numbers


def _view(tensor: Any, storages: Mapping[str, Array]) -> Any:
    """Return the array of a tensor; other values as they are."""
    if not isinstance(tensor, _Tensor):
        return tensor
    storage = storages[tensor.storage]
    if min((tensor.offset, *tensor.size, *tensor.stride)) < 0:
        raise ValueError("the shape of a tensor is negative")
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
    if all(tensor.size) and last >= storage.size:
        raise ValueError("a tensor lies outside its storage")
    steps = [step * storage.itemsize for step in tensor.stride]
    return as_strided(storage[tensor.offset :], tensor.size, steps, writeable=False)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    """Return a tensor; tuples that share tuples are refused here, since to hash or compare them may never end."""
    if not isinstance(storage, str) or not all(isinstance(each, int) for each in (offset, *size, *stride)):
        raise TypeError("a tensor has no storage, or a shape that is none")
    return _Tensor(storage, offset, size, stride)


_GLOBALS: Final[Mapping[str, Any]] = {
    "collections OrderedDict": lambda *_: {},
    **dict.fromkeys(("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"), _tensor),
    **dict.fromkeys(("torch._utils _rebuild_parameter", "torch.nn.parameter Parameter"), lambda tensor, *_: tensor),
    **{f"torch {name}Storage": kind for kind, name, _ in _KINDS},
}
"""The names in the pickle of a state dict, and what stands for each here."""


def _global(name: str) -> Any:
    if name not in _GLOBALS:
        raise ValueError(f"it names {name.replace(' ', '.')}, which no state dict has")
    return _GLOBALS[name]


_PUSHES: Final[Mapping[str, Callable[[Any], Any]]] = {
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "GLOBAL": _global,
    **dict.fromkeys(("NONE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"), lambda value: value),
}
"""Instructions that push a value, by their names in `pickletools`."""

_TAKES: Final[Mapping[str, int]] = {
    **dict.fromkeys(("TUPLE", "APPENDS", "SETITEMS"), 0),
    **dict.fromkeys(("TUPLE1", "APPEND", "REDUCE", "BUILD", "BINPERSID"), 1),
    **dict.fromkeys(("TUPLE2", "SETITEM"), 2),
    "TUPLE3": 3,
}
"""Instructions that take values from the stack, and how many; 0 for all above the last mark."""


def _interpret(pickle: Any, kinds: dict[str, str]) -> Any:
    """Return what a pickle, bytes or a file, stands for; `kinds` gets the kind of numbers of each storage in it."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(pickle):
        name = opcode.name
        if name in _PUSHES:
            stack.append(_PUSHES[name](argument))
        elif name in _TAKES:
            start = len(stack) - _TAKES[name] if _TAKES[name] else marks.pop()
            items = stack[start:]
            del stack[start:]
            _follow(name, items, stack, kinds)
        elif name in {"BINPUT", "LONG_BINPUT"}:
            memo[argument] = stack[-1]
        elif name in {"BINGET", "LONG_BINGET"}:
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name not in {"PROTO", "STOP"}:
            raise ValueError(f"it has the instruction {name}, which no state dict of Python 3 has")
    return stack.pop()


def _follow(name: str, items: list[Any], stack: list[Any], kinds: dict[str, str]) -> None:
    match name:
        case "APPEND" | "APPENDS":
            stack[-1].extend(items)
        case "SETITEM" | "SETITEMS":
            if not all(isinstance(key, str | int) for key in items[::2]):
                raise ValueError("a key is neither text nor number")
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        case "REDUCE":
            stack[-1] = stack[-1](*items[0])
        case "BINPERSID":
            stack.append(_storage_key(items[0], kinds))
        case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack.append(tuple(items))
        # BUILD sets attributes of a dict, such as `_metadata`, which have no effect here.


def _storage_key(reference: Any, kinds: dict[str, str]) -> str:
    """Return the key of a storage; the reference is "storage", its kind, key, device, elements, and views of old."""
    _, kind, key, _, _, *views = reference
    if not isinstance(key, str) or not isinstance(kind, str) or kind not in _SAFETENSORS_KINDS.values() or any(views):
        raise ValueError("it refers to a storage of an unknown kind")
    kinds[key] = kind
    return key
