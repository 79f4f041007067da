#!/usr/bin/env python3
"""Why: proves under kill -9, drain and a deaf client that an acknowledged record is there, once, in order. Never trusts the server's own word for it.

    kill_server.py local|webhook|nested|drain|deaf [--seed N] [--kills N]

Needs DATASINK_SERVER (the binary) and the generated stubs on PYTHONPATH; `tests/run faults` gives both.
Prints one line of figures; result.json is in the folder that the first line names. Exit status 0 if every invariant held.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "python"))

import grpc  # noqa: E402
from driver import Life  # noqa: E402
from ledger import Ledger, crc  # noqa: E402
from server import Server, reason_of, scratch, shielded  # noqa: E402

from datasink.v1 import common_pb2, credential_pb2, credential_pb2_grpc, push_pb2, push_pb2_grpc, table_pb2  # noqa: E402

TABLE, SINK, STREAM = "default.ledger", "default.ledger_sink", "ledger"
# Batch sizes of one life; each life takes another row, so that what is sent again is never cut as it was.
SIZES = [(1, 3), (5, 50), (100, 500), (1, 1000), (17, 17)]
# The least that must be acknowledged around each fault, so that an idle run cannot pass.
RECORDS_AROUND_A_FAULT = 1_000
# From SIGTERM to the exit, whatever clients do.
SHUTDOWN_SECONDS_MAX = 30
# Sinks may not reach this machine unless the server is told so.
TO_LOOPBACK = ("--set", 'egress_allow=["127.0.0.0/8"]')
SIGNING_SECRET = "whsec_bGVkZ2VyLWRyaXZlci1zaWduaW5nLXNlY3JldC0wMQ=="


def create_table_and_sink(server):
    types = {"seq": common_pb2.COLUMN_TYPE_INT64, "run": common_pb2.COLUMN_TYPE_STRING, "crc": common_pb2.COLUMN_TYPE_INT64, "payload": common_pb2.COLUMN_TYPE_STRING}
    schema = common_pb2.RecordSchema(columns=[common_pb2.Column(name=name, type=kind) for name, kind in types.items()])
    server.tables.CreateTable(table_pb2.CreateTableRequest(name=TABLE, schema=schema), timeout=30)
    server.create_sink(SINK, f"table://{TABLE}")


class Receiver:
    """The webhook receiver, which is never killed with the server."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "received.jsonl")
        command = [sys.executable, os.path.join(os.path.dirname(__file__), "foreign_receiver.py"), self.path]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=dict(shielded(), WEBHOOK_SECRET=SIGNING_SECRET))
        self.address = json.loads(self.process.stdout.readline())["listening"]
        self.url = f"http://{self.address}/hook"

    def received(self):
        with open(self.path, encoding="utf-8") as ledger:
            return [json.loads(line) for line in ledger if line.strip()]

    def control(self, **knobs):
        """Turns the receiver's knobs for the requests that follow."""
        with urllib.request.urlopen(f"http://{self.address}/control?{urllib.parse.urlencode(knobs)}", timeout=10) as answer:
            answer.read()

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


def create_webhook_sink(server, receiver, name=SINK, **options):
    credentials = credential_pb2_grpc.CredentialServiceStub(server.channel)
    request = credential_pb2.CreateCredentialRequest(
        name="default.ledger_signing", type=credential_pb2.CREDENTIAL_TYPE_REST, options={"signing_secret": SIGNING_SECRET}
    )
    credentials.CreateCredential(request, timeout=30)
    server.create_sink(name, receiver.url, credential="default.ledger_signing", max_batch_size="100", **options)


def interrupted_lives(server, ledger, rng, count, rate, interrupt):
    """Pushes, interrupts, starts again, `count` times; `interrupt` returns the faults it saw."""
    faults, around = [], []
    for number in range(count):
        server.start()
        life = Life(server.pusher, ledger, SINK, STREAM, SIZES[number % len(SIZES)], rng, rate)
        life.wait_acked(RECORDS_AROUND_A_FAULT)
        time.sleep(rng.uniform(0.05, 2.0))
        assert not life.done.is_set(), f"the stream ended before the fault: {life.error or life.ended}"
        before = ledger.acked
        faults += interrupt(server, life)
        around.append({"life": number, "epoch": life.epoch, "acked_here": life.acked_here, "acked": before, "sent": ledger.sent})
    server.start()
    last = Life(server.pusher, ledger, SINK, STREAM, (1, 700), rng, rate)
    last.wait_acked(RECORDS_AROUND_A_FAULT)
    ended = last.finish()
    if ended.reason != push_pb2.END_REASON_COMMITTED:
        faults.append(f"the last frame says {push_pb2.EndReason.Name(ended.reason)}, not COMMITTED")
    return faults, around, ended.next_offset, last


def kill(server, life):
    status = server.kill()
    life.wait_done(20)
    faults = [] if status == -9 else [f"the server ended with {status} and was not killed"]
    if life.error is None:
        faults.append("a killed server ended the stream with OK")
    return faults


