"""A hub on loopback: as much of Hugging Face's interface as huggingface_hub asks for a model."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGE = (".safetensors", ".gguf")


@dataclass
class Repo:
    """Files by name; what is asked of it may go wrong."""

    files: dict[str, bytes]
    tags: dict[str, str] = field(default_factory=dict)  # other revisions, to their commit
    gated: bool = False
    damaged: set[str] = field(default_factory=set)  # files whose last byte comes wrong
    stalled: set[str] = field(default_factory=set)  # files that stop half way, once

    @property
    def commit(self) -> str:
        parts = [name.encode() + content for name, content in sorted(self.files.items())]
        return hashlib.sha1(b"".join(parts)).hexdigest()

    def commit_of(self, revision: str) -> str | None:
        commits = {"main": self.commit, self.commit: self.commit, **self.tags}
        return commits.get(revision)


class LoopbackHub:
    """Use it as a context; `requests` is what was asked of it: (method, path, Range or None)."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.stalls = threading.Event()
        self.release = threading.Event()
        hub = self

        class Handler(_Handler):
            owner = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for."""
        paths = [
            path for method, path, _ in self.requests if method == "GET" and "/resolve/" in path
        ]
        return [path.split("/resolve/")[1].split("/", 1)[1] for path in paths]

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *reason: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: LoopbackHub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.owner.requests.append((self.command, path, self.headers.get("Range")))
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if api:
            self._with_repo(api[1], api[2] or "main", self._send_info)
        elif file:
            self._with_repo(
                file[1], file[2], lambda repo, commit: self._send(repo, commit, file[3])
            )
        else:
            self._refuse(404, "EntryNotFound")

    def _with_repo(self, name, revision, send) -> None:
        repo = self.owner.repos.get(name)
        if repo is None:
            return self._refuse(401, "RepoNotFound")
        if repo.gated:
            return self._refuse(403, "GatedRepo")
        commit = repo.commit_of(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound")
        return send(repo, commit)

    def _send_info(self, repo: Repo, commit: str) -> None:
        siblings = []
        for name, content in repo.files.items():
            sibling = {"rfilename": name, "size": len(content), "blobId": _sha1(content)}
            if name.endswith(LARGE):
                sibling["lfs"] = {
                    "sha256": _sha256(content),
                    "size": len(content),
                    "pointerSize": 100,
                }
            siblings.append(sibling)
        body = json.dumps({"id": "any", "sha": commit, "siblings": siblings}).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _send(self, repo: Repo, commit: str, name: str) -> None:
        content = repo.files.get(name)
        if content is None:
            return self._refuse(404, "EntryNotFound")
        etag = _sha256(content) if name.endswith(LARGE) else _sha1(content)
        if name in repo.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted:
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        headers["Content-Length"] = str(len(content) - start)
        self._head(206 if wanted else 200, headers)
        if self.command == "HEAD":
            return None
        if name in repo.stalled:
            repo.stalled.discard(name)
            self.wfile.write(content[start : len(content) // 2])
            self.wfile.flush()
            self.owner.stalls.set()
            self.owner.release.wait(60)
            self.close_connection = True
            return None
        self.wfile.write(content[start:])
        return None

    def _refuse(self, status: int, code: str) -> None:
        body = json.dumps({"error": code}).encode()
        self._head(status, {"X-Error-Code": code, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
