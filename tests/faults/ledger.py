"""Why: the driver's own account of what it sent and what was acknowledged, on its own disk. Never asks the server what happened."""

import json
import time
import zlib


def record(run, stream, seq, scale=1):
    """Record number `seq` of a stream: anyone can say what it must be, so nothing can be invented or bent unseen. Its payload is 30 to 270 bytes, times `scale`."""
    payload = f"{run}-{stream}-{seq};" * (1 + seq * 2654435761 % 9) * scale
    return {"seq": seq, "run": run, "stream": stream, "crc": crc(run, stream, seq, payload), "payload": payload}


def crc(run, stream, seq, payload):
    return zlib.crc32(f"{run}:{stream}:{seq}:{payload}".encode())


class Ledger:
    """Of one stream. Write-ahead: `sent` before a batch leaves, `acked` after each ack, each with its time."""

    def __init__(self, path, run, stream, scale=1):
        self.run, self.stream, self.scale, self.sent, self.acked, self.acks, self.epochs = run, stream, scale, 0, 0, 0, []
        # (seconds of the wall clock, next_offset) of every ack, and (seconds, epoch, next_offset) of every opening.
        self.ack_times, self.openings = [], []
        self._file = open(path, "a", buffering=1, encoding="utf-8")

    def _note(self, **what):
        now = time.time()
        self._file.write(json.dumps({**what, "t": round(now, 4)}) + "\n")
        return now

    def will_send(self, first, count):
        self._note(sent=[first, first + count])
        self.sent = max(self.sent, first + count)

    def acknowledged(self, epoch, next_offset):
        if self.epochs and epoch < self.epochs[-1]:
            # Said before a newer session opened, read after it: it can only repeat what that one was told.
            assert next_offset <= self.sent, f"{self.stream}: a late ack for {next_offset}, but only {self.sent} records were ever sent"
            self._note(late=next_offset, epoch=epoch)
            next_offset = max(next_offset, self.acked)
        assert next_offset >= self.acked, f"{self.stream}: next_offset fell from {self.acked} to {next_offset}"
        assert next_offset <= self.sent, f"{self.stream}: an ack for {next_offset}, but only {self.sent} records were ever sent"
        now = self._note(acked=next_offset, epoch=epoch)
        if next_offset > self.acked:
            self.ack_times.append((now, next_offset))
        self.acked, self.acks = next_offset, self.acks + 1

    def opened(self, epoch, next_offset):
        assert not self.epochs or epoch > self.epochs[-1], f"{self.stream}: epoch {epoch} after {self.epochs[-1]}"
        self.epochs.append(epoch)
        now = self._note(opened=epoch, next=next_offset)
        self.openings.append((now, epoch, next_offset))
        assert next_offset >= self.acked, f"{self.stream}: opened at {next_offset}, below the ack for {self.acked}"
        assert next_offset <= self.sent, f"{self.stream}: opened at {next_offset}, but only {self.sent} records were ever sent"
        # What a server settled without living to say so is as good as acknowledged.
        if next_offset > self.acked:
            self.ack_times.append((now, next_offset))
        self.acked = next_offset

    def acked_between(self, begin, end):
        """Records that were acknowledged in this time."""
        before = max((offset for at, offset in self.ack_times if at < begin), default=0)
        return max(0, max((offset for at, offset in self.ack_times if at <= end), default=0) - before)

    def first_ack_after(self, moment):
        return next((at for at, _ in self.ack_times if at > moment), None)

    def close(self):
        self._file.close()

    def record(self, seq):
        return record(self.run, self.stream, seq, self.scale)

    def ndjson(self, first, count):
        return b"".join(json.dumps(self.record(seq), separators=(",", ":")).encode() + b"\n" for seq in range(first, first + count))
