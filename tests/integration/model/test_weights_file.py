"""Weights are read without torch as torch reads them, and a hostile file does nothing but end the build."""

import io
import json
import os
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from app_tier.bundle import BundleBuildError
from scripts.model.weights_file import read_weights

State = dict[str, torch.Tensor]


def save_old(state: object, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


FORMATS: Mapping[str, Callable[[Any, Path], object]] = {"old": save_old, "zip": torch.save, "safetensors": save_file}
TORCH_FORMATS = pytest.mark.parametrize("save", [save_old, torch.save], ids=["old", "zip"])
KINDS = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.uint8, torch.bool),
)


def assert_as_torch_reads(path: Path, state: State) -> None:
    read = read_weights(path)
    assert read.keys() == state.keys()
    for name, value in state.items():
        expected = (value.float() if value.is_floating_point() else value).detach().numpy()
        np.testing.assert_array_equal(read[name], expected, strict=True)


@pytest.mark.parametrize("save", FORMATS.values(), ids=FORMATS)
def test_tensors_of_each_kind_are_those_of_torch(save: Callable[[State, Path], object], tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {str(kind): (100 * torch.randn(3, 1, 5)).to(kind) for kind in KINDS}
    state |= {"scalar": torch.tensor(7), "empty": torch.zeros(0, 3)}
    save(state, tmp_path / "weights")
    assert_as_torch_reads(tmp_path / "weights", state)


@TORCH_FORMATS
def test_views_of_shared_storages_and_parameters_are_those_of_torch(
    save: Callable[[object, Path], None], tmp_path: Path
) -> None:
    numbers = torch.arange(48.0)
    state: State = {
        "whole": numbers.view(2, 4, 6),
        "turned": numbers.view(2, 4, 6).permute(2, 0, 1),
        "part": numbers[5:23].view(3, 6)[:, ::2],
        "repeated": numbers[3].expand(4, 2),
        "channels last": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(numbers[7:9]),
    }
    save(state, tmp_path / "weights.pth")
    assert_as_torch_reads(tmp_path / "weights.pth", state)


@TORCH_FORMATS
@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_checkpoint_of_parallel_training_is_unwrapped(
    save: Callable[[object, Path], None], wrapper: str, tmp_path: Path
) -> None:
    network = torch.nn.Linear(3, 2)
    network(torch.ones(1, 3)).sum().backward()
    optimizer = torch.optim.Adam(network.parameters())
    optimizer.step()
    state = network.state_dict()
    parallel = OrderedDict({f"module.{name}": value for name, value in state.items()})
    save({wrapper: parallel, "optimizer": optimizer.state_dict(), "epoch": 3, "loss": 0.5}, tmp_path / "last.ckpt")
    assert_as_torch_reads(tmp_path / "last.ckpt", state)


class RunsACommand:
    """What a hostile pickle holds: loading it runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@TORCH_FORMATS
def test_s6_a_file_of_weights_runs_no_code(save: Callable[[object, Path], None], tmp_path: Path) -> None:
    save({"fc.weight": RunsACommand(tmp_path / "mark")}, tmp_path / "evil.pth")
    with pytest.raises(BundleBuildError, match=r"evil\.pth is not a state dict \(it names \w+\.mkdir"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "mark").exists()


class Storage:
    """A storage that a hostile pickle refers to."""


class HostilePickler(pickle.Pickler):
    """Writes `_Viewed` as torch writes a tensor."""

    def __init__(self, file: io.BytesIO, reference: tuple[object, ...]) -> None:
        super().__init__(file, protocol=2)
        self.reference = reference

    def persistent_id(self, value: object) -> object:
        return self.reference if isinstance(value, Storage) else None


class Viewed:
    """A tensor with any numbers."""

    def __init__(self, *numbers: object) -> None:
        self.numbers = numbers

    def __reduce__(self) -> tuple[object, ...]:
        return torch._utils._rebuild_tensor_v2, (Storage(), *self.numbers, False, OrderedDict())


def zip_of(
    pickled: bytes,
    storage: bytes = bytes(16),
    compression: int = zipfile.ZIP_STORED,
    further: str = "archive/version",
) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", storage)
        archive.writestr(further, b"")
    return written.getvalue()


def pickled_view(*numbers: object, reference: tuple[object, ...] | None = None) -> bytes:
    written = io.BytesIO()
    HostilePickler(written, reference or ("storage", torch.FloatStorage, "0", "cpu", 4)).dump({"w": Viewed(*numbers)})
    return written.getvalue()


def test_a_view_within_its_storage_is_read(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(zip_of(pickled_view(1, (3,), (1,)), np.arange(4, dtype="<f4").tobytes()))
    assert read_weights(tmp_path / "weights")["w"].tolist() == [1, 2, 3]


def safetensors(tensors: dict[str, tuple[str, int, int, int]], data: bytes) -> bytes:
    """Return a file of tensors, given by their type, size, begin and end."""
    header = {
        name: {"dtype": dtype, "shape": [size], "data_offsets": [begin, end]}
        for name, (dtype, size, begin, end) in tensors.items()
    }
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + data


LARGE = 2**40
HUGE = b"\xff\xff\xff\x7f"
"""2,147,483,647, as a pickle writes it."""
NESTED = b"\x85" * 300_000
"""Tuples in tuples; a hash of 200,000 ends a process with a stack of 8 MB."""

ENDLESS = b")" + b"q\x00h\x00\x86" * 60
"""A tuple of twice the same tuple, 60 times: 300 bytes that no hash, text or comparison reaches the end of."""


HOSTILE = {
    "an endless storage": zip_of(b"\x80\x02}X\1\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(" + ENDLESS + b"K\0))tRs."),
    "endless names of storages": b"\x80\x02K\0." * 3 + b"\x80\x02}." + b"\x80\x02](" + ENDLESS + b"e.",
    "past the end": zip_of(pickled_view(2, (3,), (1,))),
    "offset past the end": zip_of(pickled_view(4, (1,), (1,))),
    "before the beginning": zip_of(pickled_view(-1, (1,), (1,))),
    "backwards": zip_of(pickled_view(3, (4,), (-1,))),
    "long steps": zip_of(pickled_view(0, (2, 2), (1, LARGE))),
    "negative size": zip_of(pickled_view(0, (-1,), (1,))),
    "numbers that overflow": zip_of(pickled_view(0, (2,), (2**63,))),
    "a size that overflows": zip_of(pickled_view(0, (LARGE, LARGE), (0, 0))),
    "size without steps": zip_of(pickled_view(0, (2, 2), (1,))),
    "size in fractions": zip_of(pickled_view(0, (1.5,), (1,))),
    "size is a text": zip_of(pickled_view(0, "ab", (1, 1))),
    "too many dimensions": zip_of(pickled_view(0, (1,) * 200, (1,) * 200)),
    "no such storage": zip_of(pickled_view(0, (1,), (1,), reference=("storage", torch.FloatStorage, "1", "cpu", 4))),
    "a path as key": zip_of(pickled_view(0, (1,), (1,), reference=("storage", torch.FloatStorage, "../x", "cpu", 4))),
    "numbers of no kind": zip_of(pickled_view(0, (1,), (1,), reference=("storage", "O", "0", "cpu", 4))),
    "no reference": zip_of(pickled_view(0, (1,), (1,), reference=("module",))),
    "compressed": zip_of(b"\x80\x02}.", bytes(10**7), compression=zipfile.ZIP_DEFLATED),
    "no pickle": zip_of(b""),
    "a nested key": zip_of(b"\x80\x02})" + NESTED + b"K\x01s."),
    "a nested key of a storage": zip_of(b"\x80\x02})" + NESTED + b"QK\x01s."),
    "a large bytearray": zip_of(b"\x80\x05\x96" + LARGE.to_bytes(8, "little") + b"."),
    "a long text": zip_of(b"\x80\x02X" + HUGE + b"."),
    "another pickle": pickle.dumps({"w": 1}, protocol=2) * 5,
    "a long header": (2**62).to_bytes(8, "little") + b'{"w":',
    "a nested header": (10**6).to_bytes(8, "little") + b'{"a":' + b"[" * 10**6,
    "a tensor past the end": safetensors({"w": ("F32", 2, 0, 8)}, bytes(4)),
    "a tensor before the beginning": safetensors({"w": ("F32", 1, -8, -4)}, bytes(4)),
    "tensors in one place": safetensors({str(n): ("F16", 4000, 0, 8000) for n in range(99)}, bytes(8000)),
    "tensors in one place after one of negative length": safetensors(
        {"w": ("F16", 0, 10**6, 0), **{str(n): ("F16", 4000, 0, 8000) for n in range(99)}}, bytes(8000)
    ),
    "an empty file": b"",
    "no weights": b"hello",
}


@pytest.mark.parametrize("contents", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_by_name_without_a_large_allocation(contents: bytes, tmp_path: Path) -> None:
    (tmp_path / "evil.pth").write_bytes(contents)
    tracemalloc.start()
    try:
        with pytest.raises(BundleBuildError, match=r"evil\.pth is not a state dict \(.*write it with torch\.save"):
            read_weights(tmp_path / "evil.pth")
        assert tracemalloc.get_traced_memory()[1] < 10**7 + 100 * len(contents)
    finally:
        tracemalloc.stop()


def test_a_huge_index_and_a_repeated_number_allocate_nothing(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    tracemalloc.start()
    try:
        path.write_bytes(zip_of(b"\x80\x02}r" + HUGE + b"."))
        assert read_weights(path) == {}
        path.write_bytes(zip_of(pickled_view(0, (LARGE,), (0,))))
        assert read_weights(path)["w"].strides == (0,)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


SMALL = {"a.weight": torch.arange(12.0).view(3, 4), "a.bias": torch.zeros(3, dtype=torch.float16)}


@pytest.mark.parametrize("save", FORMATS.values(), ids=FORMATS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(
    save: Callable[[State, Path], object], tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "weights"
    save(SMALL, path)
    contents = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        for _ in range(data.draw(st.integers(1, 3))):
            contents[data.draw(st.integers(0, len(contents) - 1))] = data.draw(st.integers(0, 255))
    else:
        del contents[data.draw(st.integers(0, len(contents) - 1)) :]
    path.write_bytes(contents)
    try:
        for value in read_weights(path).values():
            np.asarray(value).copy() if isinstance(value, np.ndarray) and value.size < 10**6 else None
    except BundleBuildError as error:
        assert str(path) in str(error)


OTHERS = {
    "it is empty": b"",
    "it begins as no file of torch": b"version https://git-lfs.github.com/spec/v1",
    "it is a tar, as torch wrote until 2017": b"sys_info".ljust(257, b"\0") + b"ustar".ljust(255, b"\0"),
    "it is a TorchScript program": zip_of(b"\x80\x02).", further="archive/constants.pkl"),
}


@pytest.mark.parametrize(("reason", "contents"), OTHERS.items())
def test_a_file_of_another_kind_is_called_what_it_is(reason: str, contents: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.th"
    path.write_bytes(contents)
    with pytest.raises(BundleBuildError, match=rf"net\.th is not a state dict \({reason}"):
        read_weights(path)


def test_weights_of_a_torch_before_its_second_tensor_are_read(tmp_path: Path) -> None:
    path = tmp_path / "net.th"
    save_old({"a": torch.arange(6.0).view(2, 3)}, path)
    path.write_bytes(path.read_bytes().replace(b"_rebuild_tensor_v2\n", b"_rebuild_tensor\n"))
    np.testing.assert_array_equal(read_weights(path)["a"], np.arange(6.0, dtype=np.float32).reshape(2, 3))


@pytest.mark.parametrize(
    ("value", "complaint"),
    [([1, 2], r"list\.pth is not a state dict \(it holds a list\)"), (None, "no weights file")],
)
def test_what_holds_no_state_dict_is_refused(value: object, complaint: str, tmp_path: Path) -> None:
    if value is not None:
        torch.save(value, tmp_path / "list.pth")
    with pytest.raises(BundleBuildError, match=complaint):
        read_weights(tmp_path / "list.pth")
