"""The command `fleetsight`: classify folders, and manage jobs.

Exit status: 0 if every image has a label, 1 if a file was rejected, or an image failed or has no result, 2 for wrong
use or if the server rejects the call or does not answer, 130 if the command was interrupted.
"""

import json
import os
import re
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec

import click
from click.core import ParameterSource
from rich.table import Table

import fleetsight_client
from fleetsight_client.api import (
    TOKEN_VARIABLE,
    URL_VARIABLE,
    ApiClient,
    ApiError,
    FleetsightClientError,
    JobFields,
    NotRunningError,
    RejectedError,
    UnreachableError,
)
from fleetsight_client.classification import Classification, Summary
from fleetsight_client.console import Console
from fleetsight_client.decisions import MinScores, learn_min_scores, read_labels, read_min_scores
from fleetsight_client.display import ProgressDisplay
from fleetsight_client.estimates import estimate_files, upload_rate
from fleetsight_client.events import EVENT_COLUMNS, TIME_COLUMN, Events, Grouping
from fleetsight_client.folders import FolderWalk, checked_folders
from fleetsight_client.formats import CamtrapPackage
from fleetsight_client.journal import Journal
from fleetsight_client.journal_file import JournalError, journal_file, state_folder
from fleetsight_client.lists import FileList, further_columns, listed_files, read_manifest, split_source
from fleetsight_client.output import (
    APPENDED,
    ENDINGS,
    SIZED,
    TIMED,
    Format,
    OutputError,
    ResultRowsFile,
    check_output,
    format_of,
)
from fleetsight_client.photos import PHOTO_COLUMNS, PhotoReader, photo_columns
from fleetsight_client.retries import GaveUpError, PatientCalls, StoppedError
from fleetsight_client.rows import RowLayout, row_of
from fleetsight_client.shrinking import Shrinker
from fleetsight_client.sorting import SortedFolder
from fleetsight_client.sources import SourceClassification
from fleetsight_client.terminal import clean_terminal_output, one_line
from fleetsight_client.truth import Truth
from fleetsight_client.uploader import JobClosedError, UploadLimits
from fleetsight_client.watch import Watch

P = ParamSpec("P")

DEFAULT_URL: Final = "http://127.0.0.1:8000"
INTERRUPTED: Final = 130
"""The exit status after Ctrl-C."""

SHOWN: Final = 10
"""Labels, reasons and jobs that a summary lists."""

EXIT_STATUSES: Final = """\
Exit status:
  0    every image has a label
  1    a file was rejected, or an image failed or has no result
  2    wrong use, or the server rejects the call or does not answer
  130  interrupted"""

JOB_EXIT_STATUSES: Final = """\
Exit status:
  0    done
  1    not confirmed
  2    wrong use, or the server rejects the call or does not answer
  130  interrupted"""

SENTENCE_CHARACTERS: Final = 200
"""Longest description of a command in the list of its group; longer ones are cut."""


class CommandError(click.ClickException):
    """Raised when a command ends with status 2: the server rejects the call, or does not answer."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class CommandGroup(click.Group):
    """A group with the first sentence of each command in its help, on several lines if it is long."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            self.write_commands(formatter, [self.commands[name] for name in self.list_commands(ctx)])

    def write_commands(self, formatter: click.HelpFormatter, commands: Iterable[click.Command]) -> None:
        """Write a list of some commands."""
        formatter.write_dl([(str(each.name), each.get_short_help_str(SENTENCE_CHARACTERS)) for each in commands])


class _Percent(click.ParamType[float]):
    """A share of 0.1% to 99%."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return it as a number."""
        with suppress(ValueError):
            if 0.1 <= (percent := float(str(value).removesuffix("%"))) <= 99:
                return percent
        raise click.BadParameter(f"{value!r} is no share from 0.1% to 99%, such as 5%", ctx, param)


PERCENT: Final = _Percent()


