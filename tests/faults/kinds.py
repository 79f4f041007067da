"""Why: one table of destinations: how each is made, named in a sink, hurt, and read back by a tool that is not ours. Never asks Datasink what is there, but for its own local table."""

import concurrent.futures
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
# How long Kafka's console consumer waits for a further record, and how long if it saw less than was acknowledged.
READER_IDLE_SECONDS = (4, 30)
# How long Kafka's own tool may take to find a transaction whose end was lost; it wants it to be a minute old.
OPERATION_SECONDS_MAX = 90

# The size of a part (src/limits.rs).
PART_BYTES = 8 << 20

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
    # Records of one stream that may be sent and not yet acknowledged, and of one batch; how many times larger than usual a payload is.
    outstanding, batch_max, payload_scale = 5_000, 1_000, 1
    # What must not be in any message or log.
    secrets = ()
    can_be_hurt = True
    # Whether the destination itself refuses a writer of an older epoch, also one in another server.
    fences = False
    # What the streams of a second server open with, so that it does not cut units as the first did, and one of the first's cannot pass for one of its own.
    heir_options = {}
    # Whether a fault proxy can stand before it, and at which requests an outcome is decided (words of proxy.rs); the seed takes one of the next so many.
    proxied = False
    moments = ("any",)
    moment_nth_max = 10

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

    def make_proxy(self, make):
        """A proxy before the real server; `make` takes where it leads and where it listens."""
        return make(self.address())

    def reach(self):
        """host:port that the sink is given."""
        return self.proxy.address if self.proxy else self.address()

    def shown(self):
        """How errors name the destination."""
        return self.reach()

    def halfway(self, line):
        """What the destination holds of the work that a request, whose first line this is, would go on with; asked while it is held."""
        return None

    def confession(self):
        """Where the destination's own log says that it did not keep what it had confirmed, and so needs an operator: that line."""
        return None

    def operate(self):
        """Does what the kind's README tells an operator to do then, if there is something to do; says what was done."""
        return []

    def unproved(self, collected):
        """What these runs were to do to this destination and did not."""
        return []

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
    # One request a record, each synced by the receiver: a full window would take it half a minute.
    outstanding = 600
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


class KafkaExactlyOnce(Target):
    """Read by Kafka's own console consumer: committed records must be each there once; uncommitted ones may show what was aborted."""

    services = ("kafka",)
    fences = True
    delivery = "exactly_once"
    proxied = True
    # Produce (0) carries the records; EndTxn (26) makes them visible, and its reply is the one whose loss leaves the outcome unknown.
    moments = ("kafka 26", "kafka 0")
    partitions = 2
    copies_allowed = False

    def __init__(self, folder, seed):
        super().__init__(folder, seed)
        self.topic = f"faults-{self.delivery.replace('_', '-')}-{seed}-{os.getpid()}"

    def address(self):
        return os.environ["KAFKA_BOOTSTRAP"]

    def make_proxy(self, make):
        # Brokers advertise where they are to be reached: behind a proxy that is the proxy, before a listener of its own.
        advertised, listener = os.environ["KAFKA_PROXIED"].split(",")[0].split("=")
        return make(listener, advertised)

    def create(self, server):
        subprocess.run([os.path.join(SERVICES, "kafka-topic"), self.topic, str(self.partitions)], check=True, stdout=subprocess.DEVNULL)
        server.create_sink(SINK, f"kafka://{self.reach()}", kafka_topic_name=self.topic, kafka_delivery=self.delivery)

    def confession(self):
        # A lone broker that was away skips the markers of transactions that it had decided: what they hold, and all that follows in those partitions, no reader of committed records sees.
        with open(os.path.join(os.environ["SERVICES_DIR"], "kafka.log"), encoding="utf-8", errors="replace") as log:
            return next((line.strip() for line in log if "can be skipped" in line and self.topic in line), None)

    def operate(self):
        # See "A transaction whose end was lost" in the kind's README. What is younger than a minute is not found yet, and one may be found piece by piece.
        settled, until = [], time.monotonic() + OPERATION_SECONDS_MAX
        while time.monotonic() < until:
            more = subprocess.run([os.path.join(SERVICES, "kafka-settle")], check=True, stdout=subprocess.PIPE, timeout=60).stdout.decode().splitlines()
            settled += more
            if settled and not more:
                break
            time.sleep(5)
        return settled

    def read(self, isolation, idle_seconds):
        """(partition, offset, headers, text) of every record, in the order of the consumer."""
        command = [os.path.join(SERVICES, "kafka-read"), self.topic, "--isolation", isolation, "--print", "partition,offset,headers", "--idle-ms", str(idle_seconds * 1000)]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=300).stdout.decode().splitlines()
        for line in lines:
            partition, offset, headers, text = line.split("\t", 3)
            names = dict(header.split(":", 1) for header in headers.split(",") if ":" in header)
            yield int(partition.rpartition(":")[2]), int(offset.rpartition(":")[2]), names, text

    def read_both(self, least):
        """What readers of either isolation see. A consumer ends by having waited long enough, which on a busy machine it may before it began: one that saw too little is asked again, patiently."""
        for idle_seconds in READER_IDLE_SECONDS:
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                committed, uncommitted = pool.map(lambda isolation: list(self.read(isolation, idle_seconds)), ("read_committed", "read_uncommitted"))
            if least <= len(committed) <= len(uncommitted):
                break
        return committed, len(uncommitted)

    def collect(self, server, ledgers):
        by_stream = {ledger.stream: [] for ledger in ledgers}
        strangers = []
        records, uncommitted = self.read_both(sum(ledger.acked for ledger in ledgers))
        for partition, offset, headers, text in records:
            by_stream.get(headers.get("datasink-stream"), strangers).append((partition, offset, headers.get("datasink-offset"), text))
        committed = sum(map(len, by_stream.values())) + len(strangers)
        faults = [f"{len(strangers)} records are of no stream of this run"] if strangers else []
        if uncommitted < committed:
            faults.append(f"a read_uncommitted reader saw {uncommitted} records, a read_committed one {committed}")
        figures = {"uncommitted_extra": uncommitted - committed}
        collected = {}
        for ledger in ledgers:
            collected[ledger.stream] = self._of(ledger, sorted(by_stream[ledger.stream]), faults, figures if ledger is ledgers[0] else {})
        return collected

    def _of(self, ledger, records, faults, figures):
        """Each record must carry its own offset; where copies are allowed, they are told by it, as a careful reader would."""
        found, seen = [], {}
        for partition, _, offset, text in records:
            one = judge(ledger, text)._replace(place=f"partition {partition}")
            if offset != str(one.seq):
                one = one._replace(fault=one.fault or f"its header datasink-offset says {offset}")
            if self.copies_allowed and offset in seen:
                if seen[offset] != text:
                    faults = [*faults, f"two records of offset {offset} differ"]
                continue
            seen[offset] = text
            found.append(one)
        return Collected(found, faults, {**figures, "copies": len(records) - len(found)})


