"""The upload page: from a drop to the last result, the reason for each rejected file, and thumbnails that stay."""

import base64
import csv
import io
import os
import random
import re
import signal
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Dialog, Locator, Page, Route, expect

from core.jobs.store import JobStore
from core.tracing import parse_traceparent, trace_id
from fleetsight_client.api import ApiClient
from scripts.demo_model.signs import SizeShares
from scripts.run.system import System
from services.s3 import Bucket
from services.table import Table
from tests.browser.conftest import (
    LARGER,
    FaultsOf,
    Files,
    Options,
    PageFaults,
    arrived,
    classify,
    drop,
    sent,
    signs,
    wait_until_sent,
)
from tests.support.hostile_images import FOREIGN, box, encoded
from tests.support.waiting import wait_until
from web_tier.http.assets import STATIC, assets_hash
from web_tier.results.export import safe_cell, unescaped_cell

pytestmark = pytest.mark.processes

NO_SCRIPT: Options = {"java_script_enabled": False}
MANY_SIZES: SizeShares = (((64, 64), 0.3), ((128, 96), 0.3), ((150, 200), 0.3), ((640, 480), 0.1))
SENDS_IMAGES = re.compile(r"/api/v1/jobs/[0-9A-Z]{26}/images$")

_COPY = """
async (content) => {
    const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
    await navigator.clipboard.write([new ClipboardItem({ "image/png": new Blob([bytes], { type: "image/png" }) })]);
}
"""


def photo(width: int, height: int, form: str = "JPEG", orientation: int = 1) -> bytes:
    """Return a picture whose left half is red and right half blue, before its EXIF orientation is applied."""
    image = Image.new("RGB", (width, height), "blue")
    image.paste("red", (0, 0, width // 2, height))
    body, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image.save(body, form, exif=exif)
    return body.getvalue()


def drag_and_drop(page: Page, *paths: Path) -> None:
    """Drop files and folders from the disk, as a person does with a mouse."""
    box = page.locator("#drop").bounding_box()
    assert box is not None
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, **where, "data": data})


def top_of(locator: Locator) -> float:
    """Return the distance of an element from the top of the window, in pixels."""
    box = locator.bounding_box()
    assert box is not None
    return box["y"]


def finished(api: ApiClient, job_id: str, images: int) -> list[dict[str, object]]:
    """Wait until a job has the results of `images` images; return them."""

    def has_results() -> bool:
        status = api.status(job_id)
        return bool(status["done"] + status["failed"] >= images)

    wait_until(has_results, f"{images} images have results")
    return list(api.results(job_id))


def stored(system: System, job_id: str) -> dict[str, bytes]:
    """Return what the server got of a job, by filename."""
    store = JobStore(Table(system.clients.dynamodb, system.config.names.job_table))
    bucket = Bucket.named(system.clients, system.config.names.input_bucket)
    return {image.filename: bucket.get(image.key) for image in store.images(job_id)}


def test_dropped_images_are_all_classified_rightly(page: Page, api: ApiClient) -> None:
    files, truth = signs(60, seed=7, sizes=MANY_SIZES)
    page.goto("/")
    page.get_by_label("Name").fill("sixty signs")
    drop(page, "#drop", files)
    expect(page.locator("#count")).to_have_text("60 images")
    classify(page)
    job_id = arrived(page)
    results = finished(api, job_id, 60)
    assert api.status(job_id)["name"] == "sixty signs"
    assert {result["filename"] for result in results} == set(truth)
    assert sum(result["label"] == truth[str(result["filename"])] for result in results) >= 59


def test_a_folder_is_taken_with_the_folders_in_it(page: Page, api: ApiClient, tmp_path: Path) -> None:
    files, truth = signs(6, seed=8)
    (tmp_path / "inner").mkdir()
    for number, (name, content) in enumerate(files):
        (tmp_path / ("inner" if number % 2 else "") / name).write_bytes(content)
    (tmp_path / ".DS_Store").write_bytes(b"litter")
    page.goto("/")
    page.locator("#folder-input").set_input_files(tmp_path)
    expect(page.get_by_label("Name")).to_have_attribute("placeholder", tmp_path.name)
    classify(page)
    paths = {f"{tmp_path.name}/{'inner/' if number % 2 else ''}{name}" for number, name in enumerate(truth)}
    job_id = arrived(page)
    assert {result["filename"] for result in finished(api, job_id, 6)} == paths
    assert api.status(job_id)["name"] == tmp_path.name
    expect(page.locator("#list .tile .filename").first).to_have_text(f"{tmp_path.name}/{next(iter(truth))}")
    page.get_by_label("Search file name").fill("inner/")
    expect(page.locator("#list .tile")).to_have_count(3)
    csv = page.request.get(f"/api/v1/jobs/{job_id}/results.csv").text()
    assert all(path in csv for path in paths)
    expect(page.locator("#hiddenFiles")).to_have_text("1 system file not sent")


