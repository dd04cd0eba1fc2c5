"""Static files have addresses with their hash, and what can be compressed is."""

import gzip
import re
from collections.abc import Iterator

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient

from web_tier.http.assets import IMMUTABLE, STATIC, assets_hash
from web_tier.http.middleware import COMPRESSED_TYPES, install_compression

ASSETS = f"{STATIC}{assets_hash()}"
OWN_PAGE = {"Accept-Encoding": "gzip, br", "Sec-Fetch-Site": "same-origin"}


@pytest.mark.parametrize("path", ["/", "/jobs", "/fleet", "/api", "/model", "/sign-in", "/nowhere"])
def test_pages_are_kept_by_no_cache_and_name_static_files_by_their_hash(client: FlaskClient, path: str) -> None:
    page = client.get(path)
    assert page.headers["Cache-Control"] == "no-store"
    named = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text)
    assert named
    for address in named:
        file = client.get(address, buffered=True)
        assert (address, file.status_code, file.headers["Cache-Control"]) == (address, 200, IMMUTABLE)
        assert address.startswith(f"{ASSETS}/")


@pytest.mark.parametrize("base", [STATIC.rstrip("/"), f"{STATIC}0123456789abcdef"])
def test_an_address_of_another_release_leads_to_the_file_of_this_one_and_is_asked_again(
    client: FlaskClient, base: str
) -> None:
    files = [client.get(f"{each}/job/main.js", buffered=True) for each in (base, ASSETS)]
    assert files[0].data == files[1].data
    assert files[0].headers["Cache-Control"] == "no-cache"
    unchanged = OWN_PAGE | {"If-None-Match": files[1].headers["ETag"]}
    again = client.get(f"{base}/job/main.js", headers=unchanged, buffered=True)
    assert again.status_code == 304
    missing = client.get(f"{base}/job/missing.js")
    assert (missing.status_code, missing.headers["Cache-Control"]) == (404, "no-store")


@pytest.mark.parametrize(
    "path", ["/", "/nowhere", "/api/v1/openapi.json", f"{ASSETS}/fleetsight.css", f"{STATIC}jobs.js"]
)
def test_text_is_compressed_for_clients_that_accept_it(client: FlaskClient, path: str) -> None:
    plain, packed = (client.get(path, headers=each, buffered=True) for each in ({}, OWN_PAGE))
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.content_length == len(packed.data) < len(plain.data) / 2
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
    unpacked = gzip.decompress(packed.data)
    assert packed.mimetype in COMPRESSED_TYPES
    assert len(unpacked) == len(plain.data)  # ids of the request differ


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        # Another site's page may know a part of the body, and sees how long it is: https://breachattack.com
        ("/", {"Sec-Fetch-Site": "cross-site"}),
        ("/", {"Sec-Fetch-Site": "same-site"}),
        ("/", {"Accept-Encoding": "gzip;q=0"}),
        ("/healthz", {}),
        (f"{ASSETS}/fleetsight.css", {"Range": "bytes=0-4999"}),
        (f"{ASSETS}/fonts/inter-latin-wght-normal.woff2", {}),
    ],
    ids=["another site", "another name of the site", "refused", "small", "a part", "compressed already"],
)
def test_what_must_not_or_need_not_be_compressed_is_not(
    client: FlaskClient, path: str, headers: dict[str, str]
) -> None:
    answer = client.get(path, headers=OWN_PAGE | headers, buffered=True)
    assert answer.status_code in {200, 206}
    assert "Content-Encoding" not in answer.headers


def test_each_part_of_a_stream_is_sent_as_it_comes() -> None:
    app, made = Flask("streams"), list[int]()
    install_compression(app)

    def parts() -> Iterator[bytes]:
        for part in range(3):
            made.append(part)
            yield b"x" * 2_000

    app.add_url_rule("/", view_func=lambda: Response(parts(), mimetype="application/json"))
    answer = app.test_client().get("/", headers=OWN_PAGE)
    assert "Content-Encoding" not in answer.headers
    assert len(made) <= 1
    answer.close()
