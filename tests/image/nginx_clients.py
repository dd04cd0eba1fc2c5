"""Runs inside the web image: nginx before a web tier of ours, and clients that it must treat rightly.

Prints one line of JSON: what each client was answered, and how many bytes of its body nginx had on disk meanwhile.
"""

import http.server
import json
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

BODY, PART, WAIT_SECONDS = 3_000_000, 2_000_000, 60
BODIES = "/var/lib/nginx/body"
REACHED: list[str] = []


class WebTier(http.server.BaseHTTPRequestHandler):
    """Knows one token, and answers how many bytes it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        knows = self.headers.get("Authorization") == "Bearer good"
        self.send_response(204 if knows else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        REACHED.append(self.path)
        size = len(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        body = json.dumps({"path": self.path, "bytes": size, "host": self.headers["Host"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: what is printed is JSON."""


def on_disk() -> int:
    """Return how many bytes of bodies nginx's processes have on disk; they have unlinked the files."""
    total = 0
    for opened in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if str(opened.readlink()).startswith(BODIES):
                total += opened.stat().st_size
    return total


def connected(protocol: str = "http/1.1") -> ssl.SSLSocket:
    context = ssl._create_unverified_context()  # noqa: S323 - the certificate is nginx's own
    context.set_alpn_protocols([protocol])
    return context.wrap_socket(socket.create_connection(("127.0.0.1", 443), WAIT_SECONDS))


def answer(connection: ssl.SSLSocket) -> str:
    with suppress(OSError):
        return connection.recv(65_536).decode("latin-1")
    return ""


def exchanged(head: str, body: bytes, path: str = "/api/v1/classify") -> dict[str, object]:
    """Send a request whose body is not complete; return the answer, and what was on disk by then."""
    before = len(REACHED)
    with connected() as connection:
        with suppress(OSError):
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode() + body)
        said = answer(connection)
        return {"said": said, "on_disk": on_disk(), "reached": len(REACHED) > before}


def a_known_sender() -> dict[str, object]:
    head = f"Authorization: Bearer good\r\nContent-Length: {BODY}\r\nConnection: close"
    with connected() as connection:
        connection.sendall(f"POST /api/v1/x?wait=0&n=%2F HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
        connection.sendall(bytes(PART))
        until = time.monotonic() + WAIT_SECONDS
        while not (stored := on_disk()) and time.monotonic() < until:
            time.sleep(0.01)
        connection.sendall(bytes(BODY - PART))
        said = ""
        while part := answer(connection):
            said += part
    return {"said": said, "on_disk": stored}


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


PONG = frame(6, 1, 0, bytes(8)).decode("latin-1")


def by_http_2(method: str) -> dict[str, object]:
    """Send a body without its length, which only HTTP/2 allows (RFC 9113); no header is compressed."""
    fields = ((":method", method), (":scheme", "https"), (":path", "/api/v1/classify"), (":authority", "localhost"))
    head = b"".join(b"\0" + bytes((len(n),)) + n.encode() + bytes((len(v),)) + v.encode() for n, v in fields)
    before = len(REACHED)
    with connected("h2") as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, head))
        # As much as may be sent before the server opens the window further; it never ends.
        with suppress(OSError):
            for _ in range(3):
                connection.sendall(frame(0, 0, 1, bytes(16_000)))
        # A GET has no answer before its body ends; the answer to a ping says that nginx has read what was sent.
        expected = (PONG,) if method == "GET" else ("401", "413", "200")
        connection.sendall(frame(6, 0, 0, bytes(8)))
        said, until = "", time.monotonic() + WAIT_SECONDS
        while not any(words in said for words in expected) and time.monotonic() < until:
            said += answer(connection)
    return {"said": said, "on_disk": on_disk(), "reached": len(REACHED) > before}


def redirected(host: str) -> str:
    with socket.create_connection(("127.0.0.1", 80), WAIT_SECONDS) as connection:
        connection.sendall(f"GET /jobs?n=x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        said = b""
        while part := connection.recv(65_536):
            said += part
        return said.decode("latin-1")


nginx = subprocess.Popen(["nginx", "-g", "daemon off;"])
threading.Thread(
    target=http.server.ThreadingHTTPServer(("127.0.0.1", 8000), WebTier).serve_forever, daemon=True
).start()
for _ in range(200):
    try:
        connected().close()
        break
    except OSError:
        time.sleep(0.05)
chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
answers = {
    "known": a_known_sender(),
    "anonymous": exchanged("Content-Length: 500000000", bytes(PART)),
    "anonymous page": exchanged("Content-Length: 500000", bytes(400_000), "/"),
    "chunked": exchanged("Transfer-Encoding: chunked", chunk * 16),
    "wrong token": exchanged("Authorization: Bearer bad\r\nContent-Length: 500000000", bytes(PART)),
    "small": exchanged("Content-Length: 5", b"a=b&c", "/sign-out"),
    "site": exchanged("Content-Length: 0\r\nX-Forwarded-Host: photos.example.org", b"", "/sign-out"),
    "other site": exchanged("Content-Length: 0\r\nX-Forwarded-Host: evil.example", b"", "/sign-out"),
    "http/2 POST": by_http_2("POST"),
    "http/2 GET": by_http_2("GET"),
    "inside": exchanged("Content-Length: 5", b"a=b&c", "/.large-body/api"),
    "redirects": {
        host: redirected(host) for host in ("evil.example", "photos.example.org", "127.0.0.1", "localhost")
    },
}
nginx.terminate()
nginx.wait()  # so that no line of its log comes in between
sys.stdout.write(json.dumps(answers) + "\n")
