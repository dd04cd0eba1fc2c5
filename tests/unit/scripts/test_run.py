"""The local system: its configuration, and a batch."""

import json
import re
import signal
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from click.testing import CliRunner

from app_tier.sizing import HostResources
from core.config import PATH_VARIABLE
from core.credentials import PersonalTokens, Profiles, Revocations, Scope
from fleetsight_client.api import ApiError, RejectedError, UnreachableError, UploadResult
from fleetsight_client.console import Console
from fleetsight_client.retries import GaveUpError, PatientCalls
from scripts.run import session
from scripts.run.__main__ import _stop_on_signals, main
from scripts.run.batch import (
    STALLED_SECONDS,
    AwsCost,
    Batch,
    InterruptedBatchError,
)
from scripts.run.images import ImageSet, NoImagesError, images_in
from scripts.run.model import model_setting
from scripts.run.sign_in import operator_token, provider_settings, sign_in_instructions
from scripts.run.supervisor import ManagedProcess, Supervisor
from scripts.run.system import StartError, System, free_port
from services.table import Table
from tests.support.clocks import ManualClock, PlayedClock
from tests.support.fake_client import FakeUploads
from web_tier.auth.session_keys import KEYS_FILE_VARIABLE

MODEL = {"name": "demo", "digest": "0123456789abcdef"}


class FakeApi(FakeUploads):
    """Answers as the API does: `label` classifies a filename, None leaves it without a result."""

    def __init__(self, labels: dict[str, str | None], refused: Sequence[str] = (), failing_posts: int = 0) -> None:
        super().__init__(failing_posts=failing_posts)
        self.labels, self.refused = labels, refused
        self.accepted: list[tuple[str, str]] = []

    def accept(self, files: Sequence[tuple[str, bytes]]) -> UploadResult:
        accepted = [(f"id-{name}", name) for name, _ in files if name not in self.refused]
        self.accepted += accepted
        return UploadResult(accepted, [(name, "not an image") for name, _ in files if name in self.refused])

    def _answered(self) -> list[tuple[str, str]]:
        return [(image_id, name) for image_id, name in self.accepted if self.labels[name] is not None]

    def status(self, job_id: str) -> dict[str, Any]:
        failed = sum(self.labels[name] == "!" for _, name in self._answered())
        return {
            "accepted": len(self.accepted),
            "done": len(self._answered()) - failed,
            "failed": failed,
            "first_result_at": "1970-01-12T13:46:41+00:00",
            "last_result_at": "1970-01-12T13:46:44+00:00",
        }

    def fleet(self) -> dict[str, Any] | None:
        return {"running": 1, "pending": 1, "peak_workers": 5, "problem": None, "reason": "starting"}

    def results(self, job_id: str, page: int = 500) -> Any:
        for image_id, name in self._answered():
            label = self.labels[name]
            if label == "!":
                yield {"image_id": image_id, "status": "failed", "error": {"message": "torn"}}
            else:
                yield {"image_id": image_id, "status": "done", "label": label, "model": MODEL}


def batch(tmp_path: Path, api: FakeApi, truth: dict[str, str], clock: ManualClock | None = None) -> Batch:
    files = [tmp_path / name for name in api.labels]
    for path in files:
        path.write_bytes(b"pixels")
    clock = clock or ManualClock(1_000_000.0, datetime.fromtimestamp(0, UTC))
    return Batch(api, ImageSet("test", files, truth), lambda _progress: None, clock=clock)


def test_an_image_that_cannot_be_stored_just_now_is_sent_again_at_its_place(tmp_path: Path) -> None:
    api = FakeApi({"a": "stop", "b": "yield", "c": "stop"})
    api.unavailable = {"b"}
    summary = batch(tmp_path, api, {"a": "stop", "b": "yield", "c": "stop"}).run()
    assert (summary.right, summary.failed, summary.lost) == (3, 0, 0)
    assert api.positions == {"a": 0, "b": 1, "c": 2}
    assert len(set(api.keys)) == len(api.keys) == 2


