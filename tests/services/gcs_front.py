#!/usr/bin/env python3
"""Why: gives fake-gcs-server, which speaks the JSON API, the XML API that object_store writes with. Never decides a put's precondition: the server does.

Usage: gcs_front.py --port P [--host ADDRESS] --upstream HOST:PORT --folder DIR [--tokens FILE] [--service-account-key PUBLIC.pem]

put, get, head, list, delete    one request to the server behind
copy                            its rewrite; the server ignores preconditions there, so this file refuses one for generation 0 if the target exists
multipart                       parts are files in DIR until the upload is completed, then one insert: they outlive a kill

A bucket whose name begins with `private-` wants `Authorization: Bearer` with a token of FILE (JSON lines {"token", "expires"}), or a JWT that the
service account's key signed; every other bucket asks for nothing.
"""

import argparse
import hashlib
import http.client
import json
import os
import secrets
import shutil
import sys
import time
import xml.etree.ElementTree as ElementTree
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit
from xml.sax.saxutils import escape

PIECE_BYTES = 1 << 20
UPSTREAM_SECONDS_MAX = 60
LIST_KEYS_MAX = 1000
PASSED_ON = ("range", "if-match", "if-none-match", "accept-encoding")
# Headers of the XML API and the fields of the JSON API that hold them.
FIELDS = {"content-type": "contentType", "cache-control": "cacheControl", "content-encoding": "contentEncoding",
          "content-disposition": "contentDisposition", "content-language": "contentLanguage", "x-goog-storage-class": "storageClass"}


class Refusal(Exception):
    """An answer that is an XML error."""

    def __init__(self, status, code, message):
        super().__init__(message)
        self.status, self.code = status, code


