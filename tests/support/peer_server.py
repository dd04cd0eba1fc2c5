"""A small other system for the benchmark `peers`: ``python peer_server.py serve PORT`` or ``… send PORT FOLDER``.

It has no network: the label of an image is in its filename. `send` is a client that prints a line for each result.
"""

import json
import re
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class PeerHandler(BaseHTTPRequestHandler):
    """Answers GET with 200, and a form with one file with its label, or with 500 if it is named broken."""

    def do_GET(self) -> None:
        self._answer(200, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        found = re.search(rb'name="photo"; filename="([^"]+)"', body)
        if found is None or b"broken" in found[1]:
            self._answer(500, {"error": "no such file"})
        else:
            self._answer(200, {"result": {"class": label_of(found[1].decode())}})

    def log_message(self, *_arguments: object) -> None:
        """Log nothing."""

    def _answer(self, status: int, body: dict[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def label_of(filename: str) -> str:
    """Return the label of an image, which its name says: `00012-stop-sign.jpg` is a `Stop_Sign`."""
    name = re.sub(r"^\d+-", "", Path(filename).stem)
    return "_".join(word.title() for word in name.split("-"))


def send(port: int, folder: Path) -> None:
    """Ask the server for the label of each image, and print it."""
    boundary = "edge"
    for file in sorted(folder.glob("*.*")):
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="photo"; filename="{file.name}"\r\n\r\n'
        body = head.encode() + file.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/classify", body, headers)
        with urllib.request.urlopen(request) as reply:
            sys.stdout.write(f"{file.name}\t{json.load(reply)['result']['class']}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), PeerHandler).serve_forever()
    else:
        send(int(sys.argv[2]), Path(sys.argv[3]))