def test_every_file_is_right_wrong_failed_or_lost(tmp_path: Path) -> None:
    api = FakeApi({"a": "stop", "b": "yield", "c": "!", "d": "stop", "e": None}, refused=["d"])
    summary = batch(tmp_path, api, dict.fromkeys("abcde", "stop")).run()
    assert (summary.right, summary.wrong, summary.failed, summary.lost) == (1, 1, 2, 1)
    assert summary.mistakes == [("b", "stop", "yield")]
    assert sorted(summary.failures) == [("c", "torn"), ("d", "not an image")]
    assert not summary.ok


def test_an_interrupted_upload_is_retried_under_its_key(tmp_path: Path) -> None:
    api = FakeApi({"a": "stop"}, failing_posts=2)
    assert batch(tmp_path, api, {"a": "stop"}).run().ok
    assert len(api.keys) == 3
    assert len(set(api.keys)) == 1
    assert api.keys[0]


def test_a_server_that_does_not_answer_for_a_while_ends_no_batch(tmp_path: Path) -> None:
    """Row 67: the job is created once, and the summary waits for the results."""

    class Paused(FakeApi):
        left, created = Counter[str](create=5, results=5, status=5), list[str | None]()

        def _fail(self, call: str) -> None:
            self.left[call] -= 1
            if self.left[call] >= 0:
                raise RejectedError(call, 503, "busy") if self.left[call] else UnreachableError("no answer")

        def create_job(self, name: str, **options: Any) -> str:
            self.created.append(options["key"])
            self._fail("create")
            return super().create_job(name, **options)

        def status(self, job_id: str) -> dict[str, Any]:
            if self.left["results"] < 0:
                self._fail("status")
            return super().status(job_id)

        def results(self, job_id: str, page: int = 500) -> Any:
            self._fail("results")
            return super().results(job_id, page)

    api = Paused({"a": "stop"})
    assert batch(tmp_path, api, {"a": "stop"}).run().ok
    assert len(api.created) == 6
    assert len(set(api.created)) == 1
    assert api.created[0]


def test_an_upload_that_fails_at_every_attempt_ends_the_batch(tmp_path: Path) -> None:
    with pytest.raises(GaveUpError, match="cut"):
        batch(tmp_path, FakeApi({"a": "stop"}, failing_posts=100), {}).run()


def test_a_batch_without_progress_ends_after_a_bounded_wait(tmp_path: Path) -> None:
    clock = ManualClock(1_000_000.0)
    started = clock.now
    summary = batch(tmp_path, FakeApi({"a": None}), {"a": "stop"}, clock).run()
    assert summary.lost == 1
    assert STALLED_SECONDS <= clock.now - started < STALLED_SECONDS + 10


def test_an_interrupted_batch_is_an_error(tmp_path: Path) -> None:
    interrupted = batch(tmp_path, FakeApi({"a": None}), {})
    interrupted.interrupted = lambda: True
    with pytest.raises(InterruptedBatchError):
        interrupted.run()


def test_a_folder_without_images_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(NoImagesError, match=str(tmp_path)):
        images_in(tmp_path)
    with pytest.raises(NoImagesError, match="no such folder"):
        images_in(tmp_path / "absent")


def images(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"pixels")
    return folder


def test_equal_filenames_in_different_folders_are_different_images(tmp_path: Path) -> None:
    found = images_in(images(tmp_path, "stop/1.jpg", "yield/1.jpg"), ["stop", "yield"])
    assert [found.name_of(file) for file in found.files] == ["stop/1.jpg", "yield/1.jpg"]
    api = FakeApi({"stop/1.jpg": "stop", "yield/1.jpg": "stop"})
    summary = Batch(api, found, lambda _progress: None, clock=PlayedClock()).run()
    assert (summary.right, summary.wrong, summary.mistakes) == (1, 1, [("yield/1.jpg", "yield", "stop")])


@pytest.mark.parametrize(
    ("names", "classes", "truth"),
    [
        (
            ["a/Stop_Sign/1.jpg", "traffic-light/2.jpg"],
            ["stop sign", "Traffic Light"],
            ["stop sign", "Traffic Light"],
        ),
        (["stop/1.jpg", "holiday/2.jpg"], ["stop", "yield"], ["stop"]),
        (["stop/1.jpg", "2.jpg"], ["stop", "yield"], []),
        (["monday/1.jpg", "tuesday/2.jpg"], ["stop", "yield"], []),
    ],
    ids=["as folders are called", "only classes", "an image beside the folders", "no class"],
)
def test_folders_named_like_classes_are_the_truth(
    tmp_path: Path, names: list[str], classes: list[str], truth: list[str]
) -> None:
    found = images_in(images(tmp_path, *names), classes)
    assert [found.truth[name] for name in names if name in found.truth] == truth
    assert found.truth_source == ("folder names" if truth else "")


