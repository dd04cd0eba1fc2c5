"""Files of results: CSV, JSON Lines and Parquet, written as a whole or not at all."""

import csv
import io
import json
import os
import re
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Literal, Self, get_args

from fleetsight_client.api import FleetsightClientError

FURTHER_LABELS: Final = 4
"""Labels of a row after the best one."""

PARQUET_ROWS: Final = 5_000
"""Rows that are written together."""

Format = Literal["csv", "jsonl", "parquet"]

_START, _FORMULA = r"(?:^|(?<=[;\t\r\n]))", r'(?="*[=+\-@\uff1d\uff0b\uff0d\uff20\t\r\n])'
"""The start of a cell, or where a spreadsheet may split it; and the place before a formula's first character."""


class OutputError(FleetsightClientError):
    """Raised when results cannot be written; the message says why."""


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One file with its result.

    Attributes:
        path: the shown name of the file.
        status: `done`, `failed`, `rejected` (never accepted) or `waiting`.
        right: whether `label` is `truth`; None if one of them is unknown.
    """

    path: str
    status: str
    label: str | None = None
    score: float | None = None
    error_code: str | None = None
    error_message: str | None = None
    image_id: str | None = None
    job_id: str | None = None
    model: str | None = None
    model_digest: str | None = None
    accepted_at: str | None = None
    recorded_at: str | None = None
    cached: bool | None = None
    label_2: str | None = None
    score_2: float | None = None
    label_3: str | None = None
    score_3: float | None = None
    label_4: str | None = None
    score_4: float | None = None
    label_5: str | None = None
    score_5: float | None = None
    truth: str | None = None
    right: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the columns by name."""
        return {name: getattr(self, name) for name in COLUMNS}


COLUMNS: Final = tuple(each.name for each in fields(ResultRow))


def row_of(path: str, job_id: str, result: Mapping[str, Any], truth: str | None = None) -> ResultRow:
    """Return the row of an image as the API answers it."""
    label, error, model = result.get("label"), result.get("error") or {}, result.get("model") or {}
    further = dict[str, Any]()
    for place, pair in enumerate(list(result.get("top") or ())[1 : 1 + FURTHER_LABELS], 2):
        further |= {f"label_{place}": str(pair["label"]), f"score_{place}": float(pair["score"])}
    return ResultRow(
        path,
        str(result["status"]),
        label,
        result.get("score"),
        error_code=error.get("code"),
        error_message=error.get("message"),
        image_id=str(result["image_id"]),
        job_id=job_id,
        model=model.get("name"),
        model_digest=model.get("digest"),
        accepted_at=result.get("accepted_at"),
        recorded_at=result.get("recorded_at"),
        cached=result.get("cached"),
        truth=truth,
        right=None if truth is None or label is None else same_label(label, truth),
        **further,
    )


def same_label(label: str, truth: str) -> bool:
    """Return whether two labels are the same but for case, `_` and `-`: `Stop_Sign` is `stop sign`."""
    return _plain(label) == _plain(truth)


def _plain(label: str) -> str:
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", label).casefold()).strip()


def safe_cell(cell: str) -> str:
    """Return `cell` escaped so that no spreadsheet executes it as a formula, as in the server's own CSV.

    Source: https://owasp.org/www-community/attacks/CSV_Injection
    """
    return re.sub(_START + _FORMULA, "'", cell)


def unescaped_cell(cell: str) -> str:
    """Return a cell without what `safe_cell` has added, or as it is."""
    plain = re.sub(f"{_START}'{_FORMULA}", "", cell)
    return plain if safe_cell(plain) == cell else cell


def format_of(out: str) -> Format:
    """Return the format of a file by its suffix; `-`, the standard output, is CSV.

    Raises:
        OutputError: the suffix is another one.
    """
    suffix = ".csv" if out == "-" else Path(out).suffix.lower()
    for known in get_args(Format):
        if suffix == f".{known}":
            result: Format = known
            return result
    raise OutputError(f"--out {out}: write to a file that ends with .csv, .jsonl or .parquet, or to - for CSV")


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
    """

    def __init__(self, out: str, end_of_file: int | None = None) -> None:
        self.out = out
        self.end_of_file = 0
        """The size of the file when the context has ended."""
        self._continues_at = end_of_file
        self._partial: Path | None = None
        self._file: IO[Any] | None = None

    def __enter__(self) -> Self:
        """Open the file."""
        try:
            self._open()
        except OSError as error:
            raise OutputError(f"--out {self.out} cannot be written: {error.strerror}") from error
        return self

    def _open(self) -> None:
        if self.out == "-":
            self._write = _row_writer("csv", sys.stdout, header=self._continues_at is None)
            self._close = sys.stdout.flush
            return
        target, kind = Path(self.out).absolute(), format_of(self.out)
        if self._continues_at is not None:
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
            is_text = kind != "parquet"
            file = os.fdopen(
                number,
                "w" if is_text else "wb",
                encoding="utf-8" if is_text else None,
                newline="" if is_text else None,
            )
        self._file = file
        if kind == "parquet":
            self._write, finish = _parquet_writer(file)
        else:
            self._write, finish = _row_writer(kind, file, header=not self._continues_at), file.flush

        def close() -> None:
            finish()
            file.flush()
            os.fsync(file.fileno())
            self.end_of_file = file.tell()

        self._close = close

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
            if self._file is not None:
                with suppress(OSError):
                    self._file.close()
            if self._partial is not None:
                with suppress(OSError):
                    self._partial.unlink()


def _row_writer(kind: Format, file: IO[str], *, header: bool) -> Callable[[ResultRow], None]:
    if kind == "jsonl":
        return lambda row: print(json.dumps(row.as_dict(), ensure_ascii=False), file=file)
    writer = csv.writer(file, lineterminator="\r\n" if file is not sys.stdout else "\n")
    if header:
        writer.writerow(COLUMNS)
    return lambda row: writer.writerow([_cell(value) for value in row.as_dict().values()])


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.6f}"
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


def _parquet_writer(file: IO[bytes]) -> tuple[Callable[[ResultRow], None], Callable[[], None]]:
    """Return a function that writes a row, and one that completes the file."""
    arrow = _pyarrow()
    types: Mapping[object, Any] = {float | None: arrow.float64(), bool | None: arrow.bool_()}
    schema = arrow.schema([(each.name, types.get(each.type, arrow.string())) for each in fields(ResultRow)])
    writer = arrow.parquet.ParquetWriter(file, schema)
    rows = list[dict[str, Any]]()

    def flush() -> None:
        if rows:
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
            rows.clear()

    def write(row: ResultRow) -> None:
        rows.append(row.as_dict())
        if len(rows) == PARQUET_ROWS:
            flush()

    def finish() -> None:
        flush()
        writer.close()

    return write, finish
