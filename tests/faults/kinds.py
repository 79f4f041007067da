"""Why: one table of destinations: how each is made, named in a sink, hurt, and read back by a tool that is not ours. Never asks Datasink what is there, but for its own local table."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections import namedtuple

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "services"))

from control import control  # noqa: E402
from server import shielded  # noqa: E402

from datasink.v1 import common_pb2, credential_pb2, credential_pb2_grpc, table_pb2  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
SERVICES = os.path.join(HERE, "..", "services")
SINK = "default.ledger_sink"
TABLE = "default.ledger"
SIGNING_SECRET = "whsec_bGVkZ2VyLWRyaXZlci1zaWduaW5nLXNlY3JldC0wMQ=="
# Objects so small that acks are frequent.
OBJECT_RECORDS, OBJECT_AGE = 50, "100ms"

# One record as it was found: its number, what is wrong with it ("" if nothing), and the place whose order counts (a partition, an object's name, ...).
Found = namedtuple("Found", "seq fault place")
# What a destination holds of one stream, in its own order; what is wrong beside single records; figures for the report.
Collected = namedtuple("Collected", "found faults figures")


def judge(ledger, text):
    """The record that a text is, against what was sent."""
    try:
        row = json.loads(text)
        seq = row["seq"]
    except (ValueError, KeyError, TypeError):
        return Found(-1, f"not a record: {text[:200]!r}", None)
    return Found(seq, "" if row == ledger.record(seq) else f"not what was sent: {str(row)[:200]}", None)


def create_credential(server, name, type_name, **given):
    request = credential_pb2.CreateCredentialRequest(name=name, type=credential_pb2.CredentialType.Value(f"CREDENTIAL_TYPE_{type_name}"), **given)
    credential_pb2_grpc.CredentialServiceStub(server.channel).CreateCredential(request, timeout=30)


def create_table(server, name=TABLE):
    text, number = common_pb2.COLUMN_TYPE_STRING, common_pb2.COLUMN_TYPE_INT64
    types = {"seq": number, "run": text, "stream": text, "crc": number, "payload": text}
    schema = common_pb2.RecordSchema(columns=[common_pb2.Column(name=column, type=kind) for column, kind in types.items()])
    server.tables.CreateTable(table_pb2.CreateTableRequest(name=name, schema=schema, if_not_exists=True), timeout=30)


class Target:
    """What all destinations have in common. `guarantee` is what the server must announce, never what we hope for."""

    # Servers of tests/services that are it, the one that holds the data last; none: it is in the server, or started here.
    services = ()
    guarantee = "EXACTLY_ONCE"
    # Records of one stream a second; None: as fast as it goes.
    rate = 3_000
    # What must not be in any message or log.
    secrets = ()
    can_be_hurt = True
    # Whether a fault proxy can stand before it.
    proxied = False

    def __init__(self, folder, seed):
        self.folder, self.seed, self.proxy = folder, seed, None

    def create(self, server):
        """Makes the destination and the sink SINK onto it."""
        raise NotImplementedError

    def collect(self, server, ledgers):
        """{stream: Collected}"""
        raise NotImplementedError

    def do(self, verb):
        """kill, stop, start, pause, resume; returns what proves that it happened."""
        names = self.services if verb in ("kill", "stop", "pause") else self.services[::-1]
        return {name: control(name, verb) for name in names}

    def address(self):
        """host:port of the real server."""
        raise NotImplementedError

    def reach(self):
        """host:port that the sink is given."""
        return self.proxy.address if self.proxy else self.address()

    def shown(self):
        """How errors name the destination."""
        return self.reach()

    def close(self):
        pass


class Local(Target):
    can_be_hurt = False
    rate = 8_000

    def create(self, server):
        create_table(server)
        server.create_sink(SINK, f"table://{TABLE}")

    def shown(self):
        return f"table://{TABLE}"

    def collect(self, server, ledgers):
        rows = {ledger.stream: [] for ledger in ledgers}
        strangers = []
        for row in server.rows(TABLE):
            rows.get(row.get("stream"), strangers).append(row)
        faults = [f"{len(strangers)} rows are of no stream of this run: {str(strangers[0])[:200]}"] if strangers else []
        return {ledger.stream: Collected([judge(ledger, json.dumps(row)) for row in rows[ledger.stream]], faults, {}) for ledger in ledgers}


class Webhook(Target):
    """A receiver whose ledger is on disk before it answers; its signature check is the specification's own library."""

    guarantee = "IDEMPOTENT"
    rate = None
    secrets = (SIGNING_SECRET.removeprefix("whsec_"),)
    proxied = True
    json_format = "flat"

    def __init__(self, folder, seed):
        super().__init__(folder, seed)
        self.path, self.port, self.process = os.path.join(folder, "received.jsonl"), 0, None
        self._start()

    def _start(self):
        command = [sys.executable, os.path.join(HERE, "foreign_receiver.py"), self.path, "--port", str(self.port)]
        with open(os.path.join(self.folder, "receiver.log"), "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=dict(shielded(), WEBHOOK_SECRET=SIGNING_SECRET))
        self.listening = json.loads(self.process.stdout.readline())["listening"]
        self.port = int(self.listening.rpartition(":")[2])

    def address(self):
        return self.listening

    def do(self, verb):
        pid = self.process.pid
        if verb == "start":
            self._start()
            return {"receiver": self.process.pid}
        self.process.send_signal({"kill": signal.SIGKILL, "stop": signal.SIGTERM, "pause": signal.SIGSTOP, "resume": signal.SIGCONT}[verb])
        if verb in ("kill", "stop"):
            self.process.wait(10)
            self.process.stdout.close()
        return {"receiver": pid}

    def control(self, **knobs):
        """Turns the receiver's knobs for the requests that follow."""
        with urllib.request.urlopen(f"http://{self.listening}/control?{urllib.parse.urlencode(knobs)}", timeout=10) as answer:
            answer.read()

    def create(self, server, name=SINK, **options):
        create_credential(server, "default.ledger_signing", "REST", options={"signing_secret": SIGNING_SECRET})
        server.create_sink(name, f"http://{self.reach()}/hook", credential="default.ledger_signing", max_batch_size="100", json_format=self.json_format, **options)

    def received(self):
        with open(self.path, encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]

    def collect(self, server, ledgers):
        received = self.received()
        return {ledger.stream: self._of(ledger, [entry for entry in received if entry.get("stream") == ledger.stream]) for ledger in ledgers}

    def _of(self, ledger, received):
        """Every request's body must be what was sent, under one id; a receiver that keeps ids then has each record once: those are what is found."""
        faults, bodies_of, found = [], {}, []
        for entry in received:
            if entry["signature"] != "ok":
                faults.append(f"request {entry['id']}: the signature is {entry['signature']}")
            if entry["id"] in bodies_of:
                if bodies_of[entry["id"]] != entry["body_sha256"]:
                    faults.append(f"request {entry['id']} came again with another body")
                continue
            bodies_of[entry["id"]] = entry["body_sha256"]
            right = entry["body_sha256"] == hashlib.sha256(self.body(ledger, entry["first"], entry["last"])).hexdigest()
            fault = "" if right else f"the body of request {entry['id']} is not records {entry['first']} to {entry['last']} as they were sent"
            found += [Found(seq, fault, None) for seq in range(entry["first"], entry["last"] + 1)]
        return Collected(found, faults, {"requests": len(received), "repeated_requests": len(received) - len(bodies_of)})

    def body(self, ledger, first, last):
        return b"\n".join(ledger.ndjson(first, last - first + 1).splitlines())

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


class WebhookNested(Webhook):
    json_format = "nested"

    def body(self, ledger, first, last):
        return b"[" + b",".join(ledger.ndjson(first, last - first + 1).splitlines()) + b"]"


KINDS = {"local": Local, "webhook": Webhook, "nested": WebhookNested}
