"""A stand-in for the Hugging Face hub: a local HTTP server with the part of its API that huggingface_hub needs.

It serves files with the hub's headers (commit, ETag, ranges), takes commits (preupload, Git LFS, NDJSON), and
refuses as the hub does, by status and X-Error-Code. It does not speak Xet, which huggingface_hub can do without.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

MAIN = "main"


@dataclass
class Repository:
    """Commits by their number, each with all of its files."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files):
        there = self.commits.get(self.branches.get(MAIN, ""), {})
        number = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[number] = there | files
        self.branches[MAIN] = number
        return number

    @property
    def files(self):
        return self.commits[self.branches[MAIN]]


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request."""
        self.ranges: list[str | None] = []
        """Range of each download."""
        self.token = "hf_writer"
        self.cut_after: list[int] = []
        """After how many bytes the next downloads break off."""
        self.down = False
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, name, **files):
        """Make a repository with files; `__` in their names stands for a dot."""
        made = self.repositories.setdefault(name, Repository())
        made.commit({file.replace("__", "."): content for file, content in files.items()})
        return made

    def close(self):
        self.shutdown()
        self.thread.join()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        headers = {"Content-Length": str(len(body))} | {k.replace("_", "-"): v for k, v in headers.items()}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code=""):
        self.answer(status, json.dumps({"error": code}).encode(), **({"X_Error_Code": code} if code else {}))

    def json(self, data):
        self.answer(200, json.dumps(data).encode(), Content_Type="application/json")

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def writer(self):
        return self.headers.get("Authorization") == f"Bearer {self.server.token}"

    def handle_one(self):
        body = self.body()
        self.server.requests.append((self.command, self.path))
        if self.server.down:
            self.refuse(503)
            return
        for pattern, handler in ROUTES:
            if found := re.fullmatch(pattern, self.path.partition("?")[0]):
                handler(self, body, *found.groups())
                return
        self.refuse(404)

    do_HEAD = do_GET = do_POST = do_PUT = handle_one

    def resolve(self, _body, name, revision, file):
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not self.writer()):
            return self.refuse(401, "RepoNotFound")
        if repository.gated:
            return self.refuse(403, "GatedRepo")
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            return self.refuse(404, "RevisionNotFound")
        if file not in repository.commits[commit]:
            return self.refuse(404, "EntryNotFound")
        content = repository.commits[commit][file]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X_Repo_Commit": commit}
        if self.command == "HEAD":
            return self.answer(200, content, **headers)
        given = self.headers.get("Range")
        self.server.ranges.append(given)
        start = int(re.fullmatch(r"bytes=(\d+)-", given)[1]) if given else 0
        if given:
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        sent = content[start:]
        length = {"Content-Length": str(len(sent))}
        if self.server.cut_after:
            sent = sent[: self.server.cut_after.pop(0)]
        return self.answer(206 if given else 200, sent, **headers, **length)

    def create(self, body):
        if not self.writer():
            return self.refuse(401)
        asked = json.loads(body)
        if asked.get("organization") == "others":
            return self.refuse(403)
        name = f"{asked.get('organization') or 'owner'}/{asked['name']}"
        url = json.dumps({"url": f"{self.server.address}/{name}"}).encode()
        if name in self.server.repositories:
            return self.answer(409, url, Content_Type="application/json")
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.server.repositories[name] = Repository(private=private)
        self.server.repositories[name].commit({".gitattributes": b""})
        return self.answer(200, url, Content_Type="application/json")

    def validate(self, body):
        content = json.loads(body)["content"]
        yaml.safe_load(re.fullmatch(r"---\n(.*?)\n---\n.*", content, re.DOTALL)[1])
        return self.json({"errors": [], "warnings": []})

    def preupload(self, body, _name, _revision):
        files = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for each in json.loads(body)["files"]
        ]
        return self.json({"files": files})

    def batch(self, body, _name):
        objects = [
            each | {"actions": {"upload": {"href": f"{self.server.address}/uploads/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        return self.json({"transfer": "basic", "objects": objects})

    def upload(self, body, digest):
        if hashlib.sha256(body).hexdigest() != digest:
            return self.refuse(400)
        self.server.uploads[digest] = body
        return self.answer(200)

    def commit(self, body, name, _revision):
        files = {}
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.uploads[value["oid"]]
        number = self.server.repositories[name].commit(files)
        address = f"{self.server.address}/{name}/commit/{number}"
        return self.json({"success": True, "commitUrl": address, "commitOid": number, "hookOutput": ""})


_NAME = r"([^/]+/[^/]+)"
ROUTES = (
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.validate),
    (rf"/api/models/{_NAME}/preupload/([^/]+)", Handler.preupload),
    (rf"/api/models/{_NAME}/commit/([^/]+)", Handler.commit),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", Handler.batch),
    (r"/uploads/(\w+)", Handler.upload),
    (rf"/{_NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
)