class _Time(click.ParamType[datetime]):
    """A time of the next 24 hours on this machine's clock, or of a day, as ISO 8601 has it."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return it with its zone."""
        now, text = datetime.now().astimezone(), str(value)
        with suppress(ValueError):
            is_time = re.fullmatch(r"\d\d:\d\d", text) is not None
            found = datetime.fromisoformat(f"{now.date()}T{text}" if is_time else text).astimezone()
            if is_time and found <= now:
                found = datetime.fromisoformat(f"{now.date() + timedelta(days=1)}T{text}").astimezone()
            if found > now:
                return found
        raise click.BadParameter(f"{value!r} is no time to come: write 08:00 or 2026-11-29T08:00", ctx, param)


TIME: Final = _Time()


class _EpilogCommand(click.Command):
    """A command with the exit statuses, its epilog, at the end of its help."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the exit statuses as they are."""
        formatter.write_paragraph()
        for line in (self.epilog or "").splitlines():
            formatter.write(f"{line}\n")


def api_command(command: Callable[Concatenate[ApiClient, P], None]) -> Callable[P, None]:
    """Give a command `--url` and `--token`, and call it with the client; an error is one line."""

    @click.option(
        "--url",
        default=DEFAULT_URL,
        envvar=URL_VARIABLE,
        show_default=True,
        show_envvar=True,
        help="Address of Fleetsight.",
    )
    @click.option(
        "--token",
        envvar=TOKEN_VARIABLE,
        show_envvar=True,
        help="Your token. Prefer the variable: all users of a machine can read command lines.",
    )
    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        url, token = str(kwargs.pop("url")), kwargs.pop("token")
        try:
            client = ApiClient(url, token=str(token).strip() or None if token else None)
            try:
                command(client, *args, **kwargs)
            finally:
                client.close()
        except FleetsightClientError as error:
            raise CommandError(_reason(error, url)) from error
        except KeyboardInterrupt:
            click.echo("fleetsight: interrupted", err=True)
            sys.exit(INTERRUPTED)

    return run  # fmt: skip


