"""What goes into the images, as it stands in the project's files."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from ami.files.web.opt.fleetsight.prepare_web import limits
from tests.conftest import ROOT
from tests.support.booted.images import packages
from tests.support.pins import normal, sections
from web_tier.http.assets import IMMUTABLE
from web_tier.http.middleware import HEADERS, PROXY, TLS_ONLY
from web_tier.http.problems import ProblemType

AMI = ROOT / "ami"
NGINX = AMI / "files" / "web" / "etc" / "nginx"

OF_PEOPLE = {ROOT / "core/tokens.py", ROOT / "services/passwords.py"}
"""What the web tier alone imports; import-linter holds that workers do not."""

GPU_PACKAGES = {"torch"}
"""What `worker.engine: torch` runs: only in a worker image made for it."""

TELEMETRY_PACKAGES = {"opentelemetry"}
"""What exports spans where it is installed: no image has it."""


def sources(folder: str) -> Iterator[Path]:
    """Yield the modules of a folder that an image has."""
    yield from (ROOT / folder).rglob("*.py")


def third_party(path: Path) -> Iterator[str]:
    """Yield the names of other people's packages that a module imports when it runs."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        else:
            continue
        for name in (each.partition(".")[0] for each in names):
            ours = name in {"services", "core", "app_tier", "web_tier"}
            # Types alone: these packages are never imported.
            if not ours and name not in sys.stdlib_module_names and not name.startswith(("mypy_boto3", "_typeshed")):
                yield name


@pytest.mark.parametrize(
    ("role", "folders"), [("worker", ("app_tier", "core", "services")), ("web", ("web_tier", "core", "services"))]
)
def test_every_import_of_a_tier_is_in_its_section(role: str, folders: tuple[str, ...]) -> None:
    unused = OF_PEOPLE if role == "worker" else set()
    paths = {path for folder in folders for path in sources(folder)} - unused
    wanted = {name for path in paths for name in third_party(path)} - GPU_PACKAGES - TELEMETRY_PACKAGES
    by_import = packages_distributions()
    missing = {name for name in wanted if not {normal(each) for each in by_import[name]} & sections()[role].keys()}
    assert missing == set()


@pytest.mark.parametrize("role", ["worker", "web"])
def test_a_tiers_section_is_a_part_of_run_in_the_same_versions(role: str) -> None:
    assert sections()[role].items() <= sections()["run"].items()


def test_no_image_has_the_local_cloud_or_what_builds_bundles() -> None:
    for role in ("worker", "web"):
        assert not sections()[role].keys() & {"moto", "boto3", "torch", "torchvision", "nncf"}
    assert not sections()["worker"].keys() & {"authlib", "flask", "requests"}
    assert "openvino" not in sections()["web"]


def test_torch_for_workers_with_a_gpu_is_the_one_that_bundles_are_built_with() -> None:
    gpu = sections()["gpu"]
    assert "torch" in gpu
    assert gpu.items() <= sections()["torch"].items()
    assert not gpu.keys() & {"torchvision", "nncf"}


def test_debians_packages_are_those_of_both_roles_and_none_of_aws() -> None:
    assert {"systemd", "cloud-init", "python3-venv", "nginx", "chrony"} <= set(packages())
    assert "curl" not in packages()
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", name) for name in packages())


def test_what_nginx_answers_itself_has_the_headers_of_the_web_tier() -> None:
    problems = (NGINX / "fleetsight" / "own-headers.conf").read_text()
    own = (NGINX / "fleetsight" / "headers.conf").read_text()
    for name, value in {**HEADERS, "Strict-Transport-Security": TLS_ONLY}.items():
        variable = name.lower().replace("-", "_")
        found = re.search(rf"map \$upstream_http_{variable} \$own_{variable} \{{\s*\"\" (\"[^\"]+\"|\S+);", problems)
        assert found is not None, name
        assert found[1].strip('"') == value
        assert f"add_header {name} $own_{variable} always;" in own


def test_the_web_tier_trusts_nginx_and_nginx_sets_what_it_forwards() -> None:
    unit = (AMI / "files" / "web" / "etc" / "systemd" / "system" / "fleetsight-web.service").read_text()
    assert "\nEnvironment=FLEETSIGHT__WEB__BEHIND_PROXY=true\n" in unit
    said = (NGINX / "nginx.conf").read_text()
    # Set, so that no value of a client remains.
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in said
    assert "proxy_set_header X-Forwarded-Proto https;" in said
    assert said.count("proxy_set_header Host $page_host;") == 2
    assert '"address": "$remote_addr"' in said, "a refusal of nginx has the address that it forwards"
    assert f"server {PROXY}:8000;" in limits(1, 8000, ())
    # The name of the static site, which CloudFront passes on, if the page has it.
    forwarded = 'map $http_x_forwarded_host $page_host {\n    default $http_host;\n    "a.org" "a.org";\n}'
    assert forwarded in limits(1, 8000, ("a.org",))
    gunicorn = (ROOT / "web_tier" / "gunicorn.py").read_text()
    assert '\nforwarded_allow_ips = PROXY if _web.behind_proxy else ""\n' in gunicorn


def test_what_nginx_refuses_is_of_the_kinds_that_the_web_tier_knows() -> None:
    refusals = (NGINX / "fleetsight" / "refusals.conf").read_text()
    kinds = re.findall(r'"type": "([^"]+)", "title": "([^"]+)"', refusals)
    assert len(kinds) == 4
    assert refusals.count('"request_id": "$request_id", "trace_id": "$trace_id"}') == 4
    assert {kind: ProblemType.from_name(title) for kind, title in kinds} == {kind: kind for kind, _ in kinds}


def test_nginx_and_the_web_tier_let_static_files_be_cached_equally_long() -> None:
    assert f'Cache-Control "{IMMUTABLE}"' in (NGINX / "nginx.conf").read_text()


def test_nginx_closes_idle_connections_to_the_web_tier_before_that_does() -> None:
    gunicorn = (ROOT / "web_tier" / "gunicorn.py").read_text()
    kept = re.search(r"^keepalive = (\d+)$", gunicorn, re.MULTILINE)
    ours = re.search(r"keepalive_timeout (\d+)s", limits(1, 1, ()))
    assert kept
    assert ours
    assert int(ours[1]) < int(kept[1])