def drain(server, life):
    status, seconds = server.terminate(SHUTDOWN_SECONDS_MAX)
    life.wait_done(5)
    faults = [] if status == 0 else [f"SIGTERM: exit status {status} after {seconds} s"]
    if life.error is not None:
        faults.append(f"a draining server ended the stream with {life.error.code().name} {reason_of(life.error)}: {life.error.details()}")
    elif not life.drained:
        faults.append("no drain notice before the end")
    elif life.ended is None or life.ended.reason != push_pb2.END_REASON_DRAINED or not life.ended.resumable:
        faults.append(f"the last frame is not ended(DRAINED, resumable): {life.ended}")
    return faults


def run_local(folder, args, rng, interrupt):
    server = Server(folder)
    ledger = Ledger(os.path.join(folder, "ledger.jsonl"), f"r{args.seed}")
    try:
        server.start()
        create_table_and_sink(server)
        server.terminate(SHUTDOWN_SECONDS_MAX)
        faults, around, end, last = interrupted_lives(server, ledger, rng, args.kills, 8_000, interrupt)
        if last.delivery != common_pb2.DELIVERY_GUARANTEE_EXACTLY_ONCE:
            faults.append(f"a local sink announces {common_pb2.DeliveryGuarantee.Name(last.delivery)}, not EXACTLY_ONCE")
        found = list(server.rows(TABLE))
        faults += ledger.faults(found, end)
        faults += [f"row {place}: crc differs" for place, row in enumerate(found) if row["crc"] != crc(row["run"], row["seq"], row["payload"])][:10]
        return faults, {"found": len(found), "acked": ledger.acked, "sent": ledger.sent, "acks": ledger.acks, "around": around, "start_seconds": server.start_seconds}
    finally:
        ledger.close()
        server.stop()


def body_of(ledger, first, last, nested):
    """What one request must carry."""
    lines = ledger.ndjson(first, last - first + 1).splitlines()
    return b"[" + b",".join(lines) + b"]" if nested else b"\n".join(lines)


def webhook_faults(received, ledger, nested):
    """Every acknowledged record arrived, under one id and with one body, and was signed."""
    faults, ids_of, bodies_of, first_seen = [], {}, {}, []
    for entry in received:
        if entry.get("stream") != STREAM:
            continue
        if entry["signature"] != "ok":
            faults.append(f"request {entry['id']}: the signature is {entry['signature']}")
        if entry["body_sha256"] != hashlib.sha256(body_of(ledger, entry["first"], entry["last"], nested)).hexdigest():
            faults.append(f"request {entry['id']}: the body is not records {entry['first']} to {entry['last']} as they were sent")
        if bodies_of.setdefault(entry["id"], entry["body_sha256"]) != entry["body_sha256"]:
            faults.append(f"request {entry['id']} came again with another body")
        for seq in range(entry["first"], entry["last"] + 1):
            if seq not in ids_of:
                first_seen.append(seq)
            ids_of.setdefault(seq, set()).add(entry["id"])
    faults += [f"seq {seq} came under {len(ids)} ids" for seq, ids in ids_of.items() if len(ids) != 1][:10]
    missing = [seq for seq in range(ledger.acked) if seq not in ids_of]
    if missing:
        faults.append(f"{len(missing)} acknowledged records never arrived, the first is {missing[0]}")
    if first_seen != sorted(first_seen):
        faults.append("first occurrences are out of order")
    if ids_of and max(ids_of) >= ledger.sent:
        faults.append(f"record {max(ids_of)} was never sent")
    return faults[:50], {"found": len(ids_of), "requests": len(received), "repeated_requests": len(received) - len({entry["id"] for entry in received})}


def run_webhook(folder, args, rng, interrupt):
    receiver = Receiver(folder)
    server = Server(folder, *TO_LOOPBACK)
    ledger = Ledger(os.path.join(folder, "ledger.jsonl"), f"r{args.seed}")
    try:
        server.start()
        create_webhook_sink(server, receiver, json_format="nested" if args.run == "nested" else "flat")
        server.terminate(SHUTDOWN_SECONDS_MAX)
        faults, around, end, last = interrupted_lives(server, ledger, rng, args.kills, None, interrupt)
        if last.delivery != common_pb2.DELIVERY_GUARANTEE_IDEMPOTENT:
            faults.append(f"a webhook sink announces {common_pb2.DeliveryGuarantee.Name(last.delivery)}, not IDEMPOTENT")
        more, figures = webhook_faults(receiver.received(), ledger, args.run == "nested")
        if figures["repeated_requests"] == 0:
            faults.append("no request was ever sent twice: no kill fell between a request and its ack, so nothing was proved")
        if end != ledger.acked:
            faults.append(f"the stream ended at {end}, the ledger at {ledger.acked}")
        return faults + more, {**figures, "acked": ledger.acked, "sent": ledger.sent, "acks": ledger.acks, "around": around, "start_seconds": server.start_seconds}
    finally:
        ledger.close()
        server.stop()
        receiver.stop()


