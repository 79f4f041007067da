#!/usr/bin/env python3
"""Why: proves that clients who never read cannot keep the server from leaving, nor from taking others' records. Never waits longer than the server promises.

    deaf.py [--seed N]

Needs DATASINK_SERVER (the binary) and the generated stubs on PYTHONPATH; `tests/run faults` gives both. Exit status 0 if every check held.
"""

import argparse
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "python"))

import grpc  # noqa: E402
from fault import SHUTDOWN_SECONDS_MAX, TO_LOOPBACK, commit  # noqa: E402
from kinds import SINK, TABLE, Webhook, create_table  # noqa: E402
from ledger import Ledger  # noqa: E402
from server import Server, scratch  # noqa: E402

from datasink.v1 import common_pb2, push_pb2, push_pb2_grpc  # noqa: E402


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


def run(folder, seed):
    """One client whose records settle, one whose destination never answers and whose window is full; then SIGTERM."""
    receiver = Webhook(folder, seed)
    server = Server(folder, *TO_LOOPBACK)
    ledger = Ledger(os.path.join(folder, "ledger.jsonl"), f"r{seed}", "deaf")
    clients = []
    try:
        server.start()
        create_table(server)
        server.create_sink(SINK, f"table://{TABLE}")
        receiver.create(server, name="default.stuck_sink")
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
        receiver.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    seed = parser.parse_args().seed
    folder = scratch("fault-deaf")
    print(f"deaf: seed {seed}, in {folder}", flush=True)
    try:
        faults, figures = run(folder, seed)
    except (AssertionError, RuntimeError, TimeoutError, grpc.RpcError) as fault:
        faults, figures = [f"{type(fault).__name__}: {fault}"], {}
    result = {"run": "deaf", "seed": seed, "commit": commit(), "violations": faults, "figures": figures}
    with open(os.path.join(folder, "result.json"), "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
    for fault in faults:
        print(f"  VIOLATED {fault}", flush=True)
    print(f"{'FAILED' if faults else 'ok'}: deaf, {json.dumps(figures)}", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
