#!/usr/bin/env python3
"""A Standard Webhooks receiver whose ledger survives being killed: what it answered 200 to is on disk.

Usage: webhook_receiver.py LEDGER [--port N] [--host ADDRESS] [--secret whsec_...]

Prints {"listening": "127.0.0.1:PORT"} once it serves. Every POST appends one JSON line to LEDGER, synced before the answer:
time, path, id, stream, epoch, first, last, attempt, body_sha256, records, signature ("ok", "bad", "none" or "unchecked").
Requests that are made to fail are in the ledger only if they fail after it was written: "drop".

Controls, for the POSTs that follow:
  GET /control?fail=N&status=S[&retry_after=V]  answer the next N with status S
  GET /control?delay=SECONDS                    wait before every answer (after the ledger)
  GET /control?drop=N                           write the next N to the ledger, then close without an answer
  GET /control?reset=1                          none of these any more
  GET /stats                                    {"requests": n, "ids": n, "failed": n, "dropped": n}
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

BODY_BYTES_MAX = 16 << 20


class Ledger:
    """An append-only file; a line is there for good before `add` returns."""

    def __init__(self, path):
        self.lock = threading.Lock()
        self.seen = {}
        self.requests = 0
        if os.path.exists(path):
            self._recover(path)
        self.file = open(path, "ab")

    def _recover(self, path):
        """Takes up the lines of an earlier run, and cuts off a last one that a kill left unfinished."""
        whole = 0
        with open(path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                self._count(json.loads(line)["id"])
        os.truncate(path, whole)

    def _count(self, message_id):
        self.requests += 1
        self.seen[message_id] = self.seen.get(message_id, 0) + 1
        return self.seen[message_id]

    def add(self, entry):
        with self.lock:
            entry["attempt"] = self._count(entry["id"])
            self.file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())


class Knobs:
    """What the next answers are to be."""

    def __init__(self):
        self.lock = threading.Lock()
        self.failed = self.dropped = 0
        self.reset()

    def reset(self):
        self.fail = self.drop = 0
        self.status = 503
        self.retry_after = None
        self.delay = 0.0

    def turn(self, query):
        with self.lock:
            if "reset" in query:
                self.reset()
            self.fail = int(query.get("fail", self.fail))
            self.drop = int(query.get("drop", self.drop))
            self.status = int(query.get("status", self.status))
            self.retry_after = query.get("retry_after", self.retry_after)
            self.delay = float(query.get("delay", self.delay))

    def take_failure(self):
        with self.lock:
            if self.fail == 0:
                return None
            self.fail -= 1
            self.failed += 1
            return self.status, self.retry_after

    def take_drop(self):
        with self.lock:
            if self.drop == 0:
                return False
            self.drop -= 1
            self.dropped += 1
            return True


def records_of(body):
    """How many records a body has: an array's elements, or one; null where it is not JSON."""
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return len(value) if isinstance(value, list) else 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in one segment.
    wbufsize = -1
    timeout = 120

    def do_GET(self):
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        if url.path == "/control":
            try:
                self.server.knobs.turn(query)
            except ValueError as fault:
                return self.answer(400, {"error": str(fault)})
            return self.answer(200, {"ok": True})
        if url.path == "/stats":
            ledger, knobs = self.server.ledger, self.server.knobs
            with ledger.lock:
                counts = {"requests": ledger.requests, "ids": len(ledger.seen)}
            return self.answer(200, {**counts, "failed": knobs.failed, "dropped": knobs.dropped})
        return self.answer(404, {"error": "GET /control or /stats"})

    def do_POST(self):
        body = self.body()
        if body is None:
            return
        failure = self.server.knobs.take_failure()
        if failure:
            status, retry_after = failure
            return self.answer(status, {"error": "as told"}, {"Retry-After": retry_after} if retry_after else {})
        entry = self.entry(body)
        if entry["signature"] in ("bad", "none"):
            return self.answer(401, {"error": "the signature does not fit"})
        # A probe is answered like the rest, and is no record.
        if self.headers.get("datasink-probe") is None:
            self.server.ledger.add(entry)
        if self.server.knobs.take_drop():
            self.close_connection = True
            return
        time.sleep(self.server.knobs.delay)
        self.answer(200, {"ok": True})

    def body(self):
        """The request's body, by length or in chunks; None if it was refused."""
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            chunks, total = [], 0
            while size := int(self.rfile.readline().split(b";")[0], 16):
                total += size
                if total > BODY_BYTES_MAX:
                    return self.refuse_body()
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        length = int(self.headers.get("content-length", "0"))
        return self.refuse_body() if length > BODY_BYTES_MAX else self.rfile.read(length)

    def refuse_body(self):
        self.close_connection = True
        self.answer(413, {"error": "the body is too large"})

    def entry(self, body):
        number = lambda name: int(self.headers[name]) if self.headers.get(name, "").isdigit() else None
        return {
            "time": time.time(),
            "path": self.path,
            "id": self.headers.get("webhook-id", ""),
            "stream": self.headers.get("datasink-stream"),
            "epoch": number("datasink-epoch"),
            "first": number("datasink-first-offset"),
            "last": number("datasink-last-offset"),
            "body_sha256": hashlib.sha256(body).hexdigest(),
            "records": records_of(body),
            "signature": self.signature(body),
        }

    def signature(self, body):
        if not self.server.secret:
            return "unchecked"
        given = self.headers.get("webhook-signature", "").split()
        if not given:
            return "none"
        signed = f"{self.headers.get('webhook-id', '')}.{self.headers.get('webhook-timestamp', '')}.".encode() + body
        right = "v1," + base64.b64encode(hmac.new(self.server.secret, signed, hashlib.sha256).digest()).decode()
        return "ok" if any(hmac.compare_digest(right, one) for one in given) else "bad"

    def answer(self, status, value, headers=None):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # A receiver that is killed and started again must get its port back at once.
    allow_reuse_address = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        # A sender that is killed or stopped leaves in the middle of a request; that is what it is tested for.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("ledger")
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--host", default="127.0.0.1", help="where to listen; beyond loopback only in a container")
    arguments.add_argument("--secret", help="verify signatures with this key, whsec_...")
    given = arguments.parse_args()
    server = Server((given.host, given.port), Handler)
    server.ledger = Ledger(given.ledger)
    server.knobs = Knobs()
    server.secret = base64.b64decode(given.secret.removeprefix("whsec_")) if given.secret else None
    print(json.dumps({"listening": f"{given.host}:{server.server_port}"}), flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
