"""Why: a client that is not ours: pushes a dense sequence over generated stubs, and after any end opens again and goes on exactly from the last ack. Never asks a fault's permission."""

import queue
import random
import threading
import time

import grpc

from datasink.v1 import common_pb2, push_pb2
from server import reason_of

# Records sent and not yet acknowledged, at most: below the server's own window, so that the driver never rests on flow control.
OUTSTANDING_MAX = 5_000
# How long an honest server may stay silent; heartbeats come far more often.
SILENCE_SECONDS_MAX = 60
# Batch sizes of one life; each life takes another row, so that what is sent again is never cut as it was.
SIZES = [(1, 3), (5, 50), (100, 500), (1, 1000), (17, 17)]
# Between two attempts to open; a server may ask for more.
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.1, 5


class Life:
    """One session. `opened` is set once the server answered; `done` once the call is over; then `error` or `ended` says how."""

    def __init__(self, pusher, ledger, sink, sizes, rng, records_per_second=None, options=None, client_id="ledger-driver", takeover=False, outstanding=OUTSTANDING_MAX):
        self.outstanding = outstanding
        self.ledger, self.sizes, self.random, self.rate = ledger, sizes, rng, records_per_second
        self.opened, self.done, self.leave = threading.Event(), threading.Event(), threading.Event()
        self.error = self.ended = self.drained = self.fault = self.delivery = self.basis = None
        # (seconds of the wall clock, DestinationStatus) as the server told them.
        self.statuses = []
        self.artifacts = []
        self._frames = queue.Queue()
        # The open frame is queued before the call begins: the server waits for it.
        heartbeat = {"seconds": 1}
        opening = push_pb2.OpenStream(data_sink=sink, stream=ledger.stream, client_id=client_id, takeover=takeover, heartbeat_interval=heartbeat, options=options or {})
        self._frames.put(push_pb2.PushRequest(open=opening))
        self._call = pusher.Push(iter(self._frames.get, None))
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._write, daemon=True).start()

    def abandon(self):
        """Goes away without a word, as a client does whose process is killed."""
        self._call.cancel()

    def _read(self):
        try:
            for answer in self._call:
                self._take(answer)
        except grpc.RpcError as error:
            self.error = error
        except AssertionError as fault:
            self.fault = fault
            self._call.cancel()
        finally:
            self.done.set()
            self._frames.put(None)

    def _take(self, answer):
        frame = answer.WhichOneof("frame")
        if frame == "opened":
            self.epoch, self.start = answer.opened.epoch, answer.opened.next_offset
            self.delivery, self.basis = answer.opened.delivery, answer.opened.delivery_basis
            self.ledger.opened(self.epoch, self.start)
            self.opened.set()
        elif frame == "ack":
            self.ledger.acknowledged(self.epoch, answer.ack.next_offset)
            counts = answer.ack.counts
            assert counts.delivered_records + counts.rejected_records == answer.ack.next_offset, f"counters do not add up: {counts} at {answer.ack.next_offset}"
        elif frame == "drain":
            self.drained = answer.drain
        elif frame == "destination_status":
            self.statuses.append((time.time(), answer.destination_status))
        elif frame == "ended":
            self.ended = answer.ended
            self.ledger.acknowledged(self.epoch, answer.ended.next_offset)
            self._frames.put(None)
        elif frame == "record_errors":
            raise AssertionError(f"a good record was refused: {answer.record_errors}")

    def _write(self):
        while not self.opened.wait(0.05):
            if self.done.is_set():
                return
        offset, began = self.start, time.monotonic()
        while not (self.done.is_set() or self.leave.is_set() or self.drained):
            ahead = offset - self.start
            if offset - self.ledger.acked >= self.outstanding or (self.rate and ahead > self.rate * (time.monotonic() - began)):
                time.sleep(0.002)
                continue
            count = self.random.randint(*self.sizes)
            self.ledger.will_send(offset, count)
            self._frames.put(push_pb2.PushRequest(batch=common_pb2.RecordBatch(first_offset=offset, record_count=count, ndjson=self.ledger.ndjson(offset, count))))
            offset += count
        if self.leave.is_set() and not (self.done.is_set() or self.drained):
            self._frames.put(push_pb2.PushRequest(finish=push_pb2.FinishStream(expected_next_offset=offset)))


class End:
    """How one life ended, seen by its client."""

    def __init__(self, life):
        self.at, self.reason, self.code, self.text = time.time(), None, "OK", ""
        if life.error is not None:
            self.code, self.reason, self.text = life.error.code().name, reason_of(life.error), life.error.details() or ""
        elif life.ended is not None:
            self.reason = push_pb2.EndReason.Name(life.ended.reason)

    def __str__(self):
        return f"{self.code} {self.reason}: {self.text}"


class Sender(threading.Thread):
    """The client of one stream: it lives until the stream is finished, through any number of sessions."""

    def __init__(self, server, ledger, sink, seed, records_per_second=None, options=None, outstanding=OUTSTANDING_MAX, batch_max=1_000):
        super().__init__(daemon=True)
        self.outstanding, self.batch_max = outstanding, batch_max
        # Set while another client has the stream: no further session is opened.
        self.held = threading.Event()
        self.server, self.ledger, self.sink, self.seed, self.rate, self.options = server, ledger, sink, seed, records_per_second, options
        self.life, self.lives, self.ends, self.statuses, self.fault = None, [], [], [], None
        self.finishing, self.stopping, self.progress = threading.Event(), threading.Event(), threading.Condition()

    def run(self):
        pause = PAUSE_SECONDS
        while not self.stopping.is_set():
            if self.held.is_set():
                time.sleep(0.01)
                continue
            before = self.ledger.acked
            number = len(self.lives)
            try:
                life = self._live(number)
            except (AttributeError, ValueError):
                # No channel: the server is between two lives of its own.
                time.sleep(PAUSE_SECONDS)
                continue
            life.done.wait()
            self.ends.append(End(life))
            self.statuses += life.statuses
            if life.fault:
                self.fault = life.fault
                return
            if life.ended is not None and life.ended.reason == push_pb2.END_REASON_COMMITTED:
                return
            pause = PAUSE_SECONDS if self.ledger.acked > before else min(pause * 2, PAUSE_SECONDS_MAX)
            self.stopping.wait(pause)

    def _live(self, number):
        sizes = [min(size, self.batch_max) for size in SIZES[number % len(SIZES)]]
        life = Life(self.server.pusher, self.ledger, self.sink, sizes, random.Random(f"{self.seed}/{self.ledger.stream}/{number}"), self.rate, self.options,
                    takeover=True, outstanding=self.outstanding)
        if self.finishing.is_set():
            life.leave.set()
        self.life = life
        self.lives.append(life)
        return life

    def wait_acked(self, target, seconds_max):
        """Waits until the stream is acknowledged up to there; says False where it is not in time."""
        deadline = time.monotonic() + seconds_max
        while self.ledger.acked < target:
            if self.fault or not self.is_alive() or time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def finish(self, seconds_max=SILENCE_SECONDS_MAX):
        """Finishes the stream; the last frame, or None if there was none for so long without an ack."""
        self.finishing.set()
        if self.life:
            self.life.leave.set()
        acked, since = self.ledger.acked, time.monotonic()
        while self.is_alive() and time.monotonic() - since < seconds_max:
            self.join(0.1)
            if self.ledger.acked > acked:
                acked, since = self.ledger.acked, time.monotonic()
        return self.life.ended if self.life and not self.is_alive() else None

    def stop(self):
        self.stopping.set()
        if self.life:
            self.life.abandon()
        self.join(10)
