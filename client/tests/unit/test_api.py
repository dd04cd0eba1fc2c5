"""The calls of the API over real connections."""

import socket
import threading
import time

from fleetsight_client.api import ApiClient

CONNECT_SECONDS = 0.05
REPLY = b'{"job_id": "01K8Z3T7Q0W5V9N2M4X6Y8B1CD", "accepted": [], "rejected": []}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def answer_late(listener: socket.socket, requests: int) -> None:
    """Read each request of a connection only after a while, as a busy server does."""
    connection, _ = listener.accept()
    with connection:
        for _ in range(requests):
            time.sleep(5 * CONNECT_SECONDS)
            received = connection.recv(65_536)
            head, _, body = received.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while len(body) < length:
                body += connection.recv(1 << 20)
            connection.sendall(HEAD % len(REPLY) + REPLY)


def test_a_server_that_reads_late_gets_each_whole_upload_of_a_connection() -> None:
    """The time-out to connect is shorter than the server's pause."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer_late, args=[listener, 2])
        server.start()
        client = ApiClient(f"http://127.0.0.1:{listener.getsockname()[1]}", (CONNECT_SECONDS, 600.0))
        for _ in range(2):
            sent = client.add_images("01K8Z3T7Q0W5V9N2M4X6Y8B1CD", [("a.jpg", bytes(50_000_000))])
            assert (list(sent.accepted), list(sent.rejected)) == ([], [])
        server.join(600)
        client.close()
