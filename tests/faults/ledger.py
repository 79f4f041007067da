"""Why: the driver's own account of what it sent and what was acknowledged, on its own disk. Never asks the server what happened."""

import json
import zlib


def record(run, seq):
    """Record number `seq` of a run: anyone can say what it must be, so nothing can be invented or bent unseen."""
    payload = f"{run}-{seq};" * (1 + seq * 2654435761 % 9)
    return {"seq": seq, "run": run, "crc": crc(run, seq, payload), "payload": payload}


def crc(run, seq, payload):
    return zlib.crc32(f"{run}:{seq}:{payload}".encode())


class Ledger:
    """Write-ahead: `sent` before a batch leaves, `acked` after each ack."""

    def __init__(self, path, run):
        self.run, self.sent, self.acked, self.acks, self.epochs = run, 0, 0, 0, []
        self._file = open(path, "a", buffering=1, encoding="utf-8")

    def will_send(self, first, count):
        self._file.write(json.dumps({"sent": [first, first + count]}) + "\n")
        self.sent = max(self.sent, first + count)

    def acknowledged(self, epoch, next_offset):
        assert next_offset >= self.acked, f"next_offset fell from {self.acked} to {next_offset}"
        assert next_offset <= self.sent, f"an ack for {next_offset}, but only {self.sent} records were ever sent"
        self._file.write(json.dumps({"acked": next_offset, "epoch": epoch}) + "\n")
        self.acked, self.acks = next_offset, self.acks + 1

    def opened(self, epoch, next_offset):
        assert not self.epochs or epoch > self.epochs[-1], f"epoch {epoch} after {self.epochs[-1]}"
        self.epochs.append(epoch)
        self._file.write(json.dumps({"opened": epoch, "next": next_offset}) + "\n")
        assert next_offset >= self.acked, f"opened at {next_offset}, below the ack for {self.acked}"
        assert next_offset <= self.sent, f"opened at {next_offset}, but only {self.sent} records were ever sent"
        self.acked = next_offset

    def close(self):
        self._file.close()

    def ndjson(self, first, count):
        return b"".join(json.dumps(record(self.run, seq), separators=(",", ":")).encode() + b"\n" for seq in range(first, first + count))

    def faults(self, found, next_offset):
        """What is wrong with the records found at the destination, given how far the stream says it is: I1 to I5 of the fault matrix."""
        faults, expected = [], 0
        for place, row in enumerate(found):
            seq = row["seq"]
            if seq != expected:
                word = "twice or out of order" if seq < expected else f"after a hole of {seq - expected}"
                faults.append(f"row {place}: seq {seq} comes {word}, expected {expected}")
            if row != record(self.run, seq):
                faults.append(f"row {place}: seq {seq} is not what was sent: {str(row)[:200]}")
            expected = max(expected, seq + 1)
            if len(faults) >= 10:
                return faults + ["… and perhaps more"]
        if expected < self.acked:
            faults.append(f"{self.acked - expected} acknowledged records are missing at the end: acked {self.acked}, found {expected}")
        if expected > self.sent:
            faults.append(f"{expected - self.sent} records were never sent")
        if expected != next_offset:
            faults.append(f"the stream ended at {next_offset}, the destination at {expected}")
        return faults
