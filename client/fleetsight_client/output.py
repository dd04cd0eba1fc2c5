"""Files of results, written as a whole or not at all: CSV, JSON Lines, Parquet, and the formats of other tools."""

import csv
import io
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Literal, Self, get_args

from fleetsight_client.api import FleetsightClientError
from fleetsight_client.formats import (
    CamtrapPackage,
    RowWriter,
    camtrap_writer,
    coco_writer,
    label_studio_writer,
    megadetector_writer,
)
from fleetsight_client.rows import ResultRow, RowLayout, safe_cell

PARQUET_ROWS: Final = 5_000
"""Rows that are written together."""

Format = Literal["csv", "jsonl", "parquet", "md.json", "coco.json", "labelstudio.json", "camtrap-dp.zip"]

ENDINGS: Final = tuple(f".{known}" for known in get_args(Format))
"""Endings of the names of files with results."""

APPENDED: Final = frozenset({"csv", "jsonl"})
"""Formats with files to which rows can be appended."""

BINARY: Final = frozenset({"parquet", "camtrap-dp.zip"})

SIZED: Final = frozenset({"coco.json"})
"""Formats that have the sizes of images, which are columns of the photos."""

TIMED: Final = frozenset({"camtrap-dp.zip"})
"""Formats that have the times of images."""

_NUMBER: Final = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?([eE][+-]?[0-9]+)?")


class OutputError(FleetsightClientError):
    """Raised when results cannot be written; the message says why."""


def format_of(out: str) -> Format:
    """Return the format of a file by its suffix; `-`, the standard output, is CSV.

    Raises:
        OutputError: the suffix is another one.
    """
    name = ".csv" if out == "-" else out.lower()
    for known in get_args(Format):
        if name.endswith(f".{known}"):
            result: Format = known
            return result
    raise OutputError(f"--out {out}: write to a file that ends with one of {', '.join(ENDINGS)}, or to - for CSV")


def check_output(out: str) -> None:
    """Check that results can be written, before anything is sent.

    Raises:
        OutputError: the format or the folder is none, or a package is missing.
    """
    if format_of(out) == "parquet":
        _pyarrow()
    if out != "-" and not Path(out).absolute().parent.is_dir():
        raise OutputError(f"--out {out}: there is no folder {Path(out).absolute().parent}")
    if out != "-" and Path(out).is_dir():
        raise OutputError(f"--out {out} is a folder: name a file in it")


