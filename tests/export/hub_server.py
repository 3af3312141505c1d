"""A Hub of one user on this machine: the few endpoints that a push and a download need, with real bytes both ways."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_secretSecretSecretSecretSecret"
COMMIT = "0" * 40  # of every repository


class Hub:
    """What is on it. fails: path -> status that it answers with; gated: repositories that ask for consent first."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}  # name -> private, files, commits
        self.objects: dict[str, bytes] = {}  # sha256 -> content
        self.fails: dict[str, int] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []
        self.address = ""

    def add(self, name: str, *, private: bool) -> None:
        self.repositories[name] = {"private": private, "files": {}, "commits": []}

    @property
    def fetched(self) -> list[str]:
        """The files that were downloaded whole."""
        return sorted(line.partition(f"/resolve/{COMMIT}/")[2] for line in self.asked if line.startswith("GET /me/"))

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON or the bytes of a file, headers."""
        self.asked.append(f"{method} {path}")
        if path.startswith("/upload/"):
            if hashlib.sha256(body).hexdigest() != path.removeprefix("/upload/"):
                return 400, {}, {}
            self.objects[path.removeprefix("/upload/")] = body
            return 200, {}, {}
        if token != TOKEN:
            reason = "Invalid credentials in Authorization header"
            return 401, {"error": reason}, {"X-Error-Message": reason}
        for start, status in self.fails.items():
            if path.startswith(start):
                return status, {"error": f"no, {token}"}, {}
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "type": "user"}, {}
        if path == "/api/validate-yaml":
            front = json.loads(body)["content"].split("---\n")[1]
            good = isinstance(yaml.safe_load(front), dict)
            return 200, {"errors": [] if good else [{"message": "no YAML"}], "warnings": []}, {}
        if path == "/api/repos/create":
            asked = json.loads(body)
            private = asked.get("private", asked.get("visibility") == "private")
            self.add(f"{asked.get('organization') or 'me'}/{asked['name']}", private=private)
            return 200, {"url": f"{self.address}/me/{asked['name']}"}, {}
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.address}/upload/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}, {}
        if f"/resolve/{COMMIT}/" in path:
            return self._file(*path.removeprefix("/").split(f"/resolve/{COMMIT}/"))
        name, _, what = path.removeprefix("/api/models/").partition("/")
        owner, (name, _, what) = name, what.partition("/")
        found = self.repositories.get(f"{owner}/{name}")
        if found is None:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        if what.startswith("preupload/"):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".gguf")) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return 200, {"files": files}, {}
        if what.startswith("commit/"):
            return self._commit(f"{owner}/{name}", [json.loads(line) for line in body.splitlines()])
        sizes = {file: len(content) for file, content in found["files"].items()}
        if what.startswith("tree/"):
            tree = [{"type": "file", "path": file, "size": size, "oid": "2" * 40} for file, size in sizes.items()]
            return 200, tree, {}
        siblings = [{"rfilename": file} for file in sizes]
        return 200, {"id": f"{owner}/{name}", "private": found["private"], "sha": COMMIT, "siblings": siblings}, {}

    def _file(self, name: str, file: str) -> tuple[int, Any, dict[str, str]]:
        if name in self.gated:
            return 403, {"error": "ask first"}, {"X-Error-Code": "GatedRepo"}
        content = self.repositories[name]["files"][file]
        return 200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, Any, dict[str, str]]:
        found = self.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                found["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                found["files"][value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "header":
                found["commits"].append(value["summary"])
        return (
            200,
            {"success": True, "commitOid": "1" * 40, "commitUrl": f"{self.address}/{name}/commit/{'1' * 40}"},
            {},
        )


@contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            token = (self.headers.get("authorization") or "").removeprefix("Bearer ") or None
            status, value, headers = hub.answer(self.command, self.path.partition("?")[0], body, token)
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for key, text in {**headers, "content-type": "application/json", "content-length": str(len(data))}.items():
                self.send_header(key, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_PUT = _serve

        def log_message(self, format: str, *words: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
