"""In Node: functions of the pages' scripts that need no page do what the server's functions do."""

import base64
import io
import tarfile
from typing import Any

import pytest

from core.format import duration, file_size, plural
from core.images import FORMATS, ImageRejectedError, sniff, unknown_reason
from core.jobs.pack_objects import member, member_name, member_part, object_bytes
from tests.conftest import ROOT
from tests.support.hostile_images import FOREIGN, encoded
from tests.support.node import call
from web_tier.pages.upload import BROWSER_FORMATS, BROWSER_OTHER_FILES
from web_tier.results.query import natural_key

pytestmark = pytest.mark.processes

STATIC = str(ROOT / "web_tier" / "static")

_SNIFF = """
async (folder, files, formats, otherFiles, unknownReason) => {
    const { sniff, reasonOf } = await import(`${folder}/upload/sniff.js`);
    return files.map((file) => {
        const bytes = new Uint8Array(Buffer.from(file, "base64"));
        const { type, width, height } = sniff(bytes, formats);
        return [type ?? reasonOf(bytes, otherFiles, unknownReason), width, height];
    });
}
"""

_UPLOAD = """
async (folder, count) => {
    const { Batch } = await import(`${folder}/upload/batch.js`);
    const { Uploader } = await import(`${folder}/upload/uploader.js`);
    const forms = [];
    globalThis.XMLHttpRequest = class {
        upload = {};
        open() {}
        setRequestHeader() {}
        send(form) {
            forms.push([...form].map(([name, value]) => [name, name === "images" ? value.name : value]));
            const accepted = form.getAll("images").map((_, index) => ({ index }));
            Object.assign(this, { status: 200, response: { accepted, rejected: [] } });
            setTimeout(() => this.onloadend());
        }
    };
    const batch = new Batch();
    for (let number = 0; number < count; number += 1) {
        const item = batch.add({ name: `${number}.jpg`, size: 1 });
        item.blob = new Blob(["x"]);
        batch.setState(item, "ready");
    }
    const limits = { maxFiles: 1_000, maxRequestBytes: 2 ** 30, bootSeconds: 60 };
    await new Uploader(batch, limits, { job_id: "job" }).run();
    return forms;
}
"""

_TAR = """
async (folder, files) => {
    const { tarOf } = await import(`${folder}/upload/tar.js`);
    const members = files.map(([name, content]) => ({ name, blob: new Blob([Buffer.from(content, "base64")]) }));
    return Buffer.from(await tarOf(members).arrayBuffer()).toString("base64");
}
"""

_FORMAT = """
async (folder, numbers) => {
    const { duration, fileSize, plural } = await import(`${folder}/upload/format.js`);
    return numbers.map((number) => [plural(number, "image"), fileSize(number), duration(number)]);
}
"""

_SORT = """
async (folder, rows) => {
    const { ORDERS } = await import(`${folder}/job/orders.js`);
    return Object.fromEntries(Object.entries(ORDERS).map(([name, order]) => [name, order && rows.toSorted(order)]));
}
"""

SIZE = (61, 40)


def server_says(content: bytes) -> str:
    """Return the media type of a file, or why its first bytes have it rejected."""
    try:
        return FORMATS[sniff(content)].content_type
    except ImageRejectedError as rejection:
        return rejection.message


def test_a_file_is_what_it_is_to_the_server_and_has_its_size() -> None:
    images = {name: encoded(name, size=SIZE) for name in FORMATS}
    files = [*images.values(), *(make() for make in FOREIGN.values()), b"", b"no image", b"\xff\xd8\xff\xe1\xff"]
    formats, other_files = (
        [each.model_dump(by_alias=True) for each in kinds] for kinds in (BROWSER_FORMATS, BROWSER_OTHER_FILES)
    )
    contents = [base64.b64encode(file).decode() for file in files]
    found = call(_SNIFF, STATIC, contents, formats, other_files, unknown_reason())
    assert [said for said, *_ in found] == [server_says(file) for file in files]
    assert {said: tuple(size) for said, *size in found if size != [None, None]} == dict.fromkeys(
        ("image/jpeg", "image/png", "image/gif", "image/bmp"), SIZE
    )


def test_the_page_sends_positions_and_how_many_files_follow_before_the_files() -> None:
    forms = call(_UPLOAD, STATIC, 120)
    sent = [dict(form[:2]) | {"images": [value for _, value in form[2:]]} for form in forms]
    assert [(each["remaining"], len(each["images"])) for each in sent] == [("70", 50), ("20", 50), ("0", 20)]
    names = [f"{position}.jpg" for each in sent for position in each["positions"].split(",")]
    assert names == [name for each in sent for name in each["images"]] == [f"{number}.jpg" for number in range(120)]


def test_a_pack_of_the_page_is_the_tar_that_a_worker_takes() -> None:
    contents = [bytes([number]) * size for number, size in enumerate((1, 511, 512, 513, 70_000))]
    sizes = [len(content) for content in contents]
    files = [(member_name(place, "jpg"), base64.b64encode(each).decode()) for place, each in enumerate(contents)]
    tar = base64.b64decode(call(_TAR, STATIC, files))
    assert len(tar) in object_bytes(sizes)
    for place, content in enumerate(contents):
        start, size = member_part(sizes, place)
        assert member(sizes, tar[start : start + size], place) == content
    with tarfile.open(fileobj=io.BytesIO(tar)) as judge:
        found = {each.name: judge.extractfile(each) for each in judge}
    assert [file.read() for file in found.values() if file] == contents
    assert [*found] == [name for name, _ in files]


def test_counts_sizes_and_durations_read_as_the_servers() -> None:
    numbers = [
        1,
        2,
        119,
        121,
        1_000,
        7_300,
        99_999,
        200_000,
        2**20 - 1,
        2**20,
        26_200_000,
        2**30 - 1,
        5 * 10**9,
        2**41,
    ]
    texts = [[plural(number, "image"), file_size(number), duration(number)] for number in numbers]
    assert call(_FORMAT, STATIC, numbers) == texts


def test_images_are_sorted_as_by_the_server() -> None:
    rows: list[dict[str, Any]] = [
        {"name": "image 10", "label": "stop", "score": 0.5, "status": "done", "at": 3},
        {"name": "Image 9", "label": "yield", "score": 0.9, "status": "done", "at": 5},
        {"name": "a", "status": "waiting"},
        {"name": "b", "status": "failed", "at": 4},
    ]
    found = {name: order and [row["name"] for row in order] for name, order in call(_SORT, STATIC, rows).items()}
    assert found == {
        "": None,
        "name": sorted((row["name"] for row in rows), key=natural_key),
        "label": ["image 10", "Image 9", "a", "b"],
        "sure": ["Image 9", "image 10", "a", "b"],
        "unsure": ["image 10", "Image 9", "a", "b"],
        "state": ["b", "a", "image 10", "Image 9"],
        "recent": ["Image 9", "b", "image 10", "a"],
    }
