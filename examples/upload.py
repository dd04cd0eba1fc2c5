"""Upload images to a running Fleetsight, wait for their labels, and print them.

    python3 examples/upload.py http://127.0.0.1:8000 photos/*.jpg

It needs nothing but Python. Where users sign in, FLEETSIGHT_TOKEN holds a personal token.
"""

import json
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

FILES_PER_REQUEST = 20
TIMEOUT_SECONDS = 60
POLL_SECONDS = 0.5


def call(url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Any:
    """Return the JSON answer to a GET, or to a POST with `body`."""
    request = Request(url, data=body, headers=dict(headers or {}))  # noqa: S310 (the user's own URL)
    if token := os.environ.get("FLEETSIGHT_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    with urlopen(request, timeout=TIMEOUT_SECONDS) as reply:  # noqa: S310 # nosec B310 (the user's own URL)
        return json.load(reply)


def multipart(paths: Sequence[Path], boundary: str) -> bytes:
    """Return the files as a multipart form."""
    parts = []
    for path in paths:
        name = path.name.replace('"', "%22")
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'
        parts += [head.encode(), path.read_bytes(), b"\r\n"]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def upload(api: str, job_id: str, paths: Sequence[Path]) -> int:
    """Upload the files; return how many were accepted, and print why others were rejected."""
    accepted = 0
    for start in range(0, len(paths), FILES_PER_REQUEST):
        boundary = uuid.uuid4().hex
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            # The same key makes a repeated request harmless: each file becomes one image.
            "Idempotency-Key": uuid.uuid4().hex,
        }
        body = multipart(paths[start : start + FILES_PER_REQUEST], boundary)
        answer = call(f"{api}/jobs/{job_id}/images", body, headers)
        accepted += len(answer["accepted"])
        for file in answer["rejected"]:
            print(f"{file['filename']}: rejected: {file['message']}", file=sys.stderr)
    return accepted


def results(api: str, job_id: str) -> Iterator[Mapping[str, Any]]:
    """Wait until the job is finished, then yield its results, a page at a time."""
    while call(f"{api}/jobs/{job_id}")["state"] != "finished":
        time.sleep(POLL_SECONDS)
    page = call(f"{api}/jobs/{job_id}/results")
    yield from page["results"]
    while page["next"] is not None:
        page = call(f"{api}/jobs/{job_id}/results?after={page['next']}")
        yield from page["results"]


def main() -> int:
    """Upload the files named on the command line; return the exit status."""
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    api, paths = f"{sys.argv[1].rstrip('/')}/api/v1", [Path(name) for name in sys.argv[2:]]
    job = call(f"{api}/jobs", b'{"name": "example"}', {"Content-Type": "application/json"})
    if not upload(api, job["job_id"], paths):
        return 1
    for result in results(api, job["job_id"]):
        answer = (
            f"{result['label']} {result['score']:.2f}" if result["status"] == "done" else result["error"]["message"]
        )
        print(f"{result['filename']}: {answer}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
