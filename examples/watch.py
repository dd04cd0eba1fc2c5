"""Follow a job live: print each image as it gets its label, until all have one.

    python3 examples/watch.py http://127.0.0.1:8000 JOB_ID

The events are server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html). A connection ends
after a while; the next one continues after the last event that arrived.
"""

import json
import os
import sys
from urllib.request import Request, urlopen

TIMEOUT_SECONDS = 60


def main() -> int:
    """Follow the job named on the command line; return the exit status."""
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    url = f"{sys.argv[1].rstrip('/')}/api/v1/jobs/{sys.argv[2]}"
    headers = {"Accept": "text/event-stream"}
    if token := os.environ.get("FLEETSIGHT_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    while True:
        event = ""
        request = Request(f"{url}/events", headers=headers)  # noqa: S310 (the user's own URL)
        with urlopen(request, timeout=TIMEOUT_SECONDS) as stream:  # noqa: S310 # nosec B310 (the user's own URL)
            for line in stream:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    headers["Last-Event-ID"] = value
                elif name == "event":
                    event = value
                elif name == "data" and show(event, json.loads(value)):
                    return 0


def show(event: str, data: dict[str, object]) -> bool:
    """Print one event; return whether it is the last."""
    print(event, json.dumps(data))
    return event in {"end", "gone"}


if __name__ == "__main__":
    sys.exit(main())
