"""The images as `provision.sh` leaves them: units, hardening, nginx, and nothing of the machine that made them."""

import json
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ami.archive import bundle_digest
from core.config import DEMO_BUNDLE
from tests.support.booted.images import ROOT, LocalImage, inside_of
from tests.support.pins import sections
from tests.support.waiting import DEADLINE_SECONDS
from web_tier.http.assets import IMMUTABLE, assets_hash

pytestmark = pytest.mark.thorough

HOME = "opt/fleetsight"
OURS = {
    "worker": ("fleetsight-worker.service",),
    "web": ("fleetsight-web.service", "fleetsight-controller.service", "nginx.service", "fleetsight-ready.service"),
}
MAX_EXPOSURE = 1.5


def inside(image: LocalImage, *command: str, seconds: float = 60) -> str:
    """Run a command in the image, which drops what it writes; return what it said."""
    done = subprocess.run(
        (*inside_of(image.root, "--volatile=overlay", "--rlimit=NOFILE=65536"), *command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(params=["worker", "web"])
def image(request: pytest.FixtureRequest) -> LocalImage:
    """Each of the images."""
    made: LocalImage = request.getfixturevalue(f"{request.param}_image")
    return made


def role_of(image: LocalImage) -> str:
    """Return the role that the image says it is for."""
    return str(json.loads((image.root / HOME / "version.json").read_text())["role"])


def size_of(folder: Path) -> int:
    """Return what a folder takes on disk, in bytes."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def test_an_image_says_what_it_is(image: LocalImage, capsys: pytest.CaptureFixture[str]) -> None:
    about = json.loads((image.root / HOME / "version.json").read_text())
    assert about.keys() == {"role", "version", "commit", "bundle", "engine"}
    assert about["bundle"] == bundle_digest(ROOT / DEMO_BUNDLE)
    with capsys.disabled():
        print(f" [{about['role']} {image.image_id}: {size_of(image.root) // 2**20} MB]", end="")  # noqa: T201


# ---- Units


def test_units_are_valid(image: LocalImage) -> None:
    units = sorted(path.name for path in (image.root / "etc/systemd/system").glob("fleetsight-*.*") if path.is_file())
    assert set(OURS[role_of(image)]) - {"nginx.service"} <= set(units)
    assert inside(image, "systemd-analyze", "verify", "--man=no", *units, *OURS[role_of(image)]).strip() == ""


def test_units_are_hardened(image: LocalImage) -> None:
    units = OURS[role_of(image)]
    command = ("systemd-analyze", "security", "--offline=true", "--no-pager", f"--root={image.root}")
    for unit in units:
        done = subprocess.run((*command, unit), capture_output=True, text=True, check=True, timeout=DEADLINE_SECONDS)
        said = next(line for line in done.stdout.splitlines() if "Overall exposure level" in line)
        assert float(said.split(":")[1].split()[0]) <= MAX_EXPOSURE, done.stdout


def test_what_starts_by_itself_is_what_should(image: LocalImage) -> None:
    asked = ("systemctl", "is-enabled")
    assert inside(image, *asked, "fleetsight-read-early.service").strip() == "enabled"
    # Started by user data, once there are settings.
    for unit in OURS[role_of(image)]:
        assert f"{unit}\n" not in inside(image, "ls", "/etc/systemd/system/multi-user.target.wants")
    active = {"worker": "worker", "web": "ready"}[role_of(image)]
    assert inside(image, *asked, f"fleetsight-unstarted@{active}.timer").strip() == "enabled"
    for unit in ("ssh.service", "getty@tty1.service", "cloud-final.service"):
        assert str((image.root / "etc/systemd/system" / unit).readlink()) == "/dev/null"


def test_a_worker_and_its_machine_end_together(worker_image: LocalImage) -> None:
    unit = (worker_image.root / "etc/systemd/system/fleetsight-worker.service").read_text().splitlines()
    assert {"SuccessAction=poweroff", "FailureAction=poweroff"} <= set(unit)
    # systemd 252 takes the action at the first failure all the same.
    assert not any(line.startswith("Restart=") for line in unit)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("fleetsight-web.service", "StartLimitBurst="),
        ("fleetsight-controller.service", "StartLimitIntervalSec=0\n"),  # never given up: somebody must lead
        ("nginx.service.d/fleetsight.conf", "StartLimitBurst="),
    ],
)
def test_a_process_of_the_web_tier_is_restarted_within_limits(web_image: LocalImage, name: str, limit: str) -> None:
    unit = (web_image.root / "etc/systemd/system" / name).read_text()
    assert f"\n{limit}" in unit
    assert "\nRestart=always" in unit
    assert "\nRestartSec=" in unit
    assert "\nMemoryMax=" in unit


# ---- What is in it


def test_a_tier_starts_with_what_is_in_its_image(image: LocalImage) -> None:
    modules = {
        "worker": ("app_tier.__main__", "app_tier.startup", "app_tier.worker"),
        "web": ("web_tier.app", "web_tier.controller.__main__", "web_tier.gunicorn", "gunicorn.app.wsgiapp"),
    }[role_of(image)]
    script = f"cd /{HOME}/app && exec /{HOME}/venv/bin/python -c 'import {', '.join(modules)}'"
    inside(image, "sh", "-c", script)


def test_an_image_has_the_pinned_packages_of_its_role_and_no_others(image: LocalImage) -> None:
    found = (path.name.removesuffix(".dist-info") for path in (image.root / HOME).glob("venv/lib/*/*/*.dist-info"))
    installed = {name.replace("_", "-").lower(): version for name, version in (each.split("-") for each in found)}
    pinned = sections()[role_of(image)]
    assert {name.replace(".", "-"): version for name, version in installed.items()} == pinned
    assert not {"torch", "moto", "boto3", "pip", "setuptools"} & installed.keys()


def test_an_image_has_the_code_of_its_tier_alone(image: LocalImage) -> None:
    app = image.root / HOME / "app"
    tier = {"worker": "app_tier", "web": "web_tier"}[role_of(image)]
    assert {path.name for path in app.iterdir()} == {"services", "core", tier, "config.yaml"}
    assert not (app / "app_tier" / "demo").exists()
    assert (image.root / "usr/sbin/nginx").exists() == (role_of(image) == "web")


def test_everything_is_compiled_and_stays_as_it_is(image: LocalImage) -> None:
    app = image.root / HOME / "app"
    sources = list(app.rglob("*.py"))
    assert sources
    assert not [path for path in sources if not list((path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"))]
    assert not [path for path in (image.root / HOME).rglob("*") if path.lstat().st_uid or path.stat().st_mode & 0o022]


def test_what_is_read_early_is_there_and_holds_the_model_of_a_worker(image: LocalImage) -> None:
    files = (image.root / HOME / "read-early.txt").read_text().splitlines()
    assert [name for name in files if not (image.root / name.lstrip("/")).exists()] == []
    assert f"/{HOME}/bundle/bundle.json" in files
    assert any("app/services/" in name and name.endswith(".pyc") for name in files)
    if role_of(image) == "worker":
        assert any("libopenvino_intel_cpu_plugin" in name for name in files)


def test_services_run_as_users_who_can_do_nothing_else(image: LocalImage) -> None:
    users = {"worker": {"fleetsight-worker"}, "web": {"fleetsight-web", "fleetsight-controller"}}[role_of(image)]
    lines = [line.split(":") for line in (image.root / "etc/passwd").read_text().splitlines()]
    ours = {line[0]: line for line in lines if line[0].startswith("fleetsight")}
    assert ours.keys() == users
    assert {line[6] for line in ours.values()} == {"/usr/sbin/nologin"}
    assert not [line[0] for line in lines if int(line[2]) >= 1000 and line[0] != "nobody"]


# ---- What cloud-init does


def test_cloud_init_takes_its_settings(image: LocalImage) -> None:
    inside(image, "cloud-init", "schema", "--config-file", "/etc/cloud/cloud.cfg.d/99_fleetsight.cfg")


def test_cloud_init_asks_ec2_alone_makes_no_users_and_runs_user_data_first(image: LocalImage) -> None:
    script = "from cloudinit import stages; i = stages.Init(); i.read_cfg(); import json; print(json.dumps(i.cfg))"
    config = json.loads(inside(image, "python3", "-c", script).splitlines()[-1])
    assert config["datasource_list"] == ["Ec2"]
    assert config["cloud_init_modules"][0] == "scripts-user"
    for stage in ("cloud_init_modules", "cloud_config_modules", "cloud_final_modules"):
        assert not {"users-groups", "ssh", "set-passwords", "ssh-import-id"} & set(config[stage])


# ---- nginx


def test_nginx_takes_its_settings(web_image: LocalImage) -> None:
    prepare = f"FLEETSIGHT__AUTH__OPEN=true /{HOME}/venv/bin/python /{HOME}/prepare_web.py"
    said = inside(web_image, "sh", "-c", f"{prepare} && mkdir -p /run/nginx && nginx -t")
    assert "test is successful" in said
    assert "[warn]" not in said


_ASK = """
import http.client, json, ssl, subprocess, time
nginx = subprocess.Popen(["nginx", "-g", "daemon off;"])
anyone = ssl._create_unverified_context()
def ask(path, method="GET", headers={}, secure=True):
    made = http.client.HTTPConnection("127.0.0.1", timeout=120)
    if secure:
        made = http.client.HTTPSConnection("127.0.0.1", timeout=120, context=anyone)
    made.request(method, path, headers=headers)
    answer = made.getresponse()
    headers = dict((name.lower(), value) for name, value in answer.getheaders())
    return [answer.status, headers, answer.read(4000).decode("latin-1")]
for _ in range(200):
    try:
        ask("/static/HASH/fleetsight.css"); break
    except OSError:
        time.sleep(0.05)
answers = {
    "http": ask("/jobs?name=x", secure=False),
    "http api": ask("/api/v1/jobs", secure=False),
    "static": ask("/static/HASH/fleetsight.css"),
    "packed": ask("/static/HASH/fleetsight.css", headers={"Accept-Encoding": "gzip"}),
    "other release": ask("/static/0123456789abcdef/fleetsight.css"),
    "down": ask("/api/v1/jobs"),
    "down page": ask("/"),
    "too large": ask("/api/v1/classify", "POST", {"Content-Length": str(2**40)}),
    "outside": ask("/static/../app/config.yaml"),
}
nginx.terminate()
nginx.wait()  # so that no line of its log comes in between
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(web_image: LocalImage) -> dict[str, tuple[int, dict[str, str], str]]:
    """What nginx answers while the web tier does not run."""
    ready = f"FLEETSIGHT__AUTH__OPEN=true /{HOME}/venv/bin/python /{HOME}/prepare_web.py && mkdir -p /run/nginx"
    said = inside(
        web_image, "sh", "-c", f'{ready} && exec python3 -c "$1"', "sh", _ASK.replace("HASH", assets_hash())
    )
    found: dict[str, tuple[int, dict[str, str], str]] = json.loads(
        next(line for line in said.splitlines() if line.startswith("{"))
    )
    return found


def test_nginx_sends_people_to_https_and_refuses_programs(
    answers: dict[str, tuple[int, dict[str, str], str]],
) -> None:
    status, headers, _ = answers["http"]
    assert (status, headers["location"]) == (301, "https://127.0.0.1/jobs?name=x")
    assert headers["server"] == "nginx"
    assert answers["http api"][0] == 403


def test_nginx_serves_static_files_with_the_web_tiers_headers(
    answers: dict[str, tuple[int, dict[str, str], str]],
) -> None:
    status, headers, _ = answers["static"]
    assert status == 200
    assert headers["content-type"] == "text/css; charset=utf-8"
    assert headers["cache-control"] == IMMUTABLE
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["strict-transport-security"] == "max-age=31536000"
    assert answers["packed"][1]["content-encoding"] == "gzip"
    assert answers["other release"][0] == 503  # from the web tier, which is down
    assert answers["outside"][0] in {400, 404, 503}
    assert "input_bucket" not in answers["outside"][2]


def test_a_web_tier_that_is_down_is_reported_to_programs_as_a_problem(
    answers: dict[str, tuple[int, dict[str, str], str]],
) -> None:
    status, headers, body = answers["down"]
    assert (status, headers["content-type"]) == (503, "application/problem+json")
    assert json.loads(body)["type"] == "urn:fleetsight:problem:service-unavailable"
    assert headers["retry-after"] == "5"
    assert answers["down page"][0] == 503
    assert "try again" in answers["down page"][2]


def test_an_upload_beyond_the_limit_is_refused_before_it_is_sent(
    answers: dict[str, tuple[int, dict[str, str], str]],
) -> None:
    status, headers, body = answers["too large"]
    assert (status, headers["content-type"]) == (413, "application/problem+json")
    assert json.loads(body)["type"] == "urn:fleetsight:problem:request-entity-too-large"


@pytest.fixture(scope="module")
def served(web_image: LocalImage) -> dict[str, Any]:
    """What nginx answers clients before a web tier that knows one token; see `nginx_clients.py`."""
    names = "FLEETSIGHT__AUTH__OPEN=true FLEETSIGHT__WEB__HOSTS='[photos.example.org]'"
    ready = f"{names} /{HOME}/venv/bin/python /{HOME}/prepare_web.py && mkdir -p /run/nginx"
    script = (Path(__file__).parent / "nginx_clients.py").read_text()
    said = inside(web_image, "sh", "-c", f'{ready} && exec python3 -c "$1"', "sh", script, seconds=300)
    found: dict[str, Any] = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    return found


def test_a_large_body_of_a_known_sender_reaches_the_web_tier_whole(served: dict[str, Any]) -> None:
    known = served["known"]
    assert known["on_disk"] > 0, "it is on disk before the web tier receives it"
    assert known["said"].startswith("HTTP/1.1 200")
    assert '{"path": "/api/v1/x?wait=0&n=%2F", "bytes": 3000000, ' in known["said"]


@pytest.mark.parametrize(
    "client", ["anonymous", "anonymous page", "chunked", "wrong token", "http/2 POST", "http/2 GET"]
)
def test_s5_nothing_of_an_anonymous_users_body_is_written_to_disk(served: dict[str, Any], client: str) -> None:
    found = served[client]
    assert (found["on_disk"], found["reached"]) == (0, False)
    if client != "http/2 GET":  # of which no body is expected: what it sends is bounded
        assert "401" in found["said"]


def test_s5_an_anonymous_user_is_asked_to_sign_in(served: dict[str, Any]) -> None:
    problem, page = served["anonymous"]["said"], served["anonymous page"]["said"]
    assert json.loads(problem.partition("\r\n\r\n")[2])["type"] == "urn:fleetsight:problem:unauthorized"
    assert "Sign in, or send a token" in page
    assert "X-Content-Type-Options: nosniff" in page


def test_an_anonymous_users_small_form_reaches_the_web_tier(served: dict[str, Any]) -> None:
    assert '{"path": "/sign-out", "bytes": 5, ' in served["small"]["said"]


def test_the_web_tier_knows_the_name_of_the_site_and_no_other(served: dict[str, Any]) -> None:
    assert '"host": "photos.example.org"' in served["site"]["said"]
    assert '"host": "localhost"' in served["other site"]["said"]


def test_the_locations_of_large_bodies_are_for_nginx_alone(served: dict[str, Any]) -> None:
    assert (served["inside"]["said"].startswith("HTTP/1.1 404"), served["inside"]["reached"]) == (True, False)


def test_plain_http_is_redirected_to_no_foreign_host(served: dict[str, Any]) -> None:
    redirects = served["redirects"]
    assert redirects["evil.example"].startswith("HTTP/1.1 421")
    assert "Location" not in redirects["evil.example"]
    for host in ("photos.example.org", "127.0.0.1", "localhost"):
        assert f"Location: https://{host}/jobs?n=x\r\n" in redirects[host]


# ---- What is not in it


def test_each_instance_gets_an_id_of_its_own(image: LocalImage) -> None:
    assert (image.root / "etc/machine-id").read_text() == ""
    assert str((image.root / "var/lib/dbus/machine-id").readlink()) == "/etc/machine-id"
    assert (image.root / "etc/hostname").read_text() == "localhost\n"
    assert str((image.root / "etc/resolv.conf").readlink()) == "../run/systemd/resolve/stub-resolv.conf"
    # By DNS: units without AF_UNIX cannot use nss-resolve.
    assert re.findall(r"^hosts: +(.+)$", (image.root / "etc/nsswitch.conf").read_text(), re.MULTILINE) == [
        "files dns"
    ]


@pytest.mark.parametrize(
    "pattern",
    [
        "etc/ssh/ssh_host_*",
        "root/.*history",
        "root/.ssh/*",
        "root/.cache/*",
        "root/.config/*",
        "home/*",
        "etc/pip.conf",
        "etc/fleetsight/*",
        "var/lib/cloud/*",
        "var/lib/apt/lists/*",
        "var/cache/apt/*",
        "tmp/*",
        "opt/fleetsight/venv/lib/python3*/site-packages/pip",
        "etc/apt/auth.conf.d/*",
        "etc/apt/apt.conf.d/*proxy*",
        "usr/sbin/policy-rc.d",
    ],
)
def test_nothing_is_left_of_how_it_was_made(image: LocalImage, pattern: str) -> None:
    assert list(image.root.glob(pattern)) == []


def test_logs_begin_with_the_instance(image: LocalImage) -> None:
    left = [path for path in (image.root / "var/log").rglob("*") if path.is_file() and not path.is_symlink()]
    assert left == []


def test_packages_come_from_debian_and_updates_by_https_which_is_all_that_goes_out(image: LocalImage) -> None:
    lists = [path for path in (image.root / "etc/apt").rglob("*") if path.suffix in {".list", ".sources"}]
    assert [path.name for path in lists] == ["debian.sources"]
    addresses = [line for line in lists[0].read_text().splitlines() if line.startswith("URIs:")]
    assert addresses == [f"URIs: https://deb.debian.org/{archive}" for archive in ("debian", "debian-security")]


def test_the_machine_that_made_it_is_nowhere_in_its_settings(image: LocalImage) -> None:
    name = platform.node()
    if len(name) < 5:
        name = str(ROOT)  # a name such as `vm` is in many words
    found = [
        path
        for path in (image.root / "etc").rglob("*")
        if path.is_file() and not path.is_symlink() and name.encode() in path.read_bytes()
    ]
    assert found == []