def object_path(bucket, key):
    return f"/storage/v1/b/{quote(bucket, safe='')}/o/{quote(key, safe='')}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and a small body leave in one segment.
    wbufsize = 1 << 16
    timeout = 120

    def handle_one(self):
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        bucket, _, key = url.path.lstrip("/").partition("/")
        self.left = int(self.headers.get("content-length") or 0)
        try:
            if url.path == "/_internal/healthcheck":
                return self.answer(200, b"")
            bucket, key = unquote(bucket), unquote(key)
            self.admit(bucket)
            self.route(bucket, key)
        except Refusal as refusal:
            self.refuse(refusal)
        except (ConnectionError, http.client.HTTPException, TimeoutError) as fault:
            # Either side may have gone; the sender is told if it is still there.
            self.close_connection = True
            if not getattr(self, "answered", False):
                self.refuse(Refusal(503, "ServiceUnavailable", f"the server behind: {type(fault).__name__}"))
        finally:
            self.answered = False

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one

    def route(self, bucket, key):
        verb = self.command
        if not key:
            if verb == "GET":
                return self.list(bucket)
        elif verb in ("GET", "HEAD"):
            return self.read(bucket, key)
        elif verb == "DELETE":
            return self.abort() if "uploadId" in self.query else self.delete(bucket, key)
        elif verb == "PUT":
            if "uploadId" in self.query:
                return self.put_part()
            return self.copy(bucket, key) if "x-goog-copy-source" in self.headers else self.put(bucket, key)
        elif verb == "POST":
            if "uploads" in self.query:
                return self.begin(bucket, key)
            if "uploadId" in self.query:
                return self.complete()
        raise Refusal(405, "MethodNotAllowed", f"this front does not know {verb} here")

    # Who may come in, and what is there.

    def admit(self, bucket):
        if bucket.startswith("private-"):
            self.server.check(self.headers.get("authorization", ""))
        if bucket not in self.server.buckets:
            status, _ = self.ask("GET", f"/storage/v1/b/{quote(bucket, safe='')}")
            if status != 200:
                raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist.")
            self.server.buckets.add(bucket)

    # One request each.

    def put(self, bucket, key):
        self.inserted(*self.insert(bucket, key, self.metadata(), self.body(), self.left, self.headers.get("x-goog-if-generation-match")))

    def read(self, bucket, key):
        headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
        generation = {"generation": self.query["generation"]} if "generation" in self.query else {}
        path = f"/download{object_path(bucket, key)}?{urlencode({'alt': 'media', **generation})}"
        link, answer = self.open(self.command, path, None, headers)
        try:
            if answer.status == 404:
                raise Refusal(404, "NoSuchKey", "The specified key does not exist.")
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "date", "server", "transfer-encoding"):
                    self.send_header(name, value)
            self.end_headers()
            self.answered = True
            if self.command == "GET":
                shutil.copyfileobj(answer, self.wfile, PIECE_BYTES)
        finally:
            link.close()

    def delete(self, bucket, key):
        self.drain()
        status, _ = self.ask("DELETE", object_path(bucket, key))
        if status == 404:
            raise Refusal(404, "NoSuchKey", "The specified key does not exist.")
        self.expect(status)
        self.answer(204, b"")

    def copy(self, bucket, key):
        self.drain()
        source_bucket, _, source = self.headers["x-goog-copy-source"].lstrip("/").partition("/")
        if self.headers.get("x-goog-if-generation-match") == "0" and self.ask("GET", object_path(bucket, key))[0] == 200:
            raise Refusal(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
        status, body = self.ask("POST", f"{object_path(unquote(source_bucket), unquote(source))}/rewriteTo{object_path(bucket, key).removeprefix('/storage/v1')}")
        if status == 404:
            raise Refusal(404, "NoSuchKey", "The specified key does not exist.")
        self.expect(status)
        made = json.loads(body)["resource"]
        self.answer(200, f"<CopyObjectResult><ETag>{escape(self.etag(made))}</ETag><LastModified>{made['updated']}</LastModified></CopyObjectResult>".encode(), self.marks(made))

    def list(self, bucket):
        """One page: the server's own, or as many as it takes where start-after leaves a first key out."""
        query, found, prefixes = self.query, [], []
        keys_max = min(int(query.get("max-keys") or LIST_KEYS_MAX), LIST_KEYS_MAX)
        asked = {"maxResults": keys_max, "prefix": query.get("prefix", ""), "delimiter": query.get("delimiter", ""), "startOffset": query.get("start-after", ""),
                 "pageToken": query.get("continuation-token", "")}
        status, body = self.ask("GET", f"/storage/v1/b/{quote(bucket, safe='')}/o?{urlencode({name: value for name, value in asked.items() if value})}")
        if status == 404:
            raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist.")
        self.expect(status)
        page = json.loads(body)
        found = [item for item in page.get("items") or [] if item["name"] != query.get("start-after")]
        prefixes = page.get("prefixes") or []
        token = page.get("nextPageToken")
        text = ["<?xml version='1.0' encoding='UTF-8'?><ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'>",
                f"<Name>{escape(bucket)}</Name><Prefix>{escape(query.get('prefix', ''))}</Prefix><KeyCount>{len(found) + len(prefixes)}</KeyCount><IsTruncated>{'true' if token else 'false'}</IsTruncated>"]
        if token:
            text.append(f"<NextContinuationToken>{escape(token)}</NextContinuationToken>")
        for item in found:
            text.append(f"<Contents><Key>{escape(item['name'])}</Key><Generation>{item['generation']}</Generation><LastModified>{item['updated']}</LastModified>"
                        f"<ETag>{escape(self.etag(item))}</ETag><Size>{item['size']}</Size></Contents>")
        text += [f"<CommonPrefixes><Prefix>{escape(prefix)}</Prefix></CommonPrefixes>" for prefix in prefixes]
        self.answer(200, "".join([*text, "</ListBucketResult>"]).encode(), {"content-type": "application/xml"})

    # Multipart.

    def begin(self, bucket, key):
        self.drain()
        upload = secrets.token_hex(16)
        folder = self.server.folder / upload
        folder.mkdir()
        (folder / "about").write_text(json.dumps({"bucket": bucket, "key": key, "metadata": self.metadata()}))
        self.answer(200, f"<InitiateMultipartUploadResult><Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>".encode())

    def upload_folder(self):
        upload = self.query["uploadId"]
        folder = self.server.folder / upload
        if not upload.isalnum() or not (folder / "about").exists():
            raise Refusal(404, "NoSuchUpload", "The requested upload was not found.")
        return folder

    def put_part(self):
        folder, number, digest = self.upload_folder(), int(self.query["partNumber"]), hashlib.md5()
        unfinished = folder / f"unfinished-{secrets.token_hex(4)}"
        with open(unfinished, "wb") as file:
            for piece in self.body():
                digest.update(piece)
                file.write(piece)
        # The digest is in the name, so that a part of which it is known is there whole.
        for old in folder.glob(f"part-{number}-*"):
            old.unlink()
        unfinished.rename(folder / f"part-{number}-{digest.hexdigest()}")
        self.answer(200, b"", {"etag": f'"{digest.hexdigest()}"'})

    def complete(self):
        folder = self.upload_folder()
        wanted = ElementTree.fromstring(b"".join(self.body()))
        name = lambda element: element.tag.rpartition("}")[2]
        parts = []
        for part in wanted:
            field = {name(child): (child.text or "").strip() for child in part}
            file = folder / f"part-{int(field['PartNumber'])}-{field['ETag'].strip(chr(34))}"
            if not file.exists():
                raise Refusal(400, "InvalidPart", "One or more of the specified parts could not be found.")
            parts.append(file)
        about = json.loads((folder / "about").read_text())

        def pieces():
            for part in parts:
                with open(part, "rb") as file:
                    while piece := file.read(PIECE_BYTES):
                        yield piece

        size = sum(part.stat().st_size for part in parts)
        status, body = self.insert(about["bucket"], about["key"], about["metadata"], pieces(), size, self.headers.get("x-goog-if-generation-match"))
        made = self.made(status, body)
        shutil.rmtree(folder)
        text = f"<CompleteMultipartUploadResult><Bucket>{escape(about['bucket'])}</Bucket><Key>{escape(about['key'])}</Key><ETag>{escape(self.etag(made))}</ETag></CompleteMultipartUploadResult>"
        self.answer(200, text.encode(), self.marks(made))

    def abort(self):
        self.drain()
        shutil.rmtree(self.upload_folder())
        self.answer(204, b"")

    # The server behind.

    def insert(self, bucket, key, metadata, pieces, size, generation_match):
        boundary = f"datasink-{secrets.token_hex(8)}"
        head = (f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{json.dumps({'name': key, **metadata})}\r\n"
                f"--{boundary}\r\nContent-Type: {metadata.get('contentType', 'application/octet-stream')}\r\n\r\n").encode()
        tail = f"\r\n--{boundary}--\r\n".encode()

        def body():
            yield head
            yield from pieces
            yield tail

        query = {"uploadType": "multipart", **({"ifGenerationMatch": generation_match} if generation_match is not None else {})}
        headers = {"content-type": f"multipart/related; boundary={boundary}", "content-length": str(len(head) + size + len(tail))}
        return self.ask("POST", f"/upload/storage/v1/b/{quote(bucket, safe='')}/o?{urlencode(query)}", body(), headers)

    def open(self, verb, path, body=None, headers=None):
        link = http.client.HTTPConnection(self.server.upstream, timeout=UPSTREAM_SECONDS_MAX)
        link.request(verb, path, body, headers or {})
        return link, link.getresponse()

    def ask(self, *request):
        link, answer = self.open(*request)
        try:
            return answer.status, answer.read()
        finally:
            link.close()

    def expect(self, status):
        if status not in (200, 204):
            raise Refusal(503 if status >= 500 else status, "InternalError", f"the server behind answered {status}")

    def made(self, status, body):
        if status == 412:
            raise Refusal(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
        self.expect(status)
        return json.loads(body)

    def inserted(self, status, body):
        self.answer(200, b"", self.marks(self.made(status, body)))

    # This side.

    @staticmethod
    def etag(made):
        return f'"{made["etag"].strip(chr(34))}"'

    def marks(self, made):
        return {"etag": self.etag(made), "x-goog-generation": made["generation"], "x-goog-metageneration": made.get("metageneration") or "1"}

    def metadata(self):
        found = {field: self.headers[name] for name, field in FIELDS.items() if name in self.headers}
        own = {name.lower().removeprefix("x-goog-meta-"): value for name, value in self.headers.items() if name.lower().startswith("x-goog-meta-")}
        return {**found, **({"metadata": own} if own else {})}

    def body(self):
        """The request's body, piece by piece. A sender that leaves in the middle breaks the insert that reads from here, so nothing is made."""
        while self.left > 0:
            piece = self.rfile.read(min(PIECE_BYTES, self.left))
            if not piece:
                raise ConnectionResetError("the sender left in the middle of the body")
            self.left -= len(piece)
            yield piece

    def drain(self):
        for _ in self.body():
            pass

    def refuse(self, refusal):
        try:
            self.drain()
            text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{refusal.code}</Code><Message>{escape(str(refusal))}</Message></Error>"
            self.answer(refusal.status, text.encode(), {"content-type": "application/xml"})
        except OSError:
            self.close_connection = True  # the sender is gone

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.answered = True

    def date_time_string(self, timestamp=None):
        return formatdate(timestamp, usegmt=True)

    def log_message(self, form, *words):
        print(f"{time.time():.3f} {form % words}", file=sys.stderr, flush=True)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # A front that is killed and started again must get its port back at once.
    allow_reuse_address = True
    request_queue_size = 128

    def check(self, authorization):
        """Raises unless the bearer is one that the fake cloud gave out and that still lives, or a JWT of the service account."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refusal(401, "AuthenticationRequired", "Authentication required.")
        if not (self.is_given_out(token) or self.is_service_account(token)):
            raise Refusal(401, "InvalidAuthentication", "Invalid Credentials")

    def is_given_out(self, token):
        if not self.tokens or not self.tokens.exists():
            return False
        given = (json.loads(line) for line in self.tokens.read_text().splitlines())
        return any(one["token"] == token and one["expires"] > time.time() for one in given)

    def is_service_account(self, token):
        if not self.service_account_key:
            return False
        import jwt

        try:
            jwt.decode(token, self.service_account_key, algorithms=["RS256"], options={"verify_aud": False})
        except jwt.InvalidTokenError:
            return False
        return True

    def handle_error(self, request, client_address):
        # A sender that is killed leaves in the middle; that is what it is tested for.
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--host", default="127.0.0.1", help="where to listen; beyond loopback only in a container")
    arguments.add_argument("--upstream", required=True)
    arguments.add_argument("--folder", type=Path, required=True)
    arguments.add_argument("--tokens", type=Path)
    arguments.add_argument("--service-account-key", type=Path)
    given = arguments.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    server = Server((given.host, given.port), Handler)
    server.upstream, server.folder, server.buckets, server.tokens = given.upstream, given.folder, set(), given.tokens
    server.service_account_key = given.service_account_key.read_text() if given.service_account_key else None
    server.serve_forever()


if __name__ == "__main__":
    main()