def test_images_without_truth_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    found = images_in(images(tmp_path, "stop/1.jpg", "holiday/2.jpg"), ["stop"])
    api = FakeApi({"stop/1.jpg": "stop", "holiday/2.jpg": "stop"})
    summary = Batch(api, found, lambda _progress: None, clock=PlayedClock()).run()
    assert (summary.right, summary.wrong, summary.no_truth, summary.ok) == (1, 0, 1, True)
    console = Console(record=True, width=100)
    session.show_summary(console, summary, AwsCost(), found.truth_source)
    shown = console.export_text()
    assert re.search(r"no true label\W+1\b", shown)
    assert "true labels from folder names" in shown


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in ("scripts.model.built_once", "scripts.run.model"):
        monkeypatch.setattr(f"{module}.MODELS_FOLDER", tmp_path)
    return tmp_path


def bundle_of(setting: dict[str, str]) -> Path:
    return System(Path("unused"), setting).config.worker.bundle


def test_a_model_that_was_built_before_is_served_at_once(models: Path) -> None:
    said: list[str] = []
    images(models, "resnet18/bundle.json")
    assert bundle_of(model_setting("resnet18", said.append, threading.Event())) == models / "resnet18"
    assert bundle_of(model_setting(str(models / "resnet18"), said.append, threading.Event())) == models / "resnet18"
    assert said == []


