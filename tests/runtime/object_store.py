"""As much of the S3 protocol as Arrow's client speaks, over a dictionary; one bucket, no signatures."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

BUCKET = "fleet"


class Handler(BaseHTTPRequestHandler):
    """A request of the REST interface: `/fleet/KEY?options`."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]
    uploads: dict[str, dict[int, bytes]]

    def log_message(self, *_: object) -> None:
        pass

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}").lstrip("/")

    @property
    def options(self) -> dict[str, str]:
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        return {name: values[0] for name, values in query.items()}

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            data = b""
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        # The client's own chunks, inside those of HTTP; checksums follow the last one.
        out = b""
        while True:
            head, _, data = data.partition(b"\r\n")
            size = int(head.partition(b";")[0], 16)
            if size == 0:
                return out
            out, data = out + data[:size], data[size + 2 :]

    def answer(self, code: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", headers.pop("length", str(len(data))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def missing(self) -> None:
        self.answer(404, b"" if self.command == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>")

    def do_HEAD(self) -> None:
        if self.key == "":
            self.answer(200)
        elif self.key in self.objects:
            modified = "Mon, 23 Nov 2026 12:00:00 GMT"
            length = str(len(self.objects[self.key]))
            self.answer(200, length=length, Last_Modified=modified, ETag='"0"')
        else:
            self.missing()

    def do_GET(self) -> None:
        if "list-type" in self.options:
            self.list_objects()
        elif self.key not in self.objects:
            self.missing()
        elif span := self.headers.get("Range"):
            first, _, last = span.removeprefix("bytes=").partition("-")
            whole = self.objects[self.key]
            data = whole[int(first) : int(last) + 1 if last else None]
            end = int(first) + len(data) - 1
            self.answer(206, data, Content_Range=f"bytes {first}-{end}/{len(whole)}", ETag='"0"')
        else:
            self.answer(200, self.objects[self.key], ETag='"0"')

    def list_objects(self) -> None:
        prefix, delimiter = self.options.get("prefix", ""), self.options.get("delimiter", "")
        keys, folders = [], set()
        for key in sorted(self.objects):
            if key.startswith(prefix):
                rest = key[len(prefix) :]
                if delimiter and delimiter in rest:
                    folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                else:
                    keys.append(key)
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.objects[key])}</Size>"
            "<LastModified>2026-11-23T12:00:00.000Z</LastModified></Contents>"
            for key in keys
        ) + "".join(f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders))
        count = len(keys) + len(folders)
        self.answer(
            200,
            f"<ListBucketResult><Name>{BUCKET}</Name><IsTruncated>false</IsTruncated>"
            f"<KeyCount>{count}</KeyCount>{found}</ListBucketResult>".encode(),
        )

    def do_PUT(self) -> None:
        data = self.body()
        if upload := self.options.get("uploadId"):
            self.uploads[upload][int(self.options["partNumber"])] = data
        else:
            self.objects[self.key] = data
        self.answer(200, ETag='"0"')

    def do_POST(self) -> None:
        data = self.body()
        if "uploads" in self.options:
            name = uuid.uuid4().hex
            self.uploads[name] = {}
            self.answer(
                200,
                "<InitiateMultipartUploadResult>"
                f"<UploadId>{name}</UploadId></InitiateMultipartUploadResult>".encode(),
            )
        elif upload := self.options.get("uploadId"):
            parts = self.uploads.pop(upload)
            self.objects[self.key] = b"".join(parts[i] for i in sorted(parts))
            self.answer(200, b"<CompleteMultipartUploadResult/>")
        else:  # several to delete
            for element in ElementTree.fromstring(data).iter():
                if element.tag.endswith("Key"):
                    self.objects.pop(element.text or "", None)
            self.answer(200, b"<DeleteResult/>")

    def do_DELETE(self) -> None:
        self.objects.pop(self.key, None)
        self.answer(204)


@contextmanager
def object_store() -> Iterator[tuple[dict[str, bytes], str]]:
    """Run a store; yield its objects by key and what to write behind `s3://fleet/KEY`."""
    handler = type("Store", (Handler,), {"objects": {}, "uploads": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield handler.objects, f"?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=none"
    finally:
        server.shutdown()
        server.server_close()
