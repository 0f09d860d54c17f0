"""Google Cloud Storage's JSON API over HTTP, as much of it as a bucket of objects needs, in memory.

From https://cloud.google.com/storage/docs/json_api/v1/objects: insert (multipart and resumable), get, list, delete,
with generations and ``ifGenerationMatch``. ``STORAGE_EMULATOR_HOST`` leads Google's own library here.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import google_crc32c

_PAGE = 3  # small, so that a listing has several


@dataclass
class FakeObject:
    """An object with what its writer said of it."""

    content: bytes
    metadata: dict[str, str]
    generation: int

    def resource(self, bucket: str, name: str) -> dict[str, Any]:
        """As the API describes it."""
        checksum = base64.b64encode(google_crc32c.value(self.content).to_bytes(4, "big")).decode()
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": bucket,
            "size": str(len(self.content)),
            "generation": str(self.generation),
            "metageneration": "1",
            "crc32c": checksum,
            "metadata": self.metadata,
        }


@dataclass
class FakeGcs:
    """A server with buckets: name -> object name -> object. ``calls`` has each request's method and path."""

    buckets: dict[str, dict[str, FakeObject]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    forbidden: bool = False

    def __post_init__(self) -> None:
        fake = self

        class Handler(_Handler):
            gcs = fake

        self.uploads: dict[str, tuple[str, dict[str, Any], bytearray, str | None]] = {}
        self.generation = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    gcs: ClassVar[FakeGcs]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _reply(self, status: int, body: dict[str, Any] | bytes = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _fail(self, status: int, message: str) -> None:
        self._reply(status, {"error": {"code": status, "message": message}})

    def _parts(self) -> tuple[str, dict[str, str]]:
        url = urllib.parse.urlsplit(self.path)
        self.gcs.calls.append(f"{self.command} {url.path}")
        return url.path, dict(urllib.parse.parse_qsl(url.query))

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _bucket(self, path: str) -> tuple[dict[str, FakeObject] | None, str, str]:
        match = re.match(r"^(?:/upload|/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?$", path)
        assert match is not None, path
        return self.gcs.buckets.get(match[1]), match[1], urllib.parse.unquote(match[2] or "")

    def do_GET(self) -> None:
        path, query = self._parts()
        objects, bucket, name = self._bucket(path)
        if self.gcs.forbidden:
            return self._fail(403, "no access")
        if objects is None or (name and name not in objects):
            return self._fail(404, "Not Found")
        if not name and not path.endswith("/o"):
            return self._reply(200, {"kind": "storage#bucket", "name": bucket, "location": "EU"})
        if not name:
            names = sorted(one for one in objects if one.startswith(query.get("prefix", "")))
            at = int(query.get("pageToken", 0))
            page: dict[str, Any] = {"items": [objects[one].resource(bucket, one) for one in names[at : at + _PAGE]]}
            if at + _PAGE < len(names):
                page["nextPageToken"] = str(at + _PAGE)
            return self._reply(200, page)
        if query.get("alt") == "media":
            resource = objects[name].resource(bucket, name)
            return self._reply(200, objects[name].content, x_goog_hash=f"crc32c={resource['crc32c']}")
        return self._reply(200, objects[name].resource(bucket, name))

    def do_DELETE(self) -> None:
        path, _ = self._parts()
        objects, _, name = self._bucket(path)
        body = self._body()
        assert not body
        if objects is None or objects.pop(name, None) is None:
            return self._fail(404, "Not Found")
        return self._reply(204)

    def do_POST(self) -> None:
        path, query = self._parts()
        objects, bucket, _ = self._bucket(path)
        body = self._body()
        if self.gcs.forbidden:
            return self._fail(403, "no access")
        if objects is None:
            return self._fail(404, "The specified bucket does not exist.")
        if query["uploadType"] == "resumable":
            number = str(len(self.gcs.uploads))
            self.gcs.uploads[number] = (bucket, json.loads(body), bytearray(), query.get("ifGenerationMatch"))
            return self._reply(200, Location=f"{self.gcs.url}/resumable/{number}")
        boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
        assert boundary is not None
        _, described, sent, _ = body.split(b"--" + boundary[1].encode())
        resource = json.loads(described.split(b"\r\n\r\n", 1)[1])
        content = sent.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
        return self._keep(bucket, resource, content, query.get("ifGenerationMatch"))

    def do_PUT(self) -> None:
        path, _ = self._parts()
        bucket, resource, received, condition = self.gcs.uploads[path.rpartition("/")[2]]
        received += self._body()
        total = self.headers["Content-Range"].rpartition("/")[2]
        if total == "*" or len(received) < int(total):
            return self._reply(308, Range=f"bytes=0-{len(received) - 1}")
        return self._keep(bucket, resource, bytes(received), condition)

    def _keep(self, bucket: str, resource: dict[str, Any], content: bytes, condition: str | None) -> None:
        objects, name = self.gcs.buckets[bucket], resource["name"]
        there = objects[name].generation if name in objects else 0
        if condition is not None and int(condition) != there:
            return self._fail(412, "At least one of the pre-conditions you specified did not hold.")
        self.gcs.generation += 1
        objects[name] = FakeObject(content, resource.get("metadata", {}), self.gcs.generation)
        kept = objects[name].resource(bucket, name)
        if "crc32c" in resource and resource["crc32c"] != kept["crc32c"]:
            return self._fail(400, "Provided CRC32C does not match.")
        return self._reply(200, kept)