class ResultRowsFile:
    """Writes rows to a file that is complete when its context ends without an error, and absent before.

    Args:
        out: the file, or `-` for the standard output.
        end_of_file: with it, the file is continued from this byte on, after the rows of an earlier context; its
            header is not repeated.
        layout: the columns.
        package: of Camtrap DP.
    """

    def __init__(
        self,
        out: str,
        end_of_file: int | None = None,
        layout: RowLayout | None = None,
        package: CamtrapPackage | None = None,
    ) -> None:
        self.out = out
        self.layout = layout or RowLayout()
        self.package = package
        self.left_out = Counter[str]()
        """Rows that the format cannot have, by the reason."""
        self.end_of_file = 0
        """The size of the file when the context has ended."""
        self._continues_at = end_of_file
        self._partial: Path | None = None
        self._file: IO[Any] | None = None

    def __enter__(self) -> Self:
        """Open the file."""
        try:
            self._open()
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError):
                raise OutputError(f"--out {self.out} cannot be written: {error.strerror}") from error
            raise
        return self

    def _open(self) -> None:
        if self.out == "-":
            self._write = _row_writer("csv", sys.stdout, self.layout, header=self._continues_at is None)
            self._close = sys.stdout.flush
            return
        target, kind = Path(self.out).absolute(), format_of(self.out)
        if self._continues_at is not None:
            if self._continues_at:
                with target.open(encoding="utf-8", errors="replace", newline="") as begun:
                    self._check_columns(kind, begun.readline())
            file: IO[Any] = target.open("r+", encoding="utf-8", newline="")
            file.truncate(self._continues_at)
            file.seek(0, io.SEEK_END)
        else:
            number, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial")
            self._partial = Path(name)
            # The file has the mode that a plain open would give it.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)  # noqa: PTH101 (of a descriptor's name)
            is_text = kind not in BINARY
            file = os.fdopen(
                number,
                "w" if is_text else "wb",
                encoding="utf-8" if is_text else None,
                newline="" if is_text else None,
            )
        self._file = file
        self._write, finish = self._writer(kind, file)

        def close() -> None:
            finish()
            file.flush()
            os.fsync(file.fileno())
            self.end_of_file = file.tell()
            file.close()  # Windows does not rename an open file

        self._close = close

    def _writer(self, kind: Format, file: IO[Any]) -> RowWriter:
        """Return a function that writes a row, and one that completes the file."""
        match kind:
            case "parquet":
                return _parquet_writer(file, self.layout)
            case "md.json":
                return megadetector_writer(file)
            case "coco.json":
                return coco_writer(file)
            case "labelstudio.json":
                return label_studio_writer(file)
            case "camtrap-dp.zip":
                return camtrap_writer(file, self.package or CamtrapPackage(Path()), self.left_out)
            case _:
                return _row_writer(kind, file, self.layout, header=not self._continues_at), file.flush

    def _check_columns(self, kind: Format, first_line: str) -> None:
        """Check that a file that is continued has these columns.

        Raises:
            OutputError: it was begun with other ones, such as by other options.
        """
        if kind == "jsonl":
            is_same = not first_line
            with suppress(ValueError, TypeError):  # it is no JSON, or no object
                is_same = is_same or {"filename", *self.layout.further} <= {*json.loads(first_line)}
        else:
            is_same = not first_line or next(csv.reader([first_line])) == [*map(safe_cell, self.layout.columns)]
        if not is_same:
            raise OutputError(f"--out {self.out} has other columns: name another file")

    def write(self, row: ResultRow) -> None:
        """Write a row.

        Raises:
            OutputError: the row cannot be written, for example because the disk is full.
        """
        try:
            self._write(row)
        except BrokenPipeError:  # the reader of the standard output, such as `head`, has enough
            raise
        except OSError as error:
            raise OutputError(f"--out {self.out} cannot be written: {error.strerror}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Complete the file; after an error, remove what was written of it."""
        try:
            if error is None:
                self._close()
                if self._partial is not None:
                    self._partial.replace(Path(self.out).absolute())
                    self._partial = None
        except OSError as failure:
            raise OutputError(f"--out {self.out} cannot be written: {failure.strerror}") from failure
        finally:
            self._discard()

    def _discard(self) -> None:
        """Close the file, and remove what was written of one that is not complete."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        if self._partial is not None:
            with suppress(OSError):
                self._partial.unlink()


def _row_writer(kind: Format, file: IO[str], layout: RowLayout, *, header: bool) -> Callable[[ResultRow], None]:
    if kind == "jsonl":
        return lambda row: print(json.dumps(layout.body(row), ensure_ascii=False), file=file)
    writer = csv.writer(file, lineterminator="\r\n" if file is not sys.stdout else "\n")
    if header:
        writer.writerow(safe_cell(name) for name in layout.columns)

    def write(row: ResultRow) -> None:
        cells = layout.cells(row)
        writer.writerow([_cell(value, is_own=name not in layout.further) for name, value in cells.items()])

    return write


def _cell(value: object, *, is_own: bool) -> str:
    """Return the text of a cell; a number of a manifest, such as -4.5, stays one: no spreadsheet executes it."""
    match value:
        case str() if not is_own and _NUMBER.fullmatch(value):
            return value
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.6f}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}"  # UTC, as every spreadsheet reads it
        case _:
            return safe_cell(str(value))


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise OutputError(
            "Parquet needs the package pyarrow: pip install 'fleetsight-client[parquet]', or write .csv or .jsonl"
        ) from error
    return pyarrow


def _parquet_writer(file: IO[bytes], layout: RowLayout) -> RowWriter:
    """Return a function that writes a row, and one that completes the file."""
    arrow = _pyarrow()
    kinds = {int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_(), datetime: arrow.timestamp("us", "UTC")}
    types = {each.name: (*get_args(each.type), str)[0] for each in fields(ResultRow)}
    names = {name: types.get(name, str) for name in layout.columns} | {**layout.further}
    schema = arrow.schema([(name, kinds.get(kind, arrow.string())) for name, kind in names.items()])
    writer = arrow.parquet.ParquetWriter(file, schema)
    rows = list[dict[str, Any]]()

    def flush() -> None:
        if rows:
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
            rows.clear()

    def write(row: ResultRow) -> None:
        rows.append(layout.cells(row))
        if len(rows) == PARQUET_ROWS:
            flush()

    def finish() -> None:
        flush()
        writer.close()

    return write, finish