class DeafClient:
    """Sends until it is stopped by flow control and never reads; its own windows are so small that the server cannot write either."""

    def __init__(self, server, sink, stream, record):
        self.sent, self.record = 0, record
        options = [("grpc.enable_http_proxy", 0), ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(server.address, options=options)
        self.call = push_pb2_grpc.PushServiceStub(self.channel).Push(self._frames(sink, stream))

    def _frames(self, sink, stream):
        opening = push_pb2.OpenStream(data_sink=sink, stream=stream, client_id="deaf", record_error_policy=push_pb2.RECORD_ERROR_POLICY_SKIP)
        yield push_pb2.PushRequest(open=opening)
        while True:
            lines = b"".join(self.record(seq) for seq in range(self.sent, self.sent + 100))
            yield push_pb2.PushRequest(batch=common_pb2.RecordBatch(first_offset=self.sent, ndjson=lines))
            self.sent += 100

    def wait_blocked(self, seconds_max=60):
        """Waits until nothing more can be sent."""
        deadline, before, since = time.monotonic() + seconds_max, -1, time.monotonic()
        while time.monotonic() < deadline:
            if self.sent != before:
                before, since = self.sent, time.monotonic()
            elif self.sent and time.monotonic() - since >= 3:
                return True
            time.sleep(0.1)
        return False

    def wait_sent(self, records, seconds_max=60):
        deadline = time.monotonic() + seconds_max
        while self.sent < records and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.sent >= records

    def close(self):
        self.call.cancel()
        self.channel.close()


# The server's window for a stream, which a target that never answers must let fill.
WINDOW_RECORDS = 10_000
# Every second record of the deaf client is bad, so that the answers nobody reads are many times its own window.
DEAF_RECORDS_MIN = 20_000


def run_deaf(folder, args, rng, interrupt):
    """Clients that never read must not keep the server from leaving: one whose records settle, one whose target never answers and whose window is full."""
    del interrupt, rng
    receiver = Receiver(folder)
    server = Server(folder, *TO_LOOPBACK)
    ledger = Ledger(os.path.join(folder, "ledger.jsonl"), f"r{args.seed}")
    clients = []
    try:
        server.start()
        create_table_and_sink(server)
        create_webhook_sink(server, receiver, name="default.stuck_sink")
        receiver.control(delay=600)
        settling = DeafClient(server, SINK, "deaf", lambda seq: ledger.ndjson(seq, 1) if seq % 2 else b'{"seq":"none"}\n')
        stuck = DeafClient(server, "default.stuck_sink", "stuck", lambda seq: ledger.ndjson(seq, 1))
        clients = [settling, stuck]
        faults = [] if settling.wait_sent(DEAF_RECORDS_MIN) else [f"the settling stream took only {settling.sent} records"]
        if not stuck.wait_blocked() or stuck.sent < WINDOW_RECORDS:
            faults.append(f"the stuck stream's window is not full: {stuck.sent} records sent")
        live = server.pusher.ShowPushStream(push_pb2.ShowPushStreamRequest(only_live=True), timeout=10).streams
        if len(live) != 2:
            faults.append(f"{len(live)} streams are live before SIGTERM, not 2")
        before = [client.sent for client in clients]
        status, seconds = server.terminate(SHUTDOWN_SECONDS_MAX + 5)
        if status != 0 or seconds > SHUTDOWN_SECONDS_MAX:
            faults.append(f"SIGTERM with deaf clients: exit status {status} after {seconds} s, at most {SHUTDOWN_SECONDS_MAX} allowed")
        return faults, {"exit_seconds": seconds, "exit_status": status, "sent_settling": before[0], "sent_stuck": before[1]}
    finally:
        for client in clients:
            client.close()
        ledger.close()
        server.stop()
        receiver.stop()


RUNS = {"local": (run_local, kill), "webhook": (run_webhook, kill), "nested": (run_webhook, kill), "drain": (run_local, drain), "deaf": (run_deaf, None)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--kills", type=int, default=20)
    args = parser.parse_args()
    folder = scratch(f"fault-{args.run}")
    print(f"{args.run}: seed {args.seed}, in {folder}", flush=True)
    began = time.monotonic()
    run, interrupt = RUNS[args.run]
    try:
        faults, figures = run(folder, args, random.Random(args.seed), interrupt)
    except (AssertionError, RuntimeError, TimeoutError, grpc.RpcError) as fault:
        faults, figures = [f"{type(fault).__name__}: {fault}"], {}
    result = {"run": args.run, "seed": args.seed, "faults_injected": 1 if args.run == "deaf" else args.kills, "seconds": round(time.monotonic() - began, 1), "violations": faults, **figures}
    with open(os.path.join(folder, "result.json"), "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
    for fault in faults:
        print(f"  VIOLATED: {fault}", flush=True)
    short = {key: value for key, value in result.items() if key not in ("violations", "around", "start_seconds")}
    print(f"{'FAILED' if faults else 'ok'}: {json.dumps(short)}", flush=True)
    if faults:
        print(f"  again with: tests/run faults, or kill_server.py {args.run} --seed {args.seed} --kills {args.kills}; logs and data stay in {folder}")
    else:
        shutil.rmtree(os.path.join(folder, "data"), ignore_errors=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