def _reason(error: FleetsightClientError, url: str) -> str:
    """Return an error in words; a wrong address of the environment is reported with its variable."""
    cause = error.__cause__ if isinstance(error, GaveUpError) else error
    origin = ""
    context = click.get_current_context()
    if context.get_parameter_source("url") == ParameterSource.ENVIRONMENT:
        origin = f"{URL_VARIABLE}={url}: "
    if isinstance(error, RejectedError):
        is_variable = context.get_parameter_source("token") == ParameterSource.ENVIRONMENT
        return f"{f'{TOKEN_VARIABLE}: ' if error.status == 401 and is_variable else ''}{error.detail}"
    if isinstance(cause, UnreachableError):
        return f"{origin}nothing answers at {url}: check --url ({str(cause).partition(': ')[2]})"
    return f"{origin if isinstance(error, NotRunningError) else ''}{error}"


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; the second one ends the process at once.

    That is safe: the journal is complete at any moment.
    """
    stop = threading.Event()

    def interrupt(_number: int, _frame: object) -> None:
        if stop.is_set():
            sys.stderr.write("\nfleetsight: ended\n")
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        stop.set()
        sys.stderr.write("\nfleetsight: stopping; press Ctrl-C again to end at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {each: signal.signal(each, interrupt) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@click.command(cls=_EpilogCommand, epilog=EXIT_STATUSES)
@click.argument("folders", nargs=-1, metavar="FOLDER...", type=click.Path(path_type=Path))
@click.option(
    "--manifest",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="CSV",
    help="Classify the files of a CSV, and give its columns to their results.",
)
@click.option(
    "--source",
    metavar="S3",
    help="Classify the images in s3://BUCKET/FOLDER instead, where they are, or in s3://BUCKET/FOLDER/**/*.jpg.",
)
@click.option("--results", metavar="S3", help="Copy the results of --source to s3://BUCKET/PREFIX, as JOB.jsonl.")
@click.option("--name", help="Name of the job [default: of the first folder]")
@click.option("--keep", is_flag=True, help="Keep the images on the server after their classification.")
@click.option("--shrink", is_flag=True, help="Send large JPEGs smaller and without EXIF: faster, with other scores.")
@click.option("--model", metavar="NAME", help="Classify with this model [default: the server's choice]")
@click.option(
    "--max-failed",
    type=PERCENT,
    metavar="PERCENT",
    help="Stop the job if more of its results are failures, such as 5%; fleetsight retry goes on.",
)
@click.option(
    "--only",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Labels that can occur, one on each line: scores are shares among them.",
)
@click.option(
    "--finish-by",
    type=TIME,
    metavar="TIME",
    help="When the job may be finished at the latest, such as 08:00, so that it costs less. [default: soon]",
)
@click.option(
    "--min-score",
    metavar="SCORE",
    help="Images with a lower score are unsure, such as 0.8; or a YAML file with scores by label. [default: 0.5]",
)
@click.option(
    "--out",
    metavar="FILE",
    help=f"Results: a file that ends with one of {', '.join(ENDINGS)}; - is CSV.",
)
@click.option("--columns", metavar="NAMES", help=f"Add columns from the photos' EXIF: {', '.join(PHOTO_COLUMNS)}.")
@click.option(
    "--camtrap-package",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="With --out NAME.camtrap-dp.zip: a folder with your datapackage.json and deployments.csv.",
)
@click.option("--timezone", metavar="ZONE", help="Of times without one in that package, such as +02:00.")
@click.option(
    "--group-by",
    metavar="HOW",
    help="Give images of an event its label: by folder, a time as in folder,60s, or a column of --manifest.",
)
@click.option(
    "--sort-into",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Put each image into DIR/LABEL/PATH, unsure ones into DIR/_unsure, those without a label into DIR/_failed.",
)
@click.option(
    "--copy/--link", "copies", default=True, help="Copy the sorted images, or make hard links. [default: copy]"
)
@click.option(
    "--truth",
    "truth_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="CSV",
    help="Compare with the true labels of a CSV: filename,label.",
)
@click.option("--truth-from-folders", is_flag=True, help="Compare with the name of each image's folder.")
@click.option("--resume", is_flag=True, help="Continue where an earlier command ended; nothing is sent twice.")
@click.option("--restart", is_flag=True, help="Forget an earlier command that did not finish.")
@click.option("--watch", is_flag=True, help="Also classify new files, until Ctrl-C.")
@click.option("--wait/--no-wait", "waits", default=True, help="Wait for the results. [default: wait]")
@api_command
def classify(client: ApiClient, /, *, folders: tuple[Path, ...], **options: Any) -> None:
    """Classify the images in folders and below, or with --source in a folder of S3.

    In place of folders, name files, patterns such as 'photos/**/*.jpg', or lists.txt with a path on each line.

    Hidden files, other files and links to folders are not sent, only counted. The first Ctrl-C ends the command in an
    orderly way; the same command with --resume continues.
    """
    wanted = _Options(**options)
    wanted.check(folders)
    if wanted.source is not None:
        _classify_source(client, wanted.source, wanted)
        return
    state, out = state_folder(), wanted.out
    own = [state, *([wanted.sort_into] if wanted.sort_into else []), *([Path(out)] if out and out != "-" else [])]
    if wanted.watch and not all(folder.is_dir() for folder in folders):
        raise click.UsageError("--watch goes with folders only.")
    files, absolute, identity = _chosen_files(folders, wanted.manifest, own, wanted.reserved)
    file = journal_file(client.base_url, identity, state)
    # Stderr: the standard output has nothing but results.
    console = Console(stderr=True)
    with _interruptible() as stop, _opened(file, absolute, wanted) as journal:
        with ProgressDisplay(console) as display:
            finishes = wanted.waits and journal.is_started and journal.is_watched
            kind = Watch if wanted.watch or finishes else Classification
            work = kind(
                client,
                journal,
                PatientCalls(stop),
                absolute,
                own,
                wanted.name or absolute[0].name or "images",
                keep=wanted.keep,
                model=wanted.model,
                fields=wanted.fields,
                out=out,
                layout=wanted.layout(files),
                package=wanted.package,
                files=files,
                shrink=Shrinker.of_server(client, wanted.model).shrunk if wanted.shrink else bytes,
                events=wanted.events(files),
                photos=PhotoReader(photo_columns(wanted.columns)) if wanted.columns else None,
                sorted=SortedFolder(wanted.sort_into, links=not wanted.copies) if wanted.sort_into else None,
                truth=Truth(journal, absolute, wanted.truth_file) if wanted.has_truth else None,
                show=display.show,
            )
            summary = _run(work, watch=wanted.watch, waits=wanted.waits)
        for line in _lines(summary, client.base_url, waits=wanted.waits):
            console.print(one_line(line), soft_wrap=True)
        journal.remove()
    if not summary.total:
        raise CommandError("no image was found in " + ", ".join(map(str, folders or identity)))
    sys.exit(0 if summary.ok or (not wanted.waits and not summary.statuses["rejected"]) else 1)


def _chosen_files(
    folders: Sequence[Path], manifest: Path | None, own: Sequence[Path] = (), reserved: Sequence[str] = ()
) -> tuple[FileList | None, tuple[Path, ...], tuple[Path, ...]]:
    """Return the list that arguments or a manifest name, the folders, and what names the journal."""
    if manifest is None and all(folder.is_dir() for folder in folders):
        absolute = checked_folders(folders)
        return None, absolute, absolute
    files = listed_files(folders, own) if manifest is None else read_manifest(manifest, reserved)
    named = folders if manifest is None else (manifest,)
    return files, (files.base,), tuple(each.absolute() for each in named)


def _classify_source(client: ApiClient, source: str, wanted: "_Options") -> None:
    """Classify the images at a location in S3; the job goes on if the command is stopped."""
    console = Console(stderr=True)
    with _interruptible() as stop, ProgressDisplay(console) as display:
        source, pattern = split_source(source)
        name = wanted.name or source.rstrip("/").rpartition("/")[2]
        manifest = None if wanted.manifest is None else read_manifest(wanted.manifest, wanted.reserved, source)
        work = SourceClassification(
            *(client, PatientCalls(stop), source, name, wanted.keep, wanted.out, wanted.results),
            model=wanted.model,
            fields=wanted.fields,
            pattern=pattern,
            manifest=manifest,
            events=wanted.events(manifest),
            layout=wanted.layout(manifest),
            package=wanted.package,
            show=display.show,
        )
        try:
            summary = work.run(waits=wanted.waits)
        except StoppedError:
            click.echo(f"fleetsight: stopped; {_whereabouts(work.job_id)}", err=True)
            sys.exit(INTERRUPTED)
    lines = _lines(summary, client.base_url, waits=wanted.waits)
    for line in lines if wanted.waits else list(lines)[1:]:
        console.print(one_line(line), soft_wrap=True)
    if wanted.waits and not summary.total:
        raise CommandError(f"no image was found in {source}")
    sys.exit(0 if summary.ok else 1)


def _whereabouts(job_id: str | None) -> str:
    """Say where the job of a source is found after the command was stopped."""
    if job_id is None:
        return "if the server has created the job, it goes on: see fleetsight jobs"
    return f"job {job_id} goes on: fleetsight results {job_id} has its results, fleetsight cancel {job_id} ends it"


@dataclass(frozen=True, kw_only=True)
class _Options:
    """The options of `classify`."""

    manifest: Path | None
    source: str | None
    results: str | None
    name: str | None
    keep: bool
    shrink: bool
    model: str | None
    max_failed: float | None
    min_score: str | None
    finish_by: datetime | None
    only: Path | None
    out: str | None
    columns: str | None
    camtrap_package: Path | None
    timezone: str | None
    group_by: str | None
    sort_into: Path | None
    copies: bool
    truth_file: Path | None
    truth_from_folders: bool
    resume: bool
    restart: bool
    watch: bool
    waits: bool

    def _check_format(self, wanted: Format) -> None:
        """Check that there is what the format of the results needs."""
        columns = photo_columns(self.columns or "")
        if self.watch and wanted not in APPENDED:
            raise click.UsageError(f"--watch appends results, which .{wanted} does not allow: use .csv or .jsonl.")
        if wanted in SIZED and not {"width", "height"} <= {*columns}:
            raise click.UsageError("COCO has the sizes of images: add --columns width,height.")
        if (wanted in TIMED) is not (self.camtrap_package is not None):
            raise click.UsageError("--out NAME.camtrap-dp.zip and --camtrap-package go together.")
        if self.package is not None:
            self.package.description()
            if TIME_COLUMN not in columns and self.manifest is None:
                raise click.UsageError(f"Camtrap DP has the times of images: add --columns {TIME_COLUMN}.")

    def layout(self, files: FileList | None) -> RowLayout:
        """Return the columns of the file of results, those of a manifest and of photos last."""
        further = {**further_columns(files), **photo_columns(self.columns or "")}
        return RowLayout({**further, **({} if self.group_by is None else EVENT_COLUMNS)})

    @property
    def fields(self) -> JobFields:
        """Further fields of the job."""
        scores = {} if self.min_score is None else MinScores.of_job(read_min_scores(self.min_score)).fields
        finish_by = None if self.finish_by is None else self.finish_by.isoformat()
        labels = None if self.only is None else read_labels(self.only)
        return {**scores, "max_failed_percent": self.max_failed, "finish_by": finish_by, "labels": labels}

    @property
    def package(self) -> CamtrapPackage | None:
        """The package of Camtrap DP that the results are added to."""
        return None if self.camtrap_package is None else CamtrapPackage(self.camtrap_package, self.timezone)

    def events(self, files: FileList | None) -> Events | None:
        """Return what groups the results into events, if that is wanted."""
        if self.group_by is None:
            return None
        return Events(Grouping.parse(self.group_by, {*self.layout(files).further} - {*EVENT_COLUMNS}))

    @property
    def reserved(self) -> tuple[str, ...]:
        """Names that no column of a manifest may have."""
        task = ("image",) if self.out is not None and format_of(self.out) == "labelstudio.json" else ()
        return (*photo_columns(self.columns or ""), *(EVENT_COLUMNS if self.group_by is not None else ()), *task)

    @property
    def has_truth(self) -> bool:
        """Whether there are true labels."""
        return self.truth_file is not None or self.truth_from_folders

    def check(self, folders: Sequence[Path]) -> None:
        """Check that the options and the folders go together, before anything is sent.

        Raises:
            UsageError: they do not.
            OutputError: the results cannot be written.
        """
        source, has_results = self.source is not None, self.out or self.sort_into or self.has_truth
        for is_wrong, reason in (
            (
                bool(folders) is (source or self.manifest is not None),
                "Give folders, --manifest with a CSV, or --source with a location in S3.",
            ),
            (
                self.manifest is not None and (self.watch or (source and not self.waits)),
                "--manifest does not go with --watch, nor with --source and --no-wait.",
            ),
            (
                source
                and (
                    self.sort_into
                    or self.has_truth
                    or self.watch
                    or self.resume
                    or self.restart
                    or self.columns
                    or self.shrink
                ),
                "--source goes with --manifest, --results, --name, --keep, --model, --out and --no-wait only.",
            ),
            (
                self.results is not None and not source,
                "--results goes with --source only: write results of folders with --out.",
            ),
            (
                self.truth_file is not None and self.truth_from_folders,
                "--truth and --truth-from-folders exclude each other.",
            ),
            (
                self.max_failed is not None and self.watch,
                "--max-failed does not go with --watch, which begins another job when one is stopped.",
            ),
            (self.resume and self.restart, "--resume and --restart exclude each other."),
            (
                not self.waits and (has_results or self.watch),
                "--no-wait has no results: leave out --out, --sort-into, --truth and --watch.",
            ),
            (
                self.columns is not None and not (self.out or self.group_by),
                "--columns goes with --out or --group-by.",
            ),
            (
                (self.camtrap_package or self.timezone) and not (self.camtrap_package and self.out),
                "--camtrap-package, --timezone and --out NAME.camtrap-dp.zip go together.",
            ),
            (
                self.group_by is not None and (self.watch or not (self.out or self.sort_into)),
                "--group-by goes with --out or --sort-into, and not with --watch.",
            ),
        ):
            if is_wrong:
                raise click.UsageError(reason)
        photo_columns(self.columns or "")
        _ = self.fields
        if self.out is not None:
            check_output(self.out)
            self._check_format(format_of(self.out))


def _run(work: Classification, *, watch: bool, waits: bool) -> Summary:
    """Run a classification; when it is stopped or fails, say how to continue."""
    try:
        if isinstance(work, Watch):
            return work.watch(searches=watch)
        return work.run(waits=waits)
    except StoppedError as error:
        click.echo(f"fleetsight: {error}; continue with the same command and --resume", err=True)
        sys.exit(INTERRUPTED)
    except JobClosedError as error:
        raise CommandError(
            f"{error}. Begin anew with --restart, or fleetsight retry {error.job_id} and --resume."
        ) from error
    except (GaveUpError, ApiError, OutputError) as error:
        if not work.journal.is_started:
            raise
        reason = _reason(error, work.client.base_url).removesuffix(".")
        raise CommandError(f"{reason}. Continue with the same command and --resume.") from error


@contextmanager
def _opened(file: Path, folders: Sequence[Path], wanted: _Options) -> Iterator[Journal]:
    """Open the journal of these folders; it stays if a job was begun, unless it is removed."""
    journal = Journal(file, folders)
    try:
        if wanted.restart:
            journal.clear()
        if journal.is_started and not wanted.resume:
            counts = journal.counts()
            done = counts["accepted"] + counts["rejected"]
            raise click.UsageError(
                f"An earlier command for these folders did not finish: it had sent {done:,} of "
                f"{sum(counts.values()):,} files. Continue with --resume, or begin anew with --restart."
            )
        yield journal
    except sqlite3.OperationalError as error:
        raise JournalError(
            f"the journal {file} cannot be written: {error}. Continue with the same command and --resume."
        ) from error
    finally:
        journal.close()


def _lines(summary: Summary, url: str, *, waits: bool) -> Iterator[str]:
    """Yield in words what became of the files."""
    statuses = summary.statuses
    if waits:
        counts = {"with a label": statuses["done"], "failed": statuses["failed"], "rejected": statuses["rejected"]}
        counts["without a result"] = statuses["waiting"]
    else:
        counts = {"accepted": statuses["waiting"], "rejected": statuses["rejected"]}
    shown = [f"{count:,} {words}" for at, (words, count) in enumerate(counts.items()) if count or not at]
    yield f"{summary.total:,} images: {', '.join(shown)}."
    yield from (f"{count:>9,}  {label}" for label, count in summary.labels.most_common(SHOWN))
    if len(summary.labels) > SHOWN:
        yield f"and {len(summary.labels) - SHOWN:,} more labels"
    yield from (f"No label ({code}): {count:,}." for code, count in summary.codes.most_common(SHOWN))
    for reason, count in sorted(summary.skipped.items()):
        named = summary.examples.get(reason, ())
        yield f"Not sent ({reason}): {count:,}." + (f" The first: {', '.join(named)}." if named else "")
    further = {
        "Replaced under their names, and classified again": summary.replaced,
        "Replaced or removed before they were sent": summary.missed,
        "Shown without the backslashes, invisible characters or invalid UTF-8 of their names": summary.renamed,
    }
    yield from (f"{words}: {count:,}." for words, count in further.items() if count)
    yield from (f"Not in the file of results ({reason}): {count:,}." for reason, count in summary.left_out.items())
    if waits:
        for part in (summary.accuracy, summary.files, summary.photos, summary.events):
            yield from () if part is None else part.sentences()
    if summary.sorted is not None:
        placed, problems = summary.sorted.counts, summary.sorted.problems
        yield f"Sorted into {summary.sorted.folder}: {placed['sorted'] + placed['there']:,}."
        yield from problems
        if placed["problem"] > len(problems):
            yield f"and {placed['problem'] - len(problems):,} more were not sorted"
    for job_id in summary.job_ids:
        yield f"Job: {url}/jobs/{job_id}"
        if not waits:
            yield f"Results: fleetsight results {job_id} --out results.csv"


@click.command(cls=_EpilogCommand, epilog=JOB_EXIT_STATUSES)
@click.argument("folders", nargs=-1, metavar="FOLDER...", type=click.Path(path_type=Path))
@click.option(
    "--manifest", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="CSV", help="Files of a CSV."
)
@click.option("--finish-by", type=TIME, metavar="TIME", help="Also of a job that may be finished so late.")
@api_command
def estimate(
    client: ApiClient, /, *, folders: tuple[Path, ...], manifest: Path | None, finish_by: datetime | None
) -> None:
    """Say what a classification would take: files, dates, minutes and dollars; nothing is sent."""
    if bool(folders) is (manifest is not None):
        raise click.UsageError("Give folders, or --manifest with a CSV.")
    limits = UploadLimits.from_response(client.limits())
    files, absolute, _ = _chosen_files(folders, manifest)
    walk = FolderWalk(absolute) if files is None else files
    found = estimate_files(walk, absolute, limits.max_image_bytes, datetime.now(UTC))

    def forecast(by: datetime | None) -> dict[str, Any] | None:
        return client.forecast(found.files, None if by is None else by.isoformat()) if found.files else None

    later = {} if finish_by is None else {f"{finish_by:%H:%M}": forecast(finish_by)}
    for line in found.sentences(upload_rate(client.base_url), forecast(None), later):
        click.echo(one_line(line))
    for reason, count in sorted(walk.skipped.items()):
        click.echo(f"Would not be sent ({reason}): {count:,}.")


@click.command(cls=_EpilogCommand, epilog=JOB_EXIT_STATUSES)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Jobs to list.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each job.")
@api_command
def jobs(client: ApiClient, *, limit: int, as_json: bool) -> None:
    """List your jobs, newest first."""
    table = Table("job", "name", "created (UTC)", "state", box=None, pad_edge=False)
    for column in ("images", "done", "failed", "waiting"):
        table.add_column(column, justify="right")
    count = 0
    for job in client.jobs(min(limit, 200)):
        if count == limit:
            break
        try:
            status = client.status(job["job_id"])
        except RejectedError as error:
            if error.status == 404:  # deleted meanwhile
                continue
            raise
        count += 1
        if as_json:
            click.echo(json.dumps(status))
            continue
        figures = (f"{status[each]:,}" for each in ("accepted", "done", "failed", "waiting"))
        created = status["created_at"][:16].replace("T", " ")
        state = f"blocked: {status['blocked']}" if status.get("blocked") else status["state"]
        table.add_row(status["job_id"], status["name"], created, state, *figures)
    if not as_json:
        # Ids must be whole in a pipe, which has no width.
        width = None if sys.stdout.isatty() else max(200, shutil.get_terminal_size().columns)
        Console(width=width).print(table if count else "There are no jobs.")


@click.command(cls=_EpilogCommand, epilog=EXIT_STATUSES)
@click.argument("job", metavar="JOB")
@click.option(
    "--out",
    metavar="FILE",
    default="-",
    show_default=True,
    help="As of `fleetsight classify`, but for formats with data of the photos; - is CSV.",
)
@api_command
def results(client: ApiClient, *, job: str, out: str) -> None:
    """Write the results of a job, in the order of its images."""
    check_output(out)
    if format_of(out) in SIZED | TIMED:
        raise click.UsageError("This format has data of the photos: write it with fleetsight classify.")
    client.status(job)
    is_complete = True
    with ResultRowsFile(out) as file:
        for result in client.results(job):
            is_complete &= result["status"] == "done"
            file.write(row_of(str(result["filename"]), job, result, result.get("truth")))
    sys.exit(0 if is_complete else 1)


@click.command("min-scores", cls=_EpilogCommand, epilog=JOB_EXIT_STATUSES)
@click.argument("job", metavar="JOB")
@click.option("--precision", type=PERCENT, default="95%", show_default=True, help="Share of right labels to reach.")
@click.option(
    "--set",
    "wanted",
    metavar="SCORE",
    help="Set those of the job instead: 0.8, or a YAML file. What it does not state stays; 'labels:' without any "
    "removes those of labels.",
)
@api_command
def min_scores(client: ApiClient, *, job: str, precision: float, wanted: str | None) -> None:
    """Learn from a reviewed job from which scores on labels are right; print a file for classify --min-score."""
    if wanted is not None:
        client.set_min_scores(job, read_min_scores(wanted))
        click.echo(f"Job {job} has these scores now, and so have its page and new downloads.")
        return
    learned = learn_min_scores(client.results(job), precision / 100)
    for line in learned.scores.yaml():
        click.echo(line)
    for sentence in learned.sentences():
        click.echo(one_line(sentence), err=True)


@click.command(cls=_EpilogCommand, epilog=JOB_EXIT_STATUSES)
@click.argument("job", metavar="JOB")
@api_command
def cancel(client: ApiClient, *, job: str) -> None:
    """Cancel a job; its results stay."""
    status = client.cancel(job)
    state = one_line(status["state"])
    click.echo(f"Job {job} is {state}: {status['done']:,} of {status['accepted']:,} images have a label.")


@click.command(cls=_EpilogCommand, epilog=JOB_EXIT_STATUSES)
@click.argument("job_ids", nargs=-1, required=True, metavar="JOB...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@api_command
def delete(client: ApiClient, *, job_ids: tuple[str, ...], yes: bool) -> None:
    """Delete jobs with their images and results."""
    for job_id in job_ids:
        status = client.status(job_id)
        if not yes:
            name = one_line(status["name"])
            question = f"Delete job {job_id} ({name}, {status['accepted']:,} images)?"
            click.confirm(question, abort=True, err=True)
        client.delete(job_id)
        click.echo(f"Job {job_id} was deleted.")


@click.command(cls=_EpilogCommand, epilog=JOB_EXIT_STATUSES)
@click.argument("job", metavar="JOB")
@click.option("--model", help="Name or digest of another model for these images, and for those that it gets later")
@api_command
def retry(client: ApiClient, *, job: str, model: str | None) -> None:
    """Request the failed images of a job again; resume a cancelled or stopped job."""
    counts = client.retry(job, model)
    parts = [f"{counts['sent']:,} images were requested again"]
    parts += [f"{counts['running']:,} are being retried already"] if counts["running"] else []
    parts += [f"{counts['final']:,} cannot be classified"] if counts["final"] else []
    parts += [f"{counts['gone']:,} are no longer stored: send them again"] if counts["gone"] else []
    parts += [f"{counts['refused']:,} were not taken: try again"] if counts["refused"] else []
    click.echo("; ".join(parts) + ".")


COMMANDS: Final = (classify, estimate, jobs, results, min_scores, cancel, delete, retry)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fleetsight_client.__version__, message="fleetsight-client %(version)s")
def fleetsight() -> None:
    """Classify images with Fleetsight."""


for each in COMMANDS:
    fleetsight.add_command(each)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    clean_terminal_output()
    fleetsight(args=None if arguments is None else [*arguments], prog_name="fleetsight")
