"""A real HTTP server that answers as the Hugging Face hub does, for `HF_ENDPOINT`.

Status codes and headers are those that huggingface_hub tells apart (X-Error-Code, ETag,
X-Repo-Commit). It serves the repositories it is given from memory.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_" + "a" * 8
GATED = "owner/gated"
DOWN = "owner/hub-is-down"


@contextmanager
def serve(
    repos: dict[str, dict[str, bytes]],
    claim: dict[str, int] | None = None,
    checksums: dict[str, str] | None = None,
) -> Iterator[str]:
    """The address of a hub with these repositories ({name: {file: bytes}}) while the block runs.

    Args:
        repos: what there is. `GATED` asks for `TOKEN`; `DOWN` always answers 503.
        claim: sizes in bytes that the listing gives in place of the files' own.
        checksums: SHA-256 that the listing gives in place of the weights' own.
    """

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refuse(self, status: int, code: str, message: str) -> None:
            self.answer(status, b"{}", X_Error_Code=code, X_Error_Message=message)

        def allowed(self, name: str) -> bool:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if token and token != TOKEN:
                self.refuse(401, "", "Invalid credentials in Authorization header")
            elif name == DOWN:
                self.refuse(503, "", "try later")
            elif name not in repos and name != GATED:
                self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            else:
                return True
            return False

        def do_GET(self) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                self.listing("/".join(parts[2:4]), parts[4:])
            else:
                self.file("/".join(parts[:2]), "/".join(parts[4:]))

        do_HEAD = do_GET

        def listing(self, name: str, rest: list[str]) -> None:
            if not self.allowed(name):
                return
            if rest == ["auth-check"] and name == GATED:
                if not self.headers.get("Authorization"):
                    self.refuse(401, "GatedRepo", "Access to model is restricted")
                else:
                    self.refuse(403, "GatedRepo", "You are not in the authorized list")
                return
            files = repos.get(name, {})
            sizes = {file: (claim or {}).get(file, len(body)) for file, body in files.items()}
            if rest[:1] == ["tree"]:
                tree = [{"type": "file", "path": f, "size": n, "oid": f} for f, n in sizes.items()]
                self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
                return
            siblings = []
            for file, size in sizes.items():
                entry: dict[str, object] = {"rfilename": file, "size": size}
                if file.endswith(".safetensors"):  # what the hub keeps as a large file
                    own = hashlib.sha256(files[file]).hexdigest()
                    sha256 = (checksums or {}).get(file, own)
                    entry["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 130}
                siblings.append(entry)
            body = {"id": name, "sha": COMMIT, "siblings": siblings, "private": False}
            self.answer(200, json.dumps(body).encode(), Content_Type="application/json")

        def file(self, name: str, file: str) -> None:
            if not self.allowed(name):
                return
            body = repos.get(name, {}).get(file)
            if body is None:
                self.refuse(404, "EntryNotFound", "Entry not found")
                return
            etag = f'"{hashlib.sha1(body).hexdigest()}"'
            self.answer(200, body, ETag=etag, X_Repo_Commit=COMMIT, X_Linked_Size=str(len(body)))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
