"""HTTP by hand, and a stand-in for a provider: for the tests of the gateways."""

import http.client
import http.server
import json
import socket
import threading
from contextlib import contextmanager


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def raw(server, method, path, content=b"", **headers):
    """(status, headers, body) of a request made by hand."""
    port = int(server.base_url.split(":")[2].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {server.key}", **headers}
    connection.request(method, path, content, headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


class Provider(http.server.BaseHTTPRequestHandler):
    """A stand-in for a provider, on a real socket: it notes what arrives and answers as told."""

    protocol_version = "HTTP/1.1"
    seen: list = []
    status, kind, more = 200, "application/json", {}
    cut_off = False  # whether it breaks off before the end
    answer = {"choices": [], "usage": {"total_tokens": 7}}

    def do_POST(self):
        """Note the request, and answer as told."""
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.seen.append((self.path, dict(self.headers.items()), body))
        told = self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()
        self.send_response(self.status)
        self.send_header("content-type", self.kind)
        self.send_header("content-length", str(len(told)))
        for name, value in self.more.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(told[: len(told) // 2] if self.cut_off else told)
        self.close_connection = self.cut_off or self.close_connection

    do_GET = do_POST

    def log_message(self, *args):
        """Say nothing."""


@contextmanager
def provided():
    """The address of such a provider."""
    provider = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=provider.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{provider.server_port}/v1"
    finally:
        provider.shutdown()
        provider.server_close()