class KafkaIdempotent(KafkaExactlyOnce):
    """No transactions: what was not acknowledged before a crash may come again, and nothing else."""

    guarantee = "IDEMPOTENT"
    fences = False
    copies_allowed = True
    # A copy may go to another partition, and then nobody can say which came first.
    partitions = 1
    delivery = "idempotent"
    moments = ("kafka 0",)


class Objects(Target):
    """Read by the vendor's SDK: every object, its name, its content and the link in its metadata, which together must be one chain."""

    store = None
    fences = proxied = True
    # The reply to a PUT is the one whose loss leaves the outcome unknown.
    moments = ("containing PUT /",)
    # Objects so small that acks are frequent.
    sizes = {"max_object_records": "50", "max_object_age": "1"}
    heir_options = {"max_object_records": "37"}

    def __init__(self, folder, seed):
        super().__init__(folder, seed)
        self.bucket = f"faults-{seed}-{os.getpid()}"
        self.client = None

    def create(self, server):
        from stores import store

        self.client = store(self.store)
        self.client.make_bucket(self.bucket)
        destination, options = self.sink(server)
        server.create_sink(SINK, destination, **options, **self.sizes)

    def sink(self, server):
        """The destination and options of this store."""
        raise NotImplementedError

    def metadata(self, key):
        raise NotImplementedError

    def parts(self, key):
        """In how many parts an object was uploaded; 0: whole."""
        raise NotImplementedError

    def collect(self, server, ledgers):
        by_stream = {ledger.stream: [] for ledger in ledgers}
        faults, self.in_parts = [], 0
        for key, _ in self.client.list(self.bucket):
            if "_datasink" in key:
                continue
            self.in_parts += self.parts(key) > 1
            body, link = self.client.get(self.bucket, key), link_of(self.metadata(key))
            lines = body.splitlines()
            stream = json.loads(lines[0]).get("stream") if lines else None
            if stream in by_stream and link:
                by_stream[stream].append((key, lines, body, link))
            elif lines:
                faults.append(f"object {key} has no link or is of no stream of this run")
        return {ledger.stream: self._chain(ledger, by_stream[ledger.stream], faults) for ledger in ledgers}

    def _chain(self, ledger, objects, faults):
        """Names sort as offsets do; each object begins where the one before it ended, and holds just what its link says."""
        faults, found, expected, epochs = list(faults), [], 0, []
        for key, lines, body, link in sorted(objects, key=lambda one: int(one[3]["first"])):
            first, end = int(link["first"]), int(link["next"])
            if first != expected:
                faults.append(f"object {key} begins at {first}, the one before it ends at {expected}: {'a hole' if first > expected else 'an overlap'}")
            if f"{first:020}" not in key:
                faults.append(f"object {key} is not named by its first record {first}")
            if len(lines) != int(link["records"]):
                faults.append(f"object {key} holds {len(lines)} records, its link says {link['records']}")
            if link.get("sha256") and hashlib.sha256(body).hexdigest() != link["sha256"]:
                faults.append(f"object {key} is not what its link's hash says")
            found += [judge(ledger, line) for line in lines]
            epochs.append(int(link["epoch"]))
            expected = end
        older = sum(1 for before, after in zip(epochs, epochs[1:]) if after < before)
        return Collected(found, faults, {"objects": len(objects), "objects_adopted_from_an_older_epoch": older})