def test_a_folder_of_images_does_not_hide_the_model_of_its_name(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(models, "photos/bundle.json", "here/photos/cat.jpg")
    monkeypatch.chdir(models / "here")
    assert bundle_of(model_setting("photos", print, threading.Event())) == models / "photos"


def test_an_unknown_model_is_rejected_with_those_that_there_are(models: Path) -> None:
    images(models, "resnet18/bundle.json")
    with pytest.raises(StartError, match=r"--model resnet19: .*there are demo, photos, resnet18, and .* model build"):
        model_setting("resnet19", print, threading.Event())


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    monkeypatch.delenv(PATH_VARIABLE, raising=False)
    return System(tmp_path, {"FLEETSIGHT__WORKER__BUNDLE": "my/bundle", "FLEETSIGHT__WORKER__IDLE_SECONDS": "7"})


GIB = 2**30
LIMIT, LEAST, THREADS, MODELS = (
    f"FLEETSIGHT__{key}"
    for key in ("FLEET__MAX_WORKERS", "FLEET__MIN_WORKERS", "WORKER__THREADS", "WORKER__MODEL_MEGABYTES")
)


@pytest.mark.parametrize(
    ("machine", "settings", "workers", "threads", "words"),
    [
        ((2, 24 * GIB), {}, 2, 1, "up to 2 workers on 2 cores and 24 GB of memory; set fleet.max_workers to change"),
        ((1, GIB // 4), {}, 1, 1, "up to 1 worker on 1 core and 256 MB"),
        ((64, 256 * GIB), {}, 19, 3, "up to 19 workers on 64 cores and 256 GB"),
        ((8, GIB), {}, 2, 4, "up to 2 workers on 8 cores and 1 GB"),
        ((8, 16 * GIB), {LIMIT: "2"}, 2, 4, "up to 2 workers, as set; 8 cores and 16 GB of memory fit 8"),
        ((2, 16 * GIB), {LIMIT: "19"}, 19, 1, "up to 19 workers, as set"),
        ((2, 16 * GIB), {LIMIT: "0"}, 0, 2, "up to 0 workers, as set"),
        ((2, 16 * GIB), {LEAST: "4"}, 4, 1, "up to 4 workers, as set"),
        ((8, 16 * GIB), {LIMIT: "2", THREADS: "1"}, 2, 1, "up to 2 workers, as set"),
    ],
)
def test_the_fleet_fits_the_machine_unless_it_is_set(
    machine: tuple[int, int],
    settings: dict[str, str],
    workers: int,
    threads: int,
    words: str,
    system: System,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scripts.run.system.this_machine", lambda: HostResources(*machine))
    started = replace(system, overrides={**system.overrides, **settings})
    assert (started.config.fleet.max_workers, started.config.worker.threads) == (workers, threads)
    assert words in started.fleet_words


@pytest.mark.parametrize(("settings", "megabytes"), [({}, 512), ({LIMIT: "4"}, 1024), ({MODELS: "7"}, 7)])
def test_the_workers_share_the_memory_for_models(
    settings: dict[str, str], megabytes: int, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.run.system.this_machine", lambda: HostResources(8, 16 * GIB))
    started = replace(system, overrides={**system.overrides, **settings})
    assert started.config.worker.model_megabytes == megabytes


def test_a_folder_that_cannot_be_made_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"cannot write to .*file.*: Not a directory; .*FLEETSIGHT_HOME"):
        System(tmp_path / "file", {"FLEETSIGHT__WEB__PORT": str(free_port())}).start()


def test_an_interrupt_a_termination_and_a_closed_terminal_each_stop_the_system() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            stop = _stop_on_signals()
            signal.raise_signal(number)
            assert stop.is_set(), number
        finally:
            for each, handler in handlers.items():
                signal.signal(each, handler)


class Operator(FakeUploads):
    """Adds a model at the third try, or rejects it, and ends the run then."""

    def __init__(self, stop: threading.Event, error: ApiError | None) -> None:
        super().__init__()
        self.stop, self.error, self.tries = stop, error, 0

    def add_model(self, _place: str, _name: str | None) -> dict[str, Any]:
        self.tries += 1
        if self.tries < 3:
            raise RejectedError("add", 503, "busy") if self.tries == 1 else UnreachableError("read timed out")
        self.stop.set()
        if self.error is not None:
            raise self.error
        return {"name": "demo"}

    def models(self) -> dict[str, Any]:
        return {"default": "photos"}


@pytest.mark.parametrize(
    ("has_batch", "error", "said"),
    [
        (False, None, "Models: photos for new jobs, demo by name."),
        (
            False,
            RejectedError("add", 422, "torn"),
            "fleetsight: the model demo is not offered: add answered 422: torn",
        ),
        (True, RejectedError("add", 422, "torn"), "the model demo is not offered: add answered 422: torn"),
    ],
)
def test_a_model_is_offered_as_soon_as_the_system_can_and_no_batch_gets_another(
    has_batch: bool,
    error: ApiError | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop = threading.Event()
    operator = Operator(stop, error)
    monkeypatch.setattr(session, "FleetClient", lambda _url, *, token: operator)
    monkeypatch.setattr(PatientCalls, "wait", lambda _self, _seconds: False)
    system: Any = MagicMock(switches=(), state=None)
    system.config.auth.issuer = None
    bundle: Any = SimpleNamespace(name="demo", folder=Path("demo"))
    images = ImageSet("signs", [Path("sign.png")], {}) if has_batch else None
    run = session.RunSession(system, images, Console(), stop, offered=bundle, is_batch_for_offered=has_batch)
    if has_batch:
        with pytest.raises(StartError, match=said):
            run.run()
    else:
        assert run.run() == 0
        assert said in capsys.readouterr().out
    assert operator.tries == 3
    system.stop.assert_called_once_with()


COST = {"billed_seconds": 120.0, "instances_dollars": 0.0034, "requests_dollars": 0.0013}


class Finished(FakeApi):
    """A system that has scaled down, and knows what its job costs."""

    def fleet(self) -> dict[str, Any] | None:
        return {"running": 0, "pending": 0, "peak_workers": 2, "problem": None, "reason": "idle"}

    def status(self, job_id: str) -> dict[str, Any]:
        return super().status(job_id) | {"cost": COST}

    def close(self) -> None:
        """Close nothing."""


@pytest.mark.parametrize(("answer", "status", "shown"), [("stop", 0, "right"), ("!", 1, "failed: stop/1.jpg")])
def test_a_run_once_shows_and_writes_its_figures_and_ends_by_them(
    answer: str, status: int, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = images_in(images(tmp_path, "stop/1.jpg"), ["stop"])
    system: Any = MagicMock(switches=("boot_delay_seconds=1",), state=None, endpoint_url="the cloud")
    system.config.auth.issuer = None
    system.api.return_value = Finished({"stop/1.jpg": answer})
    system.config.worker.idle_seconds = system.config.fleet.min_workers = 0
    system.supervisor.failed = threading.Event()
    run = session.RunSession(system, found, Console(), threading.Event(), instructions=lambda _system: "Look.")
    assert run.run(once=True, json_file=tmp_path / "figures.json") == status
    printed = capsys.readouterr().out
    for words in (shown, "Look.", "boot_delay_seconds=1", "Fleet scaled down to 0", "uploaded 1 of 1", "$0.0047"):
        assert words in printed
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["images"], figures["failed"], figures["cost_dollars"]) == (1, status, 0.0047)


class StartedProcesses(Supervisor):
    """Starts nothing, and keeps what it is told to start."""

    def __init__(self) -> None:
        super().__init__()
        self.started: dict[str, ManagedProcess] = {}

    def start(self, managed: ManagedProcess) -> None:
        self.started[managed.name] = managed


SECRET = "FLEETSIGHT_CLIENT_SECRET"


def environments(system: System, names: Sequence[str]) -> dict[str, Mapping[str, str]]:
    """Return the environment of each process."""
    for name in names:
        system._start(name)
    assert isinstance(system.supervisor, StartedProcesses)
    return {name: process.environment for name, process in system.supervisor.started.items()}


def test_only_the_web_tier_gets_the_key_of_sessions_and_the_secret_of_a_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, "a secret")
    issuer = "https://id.example.org"
    system = System(tmp_path, provider_settings(issuer, "a-client"), StartedProcesses())
    system.state_dir.mkdir()
    assert (system.config.auth.issuer, system.config.auth.client_id) == (issuer, "a-client")
    found = environments(system, ["cloud", "hypervisor", "controller", "web"])
    assert [name for name, each in found.items() if SECRET in each] == ["web"]
    assert [name for name, each in found.items() if KEYS_FILE_VARIABLE in each] == ["web"]
    keys = Path(found["web"][KEYS_FILE_VARIABLE])
    assert keys.stat().st_mode & 0o777 == 0o600
    key = keys.read_text()
    assert environments(system, ["web"])["web"][KEYS_FILE_VARIABLE] == str(keys)
    assert keys.read_text() == key


def test_a_development_provider_is_on_loopback_and_its_client_has_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, "a secret")
    system = System(tmp_path, {}, StartedProcesses(), has_provider=True)
    system.state_dir.mkdir()
    auth = system.config.auth
    assert (auth.mode, auth.client_id, auth.groups_claim) == ("oidc", "fleetsight", "groups")
    assert (auth.issuer or "").startswith("http://127.0.0.1:")
    assert SECRET not in environments(system, ["web"])["web"]


def test_the_printed_token_acts_as_the_operator_of_the_development_provider(table: Table) -> None:
    token = PersonalTokens(table, Revocations(table)).find(text := operator_token(table))
    assert token is not None
    assert (token.owner, token.email, token.scopes) == (
        "operator",
        "operator@example.org",
        frozenset(map(str, Scope)),
    )
    profile = Profiles(table).find(token.owner)
    assert profile is not None
    assert (profile.email, profile.is_verified, profile.is_operator) == (token.email, True, True)
    issuer = "http://127.0.0.1:21000"
    printed = sign_in_instructions(issuer, text)
    assert f"export FLEETSIGHT_TOKEN={text}" in printed
    assert f"development provider {issuer}, which asks for no password" in printed
    assert "FLEETSIGHT_TOKEN" not in sign_in_instructions("https://id.example.org", None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--issuer", "https://id.example.org"], "--issuer and --client-id belong together"),
        (["--sign-in", "--client-id", "a"], "--issuer and --client-id belong together"),
        (["--issuer", "https://id.example.org", "--client-id", "a", "--once"], "--issuer classifies nothing"),
        (["--no-batch", "--images", "."], "--no-batch classifies nothing"),
    ],
)
def test_options_that_exclude_each_other_are_named(options: list[str], words: str) -> None:
    refused = CliRunner().invoke(main, options)
    assert refused.exit_code == 2
    assert words in refused.output
