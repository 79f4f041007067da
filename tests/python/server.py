"""Why: starts and stops the server under test as a stranger would, by its process contract. Never reads its data directory."""

import atexit
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import grpc

import canary
from datasink.v1 import data_sink_pb2, data_sink_pb2_grpc, push_pb2_grpc, schema_pb2_grpc, server_pb2_grpc, table_pb2, table_pb2_grpc
from google.rpc import error_details_pb2, status_pb2

START_SECONDS_MAX = 60
LOOPBACK_CHANNEL = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 64 << 20), ("grpc.initial_reconnect_backoff_ms", 100)]


def scratch(name):
    """A folder for one run; it is kept, because result.json is in it."""
    return tempfile.mkdtemp(prefix=f"datasink-{name}-")


def shielded():
    """The environment of everything that a test starts: no cloud login and no metadata service to be found, and no setting of the server's."""
    home = tempfile.mkdtemp(prefix="datasink-home-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    # The server takes DATASINK_* for settings and refuses those that it does not know, such as our own DATASINK_SERVER.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DATASINK_")}
    return dict(inherited, HOME=home, GCE_METADATA_HOST="127.0.0.1:9", GCE_METADATA_IP="127.0.0.1", AWS_EC2_METADATA_DISABLED="true")


class Server:
    """One server process after another on the same data directory, each on a port of its own."""

    def __init__(self, folder, *extra):
        binary = os.environ.get("DATASINK_SERVER")
        if not binary or not os.access(binary, os.X_OK):
            sys.exit("DATASINK_SERVER must name the datasink binary")
        self.folder = folder
        self.log_path = os.path.join(folder, "server.log")
        data = os.path.join(folder, "data")
        self.command = [binary, "serve", "--listen", "127.0.0.1:0", "--data-dir", data, "--insecure-anonymous-admin", *extra]
        # A file here whose name is a failpoint's ends a server that was built with them (src/delivery/failpoint.rs).
        self.failpoints = os.path.join(folder, "failpoints")
        os.makedirs(self.failpoints, exist_ok=True)
        self.environment = dict(shielded(), FAILPOINTS=self.failpoints)
        self.process = self.channel = self.address = None
        self.start_seconds = []

    def start(self):
        began = time.monotonic()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=self.environment)
        try:
            ready = json.loads(self._first_line(began + START_SECONDS_MAX))
        except Exception:
            self.kill()
            raise
        self.address = ready["listening"]
        self.start_seconds.append(round(time.monotonic() - began, 3))
        self.channel = grpc.insecure_channel(self.address, options=LOOPBACK_CHANNEL)
        canary.plant(self, self.folder)
        return self

    def _first_line(self, deadline):
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0, deadline - time.monotonic())):
                    raise TimeoutError(f"the server printed no line in {START_SECONDS_MAX} s:\n{self.log_tail()}")
                piece = os.read(self.process.stdout.fileno(), 4096)
                if not piece:
                    raise RuntimeError(f"the server ended with {self.process.wait()} before it was ready:\n{self.log_tail()}")
                line += piece
        return line

    def log_tail(self, bytes_max=4000):
        with open(self.log_path, "rb") as log:
            return log.read()[-bytes_max:].decode(errors="replace")

    def kill(self):
        """kill -9; returns the exit status."""
        self.process.send_signal(signal.SIGKILL)
        return self._ended(10)

    def wait_dead(self, seconds_max):
        """The exit status of a server that ends by itself; None if it does not in time."""
        try:
            return self._ended(seconds_max)
        except subprocess.TimeoutExpired:
            return None

    def terminate(self, seconds_max):
        """SIGTERM; returns the exit status and how long it took. A server that stays longer is killed and None is returned for the status."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self._ended(seconds_max)
        except subprocess.TimeoutExpired:
            self.kill()
            status = None
        return status, round(time.monotonic() - began, 2)

    def _ended(self, seconds_max):
        status = self.process.wait(seconds_max)
        self.process.stdout.close()
        if self.channel:
            self.channel.close()
            self.channel = None
        return status

    def stop(self):
        if self.process and self.process.poll() is None:
            self.terminate(35)

    @property
    def sinks(self):
        return data_sink_pb2_grpc.DataSinkServiceStub(self.channel)

    @property
    def pusher(self):
        return push_pb2_grpc.PushServiceStub(self.channel)

    @property
    def schemas(self):
        return schema_pb2_grpc.SchemaServiceStub(self.channel)

    @property
    def tables(self):
        return table_pb2_grpc.TableServiceStub(self.channel)

    @property
    def server(self):
        return server_pb2_grpc.ServerServiceStub(self.channel)

    def create_sink(self, name, destination, **options):
        request = data_sink_pb2.CreateDataSinkRequest(name=name, destination=destination, options=options, if_not_exists=True)
        return self.sinks.CreateDataSink(request, timeout=30)

    def rows(self, table):
        """Every row of a local table, in the order the table gives them."""
        from datasink.v1 import common_pb2

        request = table_pb2.ScanRowsRequest(table=table, encoding=common_pb2.RECORD_ENCODING_NDJSON)
        for answer in self.tables.ScanRows(request, timeout=300):
            for line in answer.batch.ndjson.splitlines():
                if line.strip():
                    yield json.loads(line)


def reason_of(error):
    """The reason of our ErrorInfo in a failed call, or None where a proxy or the transport made the status."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and info.domain == "datasink":
                    return info.reason.removeprefix("ERROR_REASON_")
    return None
