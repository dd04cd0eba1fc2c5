"""A client of presigned uploads: forms that the web tier signs, with which files go straight to the bucket."""

import tarfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import requests

from fleetsight_client.api import ApiClient
from tests.support.waiting import DEADLINE_SECONDS


def upload_by_forms(api: ApiClient, job_id: str, files: Mapping[str, tuple[bytes, str]]) -> list[tuple[str, str]]:
    """Upload files, by name their content and its type; return the id and the name of each accepted image."""
    uploads = f"{api.base_url}/api/v1/jobs/{job_id}/uploads"
    wanted = [{"name": name, "bytes": len(data), "content_type": kind} for name, (data, kind) in files.items()]
    headers = {} if api.token is None else {"Authorization": f"Bearer {api.token}"}
    offer = _post(uploads, json={"files": wanted}, headers=headers).json()
    contents = [data for data, _ in files.values()]
    for each in offer["uploads"]:
        form = each["upload"]
        _post(form["url"], data=form["fields"], files={"file": content_of(each, contents)})
    committed = _post(f"{uploads}/{offer['upload_id']}/commit", headers=headers).json()
    return [(image["image_id"], image["filename"]) for image in committed["accepted"]]


def content_of(offered: Mapping[str, Any], contents: Sequence[bytes]) -> bytes:
    """Return what a form of the API takes: one of the `contents`, or a tar of several."""
    images = offered["images"]
    members = {each["member"]: contents[each["index"]] for each in images}
    return tar_of(members) if len(members) > 1 else members.popitem()[1]


def tar_of(members: Mapping[str, bytes]) -> bytes:
    """Return a tar as Python makes it."""
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    return made.getvalue()


def _post(url: str, **options: object) -> requests.Response:
    reply = requests.post(url, timeout=DEADLINE_SECONDS, allow_redirects=False, **options)  # type: ignore[arg-type]
    assert reply.ok, (url, reply.status_code, reply.text)
    return reply
