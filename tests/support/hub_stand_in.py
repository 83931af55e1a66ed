"""The parts of the Hugging Face Hub's API that an upload and a download use, on this host."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any

TOKEN = "hf_stand_in"
COMMIT = 40 * "1"


@dataclass
class Hub:
    """What was uploaded: ``files`` by path, and ``created`` repositories by name (private or not).

    ``refuses``: an HTTP status for every commit, and for every question about a model. ``models``
    can be downloaded: their files by path; ``asked`` has the paths of the files that were.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    created: dict[str, bool] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    refuses: int = 0
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    """Contents by their SHA-256."""

    def commit(self, lines: list[dict[str, Any]]) -> None:
        """Take a commit in, whose large files came before it."""
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    self.messages.append(value["summary"])
                case "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    self.files[value["path"]] = self.large[value["oid"]]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        kind, *parts = self.path.split("?")[0].strip("/").split("/")
        name = "/".join(parts[1:3] if kind == "api" else [kind, *parts[:1]])
        files = self.hub.models.get(name)
        if self.hub.refuses or files is None:
            found = {} if self.hub.refuses else {"X-Error-Code": "RepoNotFound"}
            self._answer({"error": "not found"}, self.hub.refuses or 404, found)
        elif kind != "api":
            self._file(files.get("/".join(parts[3:])))
        elif "tree" in parts:
            entries = [self._entry(path, content) for path, content in files.items()]
            self._answer(entries)
        else:
            siblings = [{"rfilename": path} for path in files]
            self._answer({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings})

    @staticmethod
    def _entry(path: str, content: bytes) -> dict[str, Any]:
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": path, "size": len(content), "oid": oid}

    def _file(self, content: bytes | None) -> None:
        if content is None:
            self._answer({"error": "not found"}, 404)
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", hashlib.sha1(content).hexdigest())
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.hub.asked.append(self.path.rpartition("/")[2])
            self.wfile.write(content)

    def do_PUT(self) -> None:
        body = self._body()
        self.hub.large[hashlib.sha256(body).hexdigest()] = body
        self._answer({})

    def do_POST(self) -> None:
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        body = self._body()
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.hub.created[name] = asked.get("visibility") == "private"
            self._answer({"url": f"{self.hub.address}/{name}"})
        elif path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            self._answer({"files": [self._mode(file["path"]) for file in files]})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            self._answer({"transfer": "basic", "objects": [self._target(one) for one in objects]})
        elif path.endswith("/commit/main"):
            if self.hub.refuses:
                self._answer({"error": "You have been a bad model"}, self.hub.refuses)
                return
            self.hub.commit([json.loads(line) for line in body.splitlines()])
            url = f"{self.hub.address}/{self._repository(path)}/commit/{COMMIT}"
            self._answer({"commitUrl": url, "commitOid": COMMIT, "success": True})
        else:
            self._answer({"errors": [], "warnings": []})

    @staticmethod
    def _repository(path: str) -> str:
        """Of a path like /api/models/ORG/MODEL/commit/main."""
        return "/".join(path.split("/")[3:5])

    @staticmethod
    def _mode(path: str) -> dict[str, Any]:
        mode = "lfs" if path.endswith(".safetensors") else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def _target(self, one: dict[str, Any]) -> dict[str, Any]:
        upload = {"href": f"{self.hub.address}/large/{one['oid']}", "header": {}}
        return {**one, "actions": {"upload": upload}}

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(
        self, value: object, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        for name, header in headers.items():
            self.send_header(name, header)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)


@contextmanager
def hub_stand_in() -> Iterator[Hub]:
    """A Hub on a free port of the loopback interface."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