def link_of(metadata):
    """The fields of the one metadata text that is ours, {} where there is none."""
    text = next((value for value in (metadata or {}).values() if value and value.startswith("v=1;stream=")), "")
    return dict(part.split("=", 1) for part in text.split(";") if "=" in part)


class S3(Objects):
    services = ("s3",)
    store = "s3"

    def __init__(self, folder, seed):
        super().__init__(folder, seed)
        self.secrets = (os.environ["S3_SECRET_KEY"],)

    def address(self):
        return os.environ["S3_ENDPOINT"].removeprefix("http://")

    def sink(self, server):
        create_credential(server, "default.ledger_s3", "AWS_ACCESS_KEY", identity=os.environ["S3_ACCESS_KEY"], secret=os.environ["S3_SECRET_KEY"])
        options = {"credential": "default.ledger_s3", "s3_bucket_name": self.bucket, "s3_region": os.environ.get("S3_REGION", "us-east-1"), "use_https": "false"}
        return f"s3://{self.reach()}", {**options, "s3_use_virtual_addressing": "false"}

    def metadata(self, key):
        return self.client.client.head_object(Bucket=self.bucket, Key=key)["Metadata"]

    def parts(self, key):
        # The mark of S3: the hash of an upload in parts ends with their number.
        return int(self.client.client.head_object(Bucket=self.bucket, Key=key)["ETag"].strip('"').partition("-")[2] or 0)


class Gcs(Objects):
    services = ("gcs", "gcs-json")
    store = "gcs"

    def address(self):
        return os.environ["GCS_ENDPOINT"].removeprefix("http://")

    def sink(self, server):
        return f"gcs://{self.reach()}", {"gcs_bucket_name": self.bucket, "use_https": "false"}

    def metadata(self, key):
        return self.client.client.bucket(self.bucket).get_blob(key).metadata

    def parts(self, key):
        return -(-self.client.client.bucket(self.bucket).get_blob(key).size // PART_BYTES)


class Azure(Objects):
    services = ("azure",)
    store = "azure"

    def __init__(self, folder, seed):
        super().__init__(folder, seed)
        self.secrets = (os.environ["AZURE_KEY"],)

    def address(self):
        return urllib.parse.urlsplit(os.environ["AZURE_ENDPOINT"]).netloc

    def sink(self, server):
        create_credential(server, "default.ledger_azure", "AZURE_STORAGE_KEY", identity=os.environ["AZURE_ACCOUNT"], secret=os.environ["AZURE_KEY"])
        options = {"credential": "default.ledger_azure", "azure_container_name": self.bucket, "use_https": "false"}
        return f"azure://{self.reach()}", {**options, "azure_use_virtual_addressing": "false"}

    def metadata(self, key):
        return self.client.client.get_blob_client(self.bucket, key).get_blob_properties().metadata

    def parts(self, key):
        return len(self.client.client.get_blob_client(self.bucket, key).get_block_list("committed")[0])


class Large:
    """Objects of three parts (8 MiB each, but for the last), which an upload has to be begun and completed for; beside a class of Objects. (Those of gcs are put whole: its uploads know no
    condition.)"""

    sizes = {"max_object_bytes": str(20 << 20)}
    # Records of 9 to 80 KiB: a thousand are two objects. A batch stays below the 4 MiB that the service takes, what is outstanding below its window.
    payload_scale, batch_max, outstanding, rate = 300, 40, 800, 300
    moment_nth_max = 2

    def unproved(self, collected):
        return [] if self.in_parts else ["no object was uploaded in parts"]


class S3Large(Large, S3):
    # The completion is the one whose outcome matters; the second part is in the middle of an upload.
    moments = ("containing ?uploadId=", "containing partNumber=2&")

    def __init__(self, folder, seed):
        super().__init__(folder, seed)
        self.uploads = []

    def halfway(self, line):
        key = urllib.parse.unquote(urllib.parse.urlsplit(line.split(" ")[1]).path.removeprefix(f"/{self.bucket}/"))
        self.uploads += [{"key": key, "open_uploads": self.client.uploads(self.bucket, key)}]
        return self.uploads[-1]

    def unproved(self, collected):
        closed = [upload["key"] for upload in self.uploads if not upload["open_uploads"]]
        return [*super().unproved(collected), *(f"no upload of {key} was open while a request of it was held" for key in closed)]


class AzureLarge(Large, Azure):
    moments = ("containing comp=blocklist", "containing comp=block&")


KINDS = {
    "local": Local, "webhook": Webhook, "nested": WebhookNested, "kafka": KafkaExactlyOnce, "kafka-idempotent": KafkaIdempotent, "s3": S3, "gcs": Gcs, "azure": Azure,
    "s3-large": S3Large, "azure-large": AzureLarge,
}
