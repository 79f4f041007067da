"""Why: one life of a client: opens a named stream, believes `opened`, pushes until something ends it. Never retries by itself."""

import queue
import threading
import time

import grpc

from datasink.v1 import common_pb2, push_pb2

# Records sent and not yet acknowledged, at most: below the server's own window, so that the driver never rests on flow control.
OUTSTANDING_MAX = 5_000
# How long an honest server may stay silent; heartbeats come far more often.
SILENCE_SECONDS_MAX = 60


class Life:
    """One session. `opened` is set once the server answered; `done` once the call is over; then `error` or `ended` says how."""

    def __init__(self, pusher, ledger, sink, stream, sizes, random, records_per_second=None, options=None):
        self.ledger, self.sizes, self.random, self.rate = ledger, sizes, random, records_per_second
        self.opened, self.done, self.leave = threading.Event(), threading.Event(), threading.Event()
        self.error = self.ended = self.drained = self.fault = None
        self.acked_here = 0
        self._frames = queue.Queue()
        self._progress = threading.Condition()
        # The open frame is queued before the call begins: the server waits for it.
        heartbeat = {"seconds": 1}
        opening = push_pb2.OpenStream(data_sink=sink, stream=stream, client_id="ledger-driver", heartbeat_interval=heartbeat, options=options or {})
        self._frames.put(push_pb2.PushRequest(open=opening))
        self._call = pusher.Push(iter(self._frames.get, None))
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._write, daemon=True).start()

    def wait_acked(self, records, seconds_max=SILENCE_SECONDS_MAX):
        """Waits until this life alone has so many records acknowledged."""
        deadline = time.monotonic() + seconds_max
        with self._progress:
            while self.acked_here < records and not self.done.is_set():
                if not self._progress.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"only {self.acked_here} of {records} records acknowledged in {seconds_max} s")
        if self.acked_here < records:
            raise RuntimeError(f"the stream ended after {self.acked_here} of {records} records: {self.error or self.ended} {self.fault or ''}")

    def finish(self, seconds_max=SILENCE_SECONDS_MAX):
        """Stops sending, commits, and returns the last frame."""
        self.leave.set()
        if not self.done.wait(seconds_max):
            raise TimeoutError("no end after finish")
        if self.fault or self.error or not self.ended:
            raise RuntimeError(f"finish failed: {self.fault or self.error or 'OK without ended'}")
        return self.ended

    def wait_done(self, seconds_max):
        if not self.done.wait(seconds_max):
            raise TimeoutError(f"the call did not end in {seconds_max} s")
        if self.fault:
            raise self.fault

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
            with self._progress:
                self._progress.notify_all()

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
            with self._progress:
                self.acked_here = answer.ack.next_offset - self.start
                self._progress.notify_all()
        elif frame == "drain":
            self.drained = answer.drain
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
            if offset - self.ledger.acked >= OUTSTANDING_MAX or (self.rate and ahead > self.rate * (time.monotonic() - began)):
                time.sleep(0.002)
                continue
            count = self.random.randint(*self.sizes)
            self.ledger.will_send(offset, count)
            self._frames.put(push_pb2.PushRequest(batch=common_pb2.RecordBatch(first_offset=offset, record_count=count, ndjson=self.ledger.ndjson(offset, count))))
            offset += count
        if self.leave.is_set() and not (self.done.is_set() or self.drained):
            self._frames.put(push_pb2.PushRequest(finish=push_pb2.FinishStream(expected_next_offset=offset)))