def test_folders_and_zips_that_are_dropped_are_taken_with_all_that_is_in_them(
    page: Page, api: ApiClient, tmp_path: Path
) -> None:
    files, truth = signs(6, seed=19)
    (tmp_path / "holiday" / "inner").mkdir(parents=True)
    for number in range(210):  # a browser reads a folder in portions of a hundred
        (tmp_path / "holiday" / f"._{number}").write_bytes(b"litter")
    for folder, (name, content) in zip(("", "inner", "inner"), files, strict=False):
        (tmp_path / "holiday" / folder / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as packed:
        for name, content in files[3:5]:
            packed.writestr(name, content)
    single = tmp_path / files[5][0]
    single.write_bytes(files[5][1])
    page.goto("/")
    drag_and_drop(page, tmp_path / "holiday", tmp_path / "more.zip", single)
    expect(page.locator("#count")).to_have_text("6 images")
    expect(page.locator("#hiddenFiles")).to_have_text("210 system files not sent")
    classify(page)
    folders = ["holiday/"] + ["holiday/inner/"] * 2 + ["more/"] * 2 + [""]
    paths = {f"{folder}{name}" for folder, name in zip(folders, truth, strict=True)}
    assert {result["filename"] for result in finished(api, arrived(page), 6)} == paths


def test_an_image_is_pasted_from_the_clipboard(page: Page, api: ApiClient) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/")
    content = base64.b64encode(photo(64, 64, "PNG")).decode()
    page.evaluate(_COPY, content)
    page.keyboard.press("ControlOrMeta+V")
    expect(page.locator("#count")).to_have_text("1 image")
    classify(page)
    [result] = finished(api, arrived(page), 1)
    assert result["status"] == "done"


@pytest.mark.parametrize("page_options", [{}, {"java_script_enabled": False}], ids=["script", "no script"])
def test_images_are_not_kept_unless_the_box_is_checked(page: Page, api: ApiClient) -> None:
    page.goto("/")
    box = page.get_by_role("checkbox", name="Keep my images")
    expect(box).not_to_be_checked()
    expect(box).to_have_accessible_description(re.compile("deleted once classified; thumbnails and results after 7"))
    page.locator("#images").set_input_files({"name": "a.jpg", "mimeType": "image/jpeg", "buffer": photo(32, 32)})
    page.get_by_role("button", name="Classify").click()
    assert api.status(arrived(page))["keep"] is False


def test_a_file_that_is_no_image_is_rejected_with_its_reason_and_its_neighbours_go(
    page: Page, api: ApiClient
) -> None:
    files, truth = signs(4, seed=10)
    bad = [("<b>text</b>.jpg", b"no image, despite its name"), ("empty.png", b""), ("broken.zip", b"PK")]
    page.goto("/")
    drop(page, "#drop", [*files[:2], *bad, *files[2:]])
    expect(page.locator("#reasons li")).to_have_count(3)
    reasons = page.locator("#reasons li").all_text_contents()
    classify(page)
    assert [reason.partition(": ")[0] for reason in reasons] == [name for name, _ in bad]
    assert "not an image" in reasons[0]
    assert "empty" in reasons[1]
    assert "not a zip" in reasons[2]
    job_id = sent(page)
    expect(page.locator("#rejectedCount")).to_have_text("3 files rejected, not part of this job")
    assert page.locator("#reasons li").all_inner_texts() == ["", "", ""], "closed"
    page.locator("#rejectedCount").click()
    assert page.locator("#reasons li").all_inner_texts() == reasons
    page.reload()
    expect(page.locator("#rejectedCount")).to_have_text("3 files rejected, not part of this job")
    page.get_by_role("button", name="Dismiss").click()
    page.reload()
    expect(page.locator("#rejected")).to_be_hidden()
    assert {result["filename"] for result in finished(api, job_id, 4)} == set(truth)


def test_each_rejected_file_of_many_is_in_a_file_that_the_page_saves_also_after_a_reload(page: Page) -> None:
    names = [f'=cmd("{number}"), <b>.txt' for number in range(231)]
    page.goto("/")
    drop(page, "#drop", [*signs(3, seed=10)[0], *((name, b"no image") for name in names)])
    expect(page.locator("#rejectedCount")).to_have_text("231 files rejected, not sent")
    classify(page)
    sent(page)
    expect(page.locator("#sending")).to_be_empty()
    page.reload()
    page.locator("#rejectedCount").click()
    expect(page.locator("#reasons li").last).to_have_text("and 31 more")
    with page.expect_download() as started:
        page.get_by_role("button", name="Save all 231 as CSV").click()
    assert started.value.suggested_filename == "rejected.csv"
    text = started.value.path().read_text(encoding="utf-8-sig")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[0] == ["filename", "reason"]
    assert [unescaped_cell(name) for name, _ in rows[1:]] == names
    assert all(name.startswith("'=") and reason.startswith("this is not an image") for name, reason in rows[1:])
    cells = ["=1", '"=1', "a;=1", "a\t-1", "+", "\uff1d1", "\n@a", "a=1", "'=1", "", 'ü, "x"']
    safe = "async ([module, cells]) => cells.map((await import(module)).safeCell)"
    assert page.evaluate(safe, [f"{STATIC}{assets_hash()}/upload/rejected.js", cells]) == [*map(safe_cell, cells)]


def test_tiff_and_heic_are_sent_unchanged_and_other_files_are_rejected_by_their_type(
    page: Page, api: ApiClient, page_faults: PageFaults
) -> None:
    """Chromium decodes neither TIFF nor HEIC."""
    page_faults.expect("422")  # the answer to a request with the camera's raw file alone
    (_, first), (_, second) = signs(2, seed=21)[0]
    truth = list(signs(2, seed=21)[1].values())
    sent = {}
    for name, form, content in (("scan.tif", "TIFF", first), ("IMG_0001.HEIC", "HEIF", second)):
        body = io.BytesIO()
        Image.open(io.BytesIO(content)).convert("RGB").save(body, form, quality=95)
        sent[name] = body.getvalue()
    large = encoded("HEIF", size=(32, 32)) + box(b"free", bytes(27_000_000))
    rejected = {
        "paper.pdf": (FOREIGN["pdf"](), "this is a PDF document: export it as JPEG or PNG"),
        "empty.png": (b"", "the file is empty: send it again"),
        "large.heic": (large, "27.0 MB is more than the 26.2 MB allowed: shrink it"),
    }
    raw = ("NIKON.NEF", FOREIGN["nikon raw"]())
    page.goto("/")
    page.get_by_label("Keep my images").check()
    drop(page, "#drop", [*sent.items(), *((name, content) for name, (content, _) in rejected.items()), raw])
    expect(page.locator("#reasons li")).to_have_count(len(rejected))
    for name, (_, reason) in rejected.items():
        expect(page.locator("#reasons li").filter(has_text=name)).to_contain_text(reason)
    for name in sent:
        expect(page.locator(".tile").filter(has_text=name)).to_have_class(re.compile("undrawn"))
    classify(page)
    results = finished(api, arrived(page), 2)
    page.locator("#rejectedCount").click()
    expect(page.locator("#reasons li").filter(has_text="NIKON.NEF")).to_contain_text("this is a camera raw file")
    assert {result["filename"]: result["label"] for result in results} == dict(zip(sent, truth, strict=True))
    shown = "[...document.querySelectorAll('main img')].filter((image) => image.naturalWidth > 0).length"
    wait_until(lambda: page.evaluate(shown) == len(sent), "the page has a thumbnail of each image")


def test_a_photo_of_any_size_is_sent_as_it_is_and_shown_the_right_way_up(page: Page, system: System) -> None:
    photos = {
        "large.jpg": photo(3600, 2400),
        "turned.jpg": photo(2400, 1200, orientation=6),
        "small.jpg": photo(60, 40),
        "upright.jpg": photo(1600, 800, orientation=6),
    }
    page.goto("/")
    page.get_by_label("Keep my images").check()  # what is not kept is soon gone
    drop(page, "#drop", list(photos.items()))
    sizes = "all => all.map(({ naturalWidth, naturalHeight }) => [naturalWidth, naturalHeight])"
    shown = [[200, 133], [100, 200], [60, 40], [100, 200]]
    wait_until(lambda: page.locator(".tile img[src]").evaluate_all(sizes) == shown, "each picture is upright")
    classify(page)
    assert stored(system, sent(page)) == photos


def test_slices_that_fail_are_sent_again_and_each_image_is_there_once(
    page: Page, api: ApiClient, page_faults: PageFaults
) -> None:
    files, truth = signs(12, seed=11, sizes=LARGER)
    page_faults.expect("net::ERR")
    page_faults.expect("503")
    attempts: list[str] = []
    traces: list[str | None] = []

    def interfere(route: Route) -> None:
        attempts.append(route.request.headers["idempotency-key"])
        traces.append(parse_traceparent(route.request.headers["traceparent"]))
        if len(attempts) == 1:
            route.abort("connectionreset")  # before it reached the server
        elif len(attempts) == 2:
            route.fetch()
            route.abort("connectionreset")  # the server took it, and its answer was lost
        elif len(attempts) == 3:
            route.fulfill(status=503, json={"detail": "busy"}, headers={"Retry-After": "1"})
        else:
            route.continue_()

    page.route(SENDS_IMAGES, interfere)
    page.goto("/")
    drop(page, "#drop", files)
    classify(page)
    results = finished(api, sent(page), 12)
    assert len(attempts) == len(set(attempts)) + 3
    assert len({trace_id(each or "") for each in traces} - {""}) == 1, "all requests of an upload are in one trace"
    assert None not in traces
    assert sorted(str(result["filename"]) for result in results) == sorted(truth)


def test_files_that_are_gone_or_changed_before_they_are_sent_cost_no_other_file(
    page: Page, api: ApiClient, page_faults: PageFaults, tmp_path: Path
) -> None:
    files, _ = signs(8, seed=13)  # one request
    for name, content in files:
        (tmp_path / name).write_bytes(content)
    gone, changed = (tmp_path / files[number][0] for number in (2, 5))
    page_faults.expect("net::ERR")
    page_faults.expect("422")
    page.goto("/")
    page.locator("#folder-input").set_input_files(tmp_path)
    expect(page.locator("#count")).to_have_text("8 images")
    expect(page.locator("#facts")).not_to_contain_text("being checked")

    gone.unlink()
    changed.write_bytes(files[6][1] + b"more")
    later = changed.stat().st_mtime + 10  # Chromium compares whole seconds, and the page may have been as quick
    os.utime(changed, (later, later))
    classify(page)
    job_id = sent(page)
    page.locator("#rejectedCount").click()
    reason = "it was deleted or changed since it was chosen"
    expected = [f"{tmp_path.name}/{file.name}: {reason}" for file in (gone, changed)]
    assert page.locator("#reasons li").all_inner_texts() == expected
    assert len(finished(api, job_id, 6)) == 6


def test_what_could_not_be_sent_is_tried_again_with_the_same_choice(
    page: Page, api: ApiClient, page_faults: PageFaults
) -> None:
    files, truth = signs(5, seed=12)
    page_faults.expect("503")
    page.clock.install()
    page.route(SENDS_IMAGES, lambda route: route.fulfill(status=503, json={"detail": "the store is away"}))
    page.goto("/")
    drop(page, "#drop", files)
    box = page.get_by_role("checkbox", name="Keep my images")
    box.check()
    with page.expect_response(SENDS_IMAGES):
        classify(page)
    job_id = arrived(page)
    for _ in range(5):  # until the page gives up
        with page.expect_response(SENDS_IMAGES):
            page.clock.fast_forward(16_000)
    expect(page.locator("#said")).to_have_text("5 images were not sent.")
    page.unroute(SENDS_IMAGES)
    page.get_by_role("button", name="Retry 5 images").click()
    wait_until_sent(page)
    assert api.status(job_id)["keep"] is True
    assert {result["filename"] for result in finished(api, job_id, 5)} == set(truth)


def test_leaving_while_images_are_being_sent_warns(page: Page) -> None:
    files, _ = signs(3, seed=13)
    page.route(SENDS_IMAGES, lambda route: None)  # never answered
    page.goto("/")
    drop(page, "#drop", files)
    classify(page)
    expect(page.locator(".tile.sending")).to_have_count(3)
    warnings: list[str] = []

    def leave(dialog: Dialog) -> None:
        warnings.append(dialog.type)
        dialog.accept()

    page.on("dialog", leave)
    page.reload()
    assert warnings == ["beforeunload"]


@pytest.mark.parametrize("page_options", [{"java_script_enabled": False}])
def test_without_javascript_the_plain_form_does_it(page: Page, api: ApiClient) -> None:
    files, truth = signs(3, seed=14)
    page.goto("/")
    expect(page.get_by_text("Drop images")).to_be_hidden()
    named = [{"name": name, "mimeType": "image/jpeg", "buffer": content} for name, content in files]
    chosen = page.get_by_label("Choose images")
    chosen.set_input_files(named)  # type: ignore[arg-type]
    chosen.focus()
    for following in ("Name", "Keep my images"):
        assert top_of(chosen) < top_of(page.get_by_label(following))
        page.keyboard.press("Tab")
        expect(page.get_by_label(following)).to_be_focused()
    page.get_by_label("Name").fill("holiday")
    page.get_by_label("Keep my images").check()
    page.get_by_role("button", name="Classify").click()
    job_id = arrived(page)
    assert {result["filename"] for result in finished(api, job_id, 3)} == set(truth)
    assert (api.status(job_id)["name"], api.status(job_id)["keep"]) == ("holiday", True)


def test_every_control_is_reached_by_tab_in_the_order_of_use_and_enter_sends(page: Page, api: ApiClient) -> None:
    [(name, content)], _ = signs(1, seed=15)
    page.goto("/")
    page.locator("#images").set_input_files({"name": name, "mimeType": "image/jpeg", "buffer": content})
    expect(page.locator("#count")).to_have_text("1 image")
    expect(page.locator("#facts")).not_to_contain_text("being checked")
    page.locator("#choose").focus()
    for following in ("#folder", ".tile .remove", "#name", "#minScore", ".options summary", "#keep", "#send"):
        page.keyboard.press("Tab")
        expect(page.locator(following)).to_be_focused()
    page.keyboard.press("Enter")
    assert [result["filename"] for result in finished(api, arrived(page), 1)] == [name]


def test_nothing_of_the_page_is_inaccessible_with_a_batch(page: Page, faults_of: FaultsOf) -> None:
    """Without a batch, a test of the page of a signed-in user looks at it."""
    files, _ = signs(8, seed=16)
    page.goto("/")
    drop(page, "#drop", [*files, *((f"text{number}.txt", b"text") for number in range(12))])
    expect(page.locator("#facts")).not_to_contain_text("being checked")
    assert faults_of(page) == []


def test_files_are_removed_by_mouse_and_keyboard_and_the_rest_keeps_its_order(page: Page, api: ApiClient) -> None:
    files, _ = signs(9, seed=20)
    shown = [name for name, _ in reversed(files)]  # not in the order of their names
    page.goto("/")
    drop(page, "#drop", [*reversed(files), ("notes.txt", b"text")])
    expect(page.locator("#rejectedCount")).to_have_text("1 file rejected, not sent")
    expect(page.locator(".tile.ready")).to_have_count(9)  # nothing moves the tiles any more
    page.locator(".tile").first.hover()
    page.get_by_role("button", name=f"Remove {shown[0]}").click()
    expect(page.get_by_role("button", name=f"Remove {shown[1]}")).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Delete")
    page.keyboard.press("End")
    page.keyboard.press("Backspace")
    left = [shown[1], *shown[3:8]]
    expect(page.get_by_role("button", name=f"Remove {left[-1]}")).to_be_focused()
    expect(page.locator("#count")).to_have_text("6 images")
    expect(page.get_by_role("button", name="Classify 6 images")).to_be_visible()
    assert page.locator("#list .filename bdi").all_inner_texts() == left
    classify(page)
    job_id = arrived(page)
    assert [result["filename"] for result in finished(api, job_id, 6)] == left
    assert re.fullmatch(r"6 images, \d+ [A-Z][a-z]{2} \d\d:\d\d UTC", str(api.status(job_id)["name"]))


def test_results_are_in_the_order_in_which_the_files_were_chosen(page: Page, api: ApiClient) -> None:
    files, _ = signs(20, seed=21, sizes=LARGER)  # four slices in three lanes
    random.Random(21).shuffle(files)
    routes: list[Route] = []

    def hold_the_first(route: Route) -> None:
        routes.append(route)
        if len(routes) == 4:
            routes[0].continue_()  # the first slice arrives last
        if len(routes) > 1:
            route.continue_()

    page.route(SENDS_IMAGES, hold_the_first)
    page.goto("/")
    drop(page, "#drop", files)
    classify(page)
    job_id = sent(page)
    assert [result["filename"] for result in finished(api, job_id, 20)] == [name for name, _ in files]
    expect(page.locator("#list .tile .filename").first).to_have_text(files[0][0])


def test_an_upload_that_is_stopped_keeps_what_was_sent(page: Page, api: ApiClient) -> None:
    files, _ = signs(12, seed=22, sizes=LARGER)
    job_id = label_the_first(page, files)
    page.get_by_role("button", name="Stop uploading").click()
    count = int(api.status(job_id)["accepted"])
    assert 0 < count < 12, "one request"
    expect(page.locator("#said")).to_have_text(f"Upload stopped. {count} images sent.")
    assert len(finished(api, job_id, count)) == count
    expect(page.locator(".tile.file")).to_have_count(0)


def hold_all_but_the_first(page: Page) -> None:
    """Let the first request with images through, and hold the others until `page.unroute(SENDS_IMAGES)`."""
    seen: list[Route] = []

    def handle(route: Route) -> None:
        seen.append(route)
        if len(seen) == 1:
            route.continue_()

    page.route(SENDS_IMAGES, handle)


def chip(page: Page, state: str) -> Locator:
    """Return the filter of a state on the page of a job; the empty one shows all images."""
    return page.locator(f".chip[data-state='{state}']")


def wait_until_labelled(page: Page) -> None:
    """Show only the images with a label, and wait for the first one."""
    chip(page, "done").click()
    expect(page.locator("#list .tile.done").first).to_be_visible()


def label_the_first(page: Page, files: Files) -> str:
    """Send files and wait for the labels of the first request, while the others are held; return the job's id."""
    hold_all_but_the_first(page)
    page.goto("/")
    drop(page, "#drop", files)
    # A label that comes before the picture of its file has the server's picture.
    expect(page.locator(".tile img[src^='data:']")).to_have_count(len(files))
    classify(page)
    job_id = arrived(page)
    wait_until_labelled(page)
    return job_id


def test_labels_appear_at_their_files_while_others_are_still_being_sent(page: Page, api: ApiClient) -> None:
    files, truth = signs(12, seed=23, sizes=LARGER)
    job_id = label_the_first(page, files)
    tiles = page.locator("#list .tile")
    name = tiles.first.locator(".filename").inner_text()
    expect(tiles.first.locator(".label")).to_have_text(re.compile(f"Unsure|{truth[name]}"))
    expect(tiles.first.locator("img")).to_have_attribute("src", re.compile("^data:"))
    chip(page, "waiting").click()
    expect(tiles.first.locator(".label")).to_have_text(re.compile("Ready|Sending"))
    expect(chip(page, "")).to_contain_text("12")
    page.unroute(SENDS_IMAGES)  # the held requests continue
    wait_until_sent(page)
    assert [result["filename"] for result in finished(api, job_id, 12)] == [name for name, _ in files]
    expect(tiles).to_have_count(0)
    page.evaluate("history.go(-3)")  # two filters and the click
    expect(page.get_by_text("Drop images")).to_be_visible()


def test_an_upload_goes_on_after_a_reload_with_the_files_that_were_not_sent(
    page: Page, api: ApiClient, tmp_path: Path
) -> None:
    files, _ = signs(12, seed=24, sizes=LARGER)
    for name, content in files:
        (tmp_path / name).write_bytes(content)
    hold_all_but_the_first(page)
    page.goto("/")
    page.locator("#folder-input").set_input_files(tmp_path)
    classify(page)
    job_id = arrived(page)
    wait_until_labelled(page)
    left = 12 - int(api.status(job_id)["accepted"])
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    page.unroute(SENDS_IMAGES)
    expect(page.locator("#said")).to_have_text(re.compile(f"^{left} images of your upload were not sent. Choose the"))
    page.locator("#folder-input").set_input_files(tmp_path)
    names = [f"{tmp_path.name}/{name}" for name in sorted(name for name, _ in files)]
    assert [result["filename"] for result in finished(api, job_id, 12)] == names
    expect(page.locator("#said")).to_have_text("")


def test_more_images_are_added_to_a_finished_job(page: Page, api: ApiClient) -> None:
    files, _ = signs(6, seed=25)
    page.goto("/")
    drop(page, "#drop", files[:3])
    classify(page)
    job_id = arrived(page)
    finished(api, job_id, 3)
    page.goto(f"/jobs/{job_id}")
    expect(page.locator("#list .tile.done")).to_have_count(3)
    drop(page, "#adding", files[3:])
    assert [result["filename"] for result in finished(api, job_id, 6)] == [name for name, _ in files]
    expect(page.locator("#list .tile.done")).to_have_count(6)


_DROP_MANY = """
async ([content, count]) => {
    const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
    const transfer = new DataTransfer();
    for (let number = 0; number < count; number += 1) transfer.items.add(new File([bytes], `image-${number}.jpg`));
    document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}
"""


_PICTURED = "document.getElementById('adding').adding.batch.items.filter(({ picture }) => picture).length"


def test_hundreds_of_files_are_listed_and_scrolled_through_with_few_in_the_page(page: Page) -> None:
    count = 600
    page.goto("/")
    page.evaluate(_DROP_MANY, [base64.b64encode(photo(32, 32)).decode(), count])
    expect(page.locator(".tile img[src^='data:']").nth(3)).to_be_attached()
    expect(page.locator(".tile.ready").nth(3)).to_be_attached()
    expect(page.locator("#facts")).not_to_contain_text("being checked")
    assert page.evaluate(_PICTURED) < 200, "a file out of sight is not drawn"
    for _ in range(10):
        page.mouse.wheel(0, 500)
        page.wait_for_timeout(50)
    expect(page.locator("#count")).to_have_text(f"{count:,} images")
    assert page.locator(".tile").count() < 200
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
    expect(page.locator(".tile").first).not_to_have_attribute("aria-posinset", "1")
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    expect(page.locator(".tile").last).to_have_attribute("aria-posinset", str(count))
    expect(page.locator(".tile").last.locator("img")).to_have_attribute("src", re.compile("^data:"))
    assert page.locator(".tile").count() < 200


def test_an_upload_goes_on_by_itself_when_the_web_tier_was_killed_in_the_middle(
    page: Page, system: System, api: ApiClient, page_faults: PageFaults
) -> None:
    page_faults.expect("net::ERR")
    page_faults.expect("Failed to fetch")  # the page of the job; the upload page goes there once all is sent
    files, truth = signs(12, seed=18, sizes=LARGER)  # three slices
    page.goto("/")
    drop(page, "#drop", files)
    held: list[Route] = []

    def hold_two(route: Route) -> None:
        if len(held) < 2:
            held.append(route)
        else:
            route.continue_()

    def both_held() -> bool:
        page.wait_for_timeout(20)  # Playwright hears of requests while it waits
        return len(held) == 2

    page.route(SENDS_IMAGES, hold_two)
    classify(page)
    wait_until(both_held, "two slices are under way")
    pid = system.supervisor.pid("web")
    assert pid is not None
    os.killpg(pid, signal.SIGKILL)
    page.unroute(SENDS_IMAGES)  # the held requests continue
    job_id = sent(page)
    results = finished(api, job_id, 12)
    assert sorted(str(result["filename"]) for result in results) == sorted(truth)
    assert sum(result["label"] == truth[str(result["filename"])] for result in results) >= 11


@pytest.mark.parametrize("page_options", [NO_SCRIPT], ids=["no script"])
def test_a_job_is_deleted_without_javascript_too(page: Page, api: ApiClient) -> None:
    job_id = api.create_job("to be deleted")
    page.goto(f"/jobs/{job_id}/delete")
    page.get_by_role("button", name="Delete the job").click()
    expect(page).to_have_url("/jobs?deleted=1")
