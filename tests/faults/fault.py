#!/usr/bin/env python3
"""Why: hurts the server or a destination while streams run, and judges what is left by the driver's own ledger and foreign readers. Never trusts the server's own word for it.

    fault.py KIND FAULT [--times N] [--seed S] [--streams N]

Needs DATASINK_SERVER (the binary) and the generated stubs on PYTHONPATH, and for kinds with a real server `tests/services/with`; `tests/run faults` gives all of them.
Prints one line of figures; result.json is in the folder that the first line names. Exit status 0 if every invariant held. `fault.py --list` says what there is.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "python"))

import checker  # noqa: E402
import grpc  # noqa: E402
from checker import RECORDS_AROUND_A_FAULT, Verdict  # noqa: E402
from driver import Sender  # noqa: E402
from inject import FAULTS, SHUTDOWN_SECONDS_MAX  # noqa: E402, F401
from kinds import KINDS, SINK, Target, create_table  # noqa: E402
from ledger import Ledger  # noqa: E402
from server import Server, scratch  # noqa: E402

from datasink.v1 import common_pb2  # noqa: E402

# Sinks may not reach this machine unless the server is told so.
TO_LOOPBACK = ("--set", 'egress_allow=["127.0.0.0/8"]')
# How long so many records may take before a fault, and after one (which includes RESUME_SECONDS_MAX).
WORK_SECONDS_MAX = 120
# When a destination that asks for an operator gets one: later than a stream may take to go on by itself.
OPERATOR_SECONDS = 65
# A stream that goes to a table of the server, beside the ones that are hurt: acks must go on there.
BYSTANDER, BYSTANDER_TABLE, BYSTANDER_SINK, BYSTANDER_RATE = "bystander", "default.bystander", "default.bystander_sink", 1_500
SAMPLE_SECONDS = 0.1
# How long the streams of a run that broke off may take to finish: what they left is judged all the same.
BROKEN_FINISH_SECONDS_MAX = 5
REASONS = {name.removeprefix("ERROR_REASON_") for name in common_pb2.ErrorReason.keys()} - {"UNSPECIFIED"}


class Samples:
    """Memory, files and threads of the server process, ten times a second."""

    def __init__(self, server):
        self.server, self.baseline, self.peak, self.last = server, None, {"rss_bytes": 0, "files": 0, "threads": 0}, None
        self._stop = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def take(self):
        pid = self.server.process.pid
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            fields = dict(line.split(":", 1) for line in status if ":" in line)
        one = {"rss_bytes": int(fields["VmRSS"].split()[0]) << 10, "files": len(os.listdir(f"/proc/{pid}/fd")), "threads": int(fields["Threads"])}
        self.peak = {name: max(value, self.peak[name]) for name, value in one.items()}
        self.last = one
        return one

    def _run(self):
        while not self._stop.wait(SAMPLE_SECONDS):
            try:
                self.take()
            except (OSError, KeyError, AttributeError):
                pass  # between two lives of the server

    def stop(self):
        self._stop.set()


class Event(dict):
    """One fault of a run: what result.json tells of it. What it chooses is drawn here, from a generator of its own: the same seed is the same plan, however long anything took."""

    def __init__(self, seed, number):
        self.number, self.moments, self._random = number, 0, random.Random(f"{seed}/{number}")
        super().__init__(plan={}, proof=None)

    @property
    def plan(self):
        return self["plan"]

    def draw(self, name, low, high, whole=False):
        value = self._random.randint(low, high) if whole else round(self._random.uniform(low, high), 3)
        # A name that is drawn again has a list.
        self.plan[name] = [*self.plan[name], value] if isinstance(self.plan.get(name), list) else [self.plan[name], value] if name in self.plan else value
        return value


class Run:
    """One server, one destination, some streams, one sort of fault, several times."""

    def __init__(self, args):
        self.args, self.fault, self.folder = args, FAULTS[args.fault], scratch(f"fault-{args.kind}-{args.fault}")
        self.verdict, self.events, self.senders, self.figures = Verdict(), [], [], {}
        self.target = KINDS[args.kind](self.folder, args.seed)
        self.server_arguments = TO_LOOPBACK
        self.server = Server(self.folder, *self.server_arguments)
        self.servers = [self.server]
        self.samples, self.broke_off, self.finished_at = None, False, None

    # ---- the work ----

    def execute(self):
        self.server.start()
        if "proxied" in self.fault.needs:
            from proxy import Proxy

            self.target.proxy = self.target.make_proxy(Proxy)
        self.target.create(self.server)
        self.samples = Samples(self.server)
        self.samples.baseline = self.samples.take()
        self._start_senders()
        for number in range(self.args.times):
            self._work(f"before fault {number}")
            event = Event(self.args.seed, number)
            time.sleep(event.draw("after_seconds", 0.05, 2.0))
            event.update(began=time.time(), during=self.fault.during)
            self.events.append(event)
            event["proof"] = self.fault.inject(self, event)
            event["ended"] = time.time()
        self._work("after the last fault")
        self.finished_at = time.time()

    def _start_senders(self):
        for number in range(self.args.streams):
            self._sender(f"ledger-{number}", SINK, self.target.rate)
        if self.fault.hurts_target:
            create_table(self.server, BYSTANDER_TABLE)
            self.server.create_sink(BYSTANDER_SINK, f"table://{BYSTANDER_TABLE}")
            self._sender(BYSTANDER, BYSTANDER_SINK, BYSTANDER_RATE)
        for sender in self.senders:
            sender.start()

    def _sender(self, stream, sink, rate):
        target = self.target if sink == SINK else Target
        ledger = Ledger(os.path.join(self.folder, f"{stream}.ledger.jsonl"), f"r{self.args.seed}", stream, target.payload_scale)
        self.senders.append(Sender(self.server, ledger, sink, self.args.seed, rate, outstanding=target.outstanding, batch_max=target.batch_max))

    @property
    def hurt(self):
        """The senders whose destination is under test."""
        return [sender for sender in self.senders if sender.sink == SINK]

    def lives(self):
        """The session that each sender has now."""
        return [(sender, sender.life) for sender in self.senders]

    def wait_for_more(self, records, why):
        """Every stream under test gets so many more records acknowledged, or the run is over."""
        wanted = [(sender, sender.ledger.acked + records) for sender in self.hurt]
        for sender, mark in wanted:
            if not sender.wait_acked(mark, WORK_SECONDS_MAX):
                raise RuntimeError(f"{sender.ledger.stream}: acknowledged up to {sender.ledger.acked}, {mark} was wanted {why}")

    @property
    def bystander(self):
        return next((sender for sender in self.senders if sender.sink == BYSTANDER_SINK), None)

    def _work(self, when):
        """Every stream gets so many records acknowledged from here on, or the run is over."""
        since = self.events[-1]["ended"] if self.events else 0
        for sender in self.hurt:
            base = max((offset for at, offset in sender.ledger.ack_times if at < since), default=0)
            wanted = base + RECORDS_AROUND_A_FAULT
            if sender.wait_acked(wanted, OPERATOR_SECONDS):
                continue
            # The limit begins anew only where an operator had something to do.
            if not sender.wait_acked(wanted, WORK_SECONDS_MAX - (0 if self._operate() else OPERATOR_SECONDS)):
                raise RuntimeError(f"{sender.ledger.stream}: {sender.ledger.acked - base} of {RECORDS_AROUND_A_FAULT} records acknowledged {when} "
                                   f"({sender.fault or (sender.ends and sender.ends[-1]) or 'no session has ended'})")

    def _operate(self):
        """Does what an operator is told to, where the destination's own log says that it needs one, and tells whether there was something to do. I7 is without an operator, so of this fault it
        is not asked; everything else is."""
        line = self.target.confession()
        did = self.target.operate() if line else []
        if did:
            self.events[-1]["operator"] = {"why": line, "did": did}
            print(f"  OPERATOR: the destination's own log says: {line}; done: {did}", flush=True)
        return bool(did)

    # ---- the judgement ----

    def judge(self):
        verdict, target = self.verdict, self.target
        ends = {sender.ledger.stream: sender.finish(*([BROKEN_FINISH_SECONDS_MAX] if self.broke_off else [])) for sender in self.senders}
        time.sleep(1)
        self.samples.take()
        self.samples.stop()
        announced = self._announced()
        ledgers = [sender.ledger for sender in self.hurt]
        collected = target.collect(self.server, ledgers)
        if any(len(collected[ledger.stream].found) < ledger.acked for ledger in ledgers) and self._operate():
            # The streams went on, and readers stood still all the same.
            collected = target.collect(self.server, ledgers)
        for sender in self.hurt:
            ledger, end = sender.ledger, ends[sender.ledger.stream]
            if sender.fault:
                verdict.fault("I7", f"{ledger.stream}: {sender.fault}")
            checker.check_records(verdict, ledger, collected[ledger.stream], announced, end.next_offset if end else None)
            checker.check_epochs(verdict, ledger)
            checker.check_progress(verdict, ledger, self.events)
            checker.check_volume(verdict, ledger, self.events, self.finished_at or time.time())
            checker.check_errors(verdict, sender, REASONS, self.fault.hurts_server, SINK, target.shown())
        self._judge_bystander(ends)
        checker.check_bounds(verdict, self.samples)
        for event in self.events:
            verdict.unless(event["proof"], "I10", f"nothing proves that fault {event.number} happened")
        self._proof_of_the_kind(collected)
        texts = {f"the log {server.log_path}": server.log_tail(64 << 20) for server in self.servers}
        texts.update({f"an error of {sender.ledger.stream}": str(end) for sender in self.senders for end in sender.ends})
        checker.check_secrets(verdict, texts, target.secrets)
        self._figures(collected, announced)

    def _announced(self):
        words = {common_pb2.DeliveryGuarantee.Name(life.delivery).removeprefix("DELIVERY_GUARANTEE_") for sender in self.hurt for life in sender.lives if life.delivery is not None}
        self.verdict.unless(words == {self.target.guarantee}, "I2", f"the server announces {sorted(words)}, not {self.target.guarantee}")
        return self.target.guarantee

    def _judge_bystander(self, ends):
        """Another sink's stream of the same server: it loses nothing, and goes on while its neighbour's destination is hurt."""
        if not self.bystander:
            return
        ledger, end = self.bystander.ledger, ends[BYSTANDER]
        rows = list(self.server.rows(BYSTANDER_TABLE))
        self.verdict.unless(rows == [ledger.record(seq) for seq in range(len(rows))], "I5", f"the bystander's {len(rows)} rows are not its first {len(rows)} records")
        self.verdict.unless(end is not None and end.next_offset == len(rows), "I1", f"the bystander has {len(rows)} rows, its stream ended at {end and end.next_offset}")
        for event in self.events:
            if "ended" not in event:
                continue
            during = ledger.acked_between(event["began"], event["ended"])
            event["bystander_acked_during"] = during
            lasted = event["ended"] - event["began"]
            self.verdict.unless(lasted < 1 or during >= min(RECORDS_AROUND_A_FAULT, BYSTANDER_RATE * lasted / 4), "I7", f"the bystander had only {during} records acknowledged in the {lasted:.1f} s of a fault next door")

    def _proof_of_the_kind(self, collected):
        """Kills that all fell between two requests would prove nothing about the one in flight."""
        for text in self.target.unproved(collected):
            self.verdict.fault("I10", text)
        repeated = [one.figures["repeated_requests"] for one in collected.values() if "repeated_requests" in one.figures]
        if repeated and self.args.fault in ("kill-server", "cut") and self.args.times >= 3:
            self.verdict.unless(sum(repeated) > 0, "I10", "no request was ever sent twice: no fault fell between a request and its ack, so nothing was proved")

    def _figures(self, collected, announced):
        self.figures = {
            "guarantee": announced,
            "basis": next((life.basis for sender in self.hurt for life in sender.lives if life.basis), ""),
            "sessions": sum(len(sender.lives) for sender in self.hurt),
            "acked": sum(sender.ledger.acked for sender in self.hurt),
            "acks": sum(sender.ledger.acks for sender in self.hurt),
            "sent": sum(sender.ledger.sent for sender in self.hurt),
            "found": sum(len(one.found) for one in collected.values()),
            "destination_statuses": sum(len(sender.statuses) for sender in self.hurt),
            "server_starts_seconds": self.server.start_seconds,
            "peak": self.samples.peak,
            "idle": self.samples.baseline,
            "end": self.samples.last,
        }
        for one in collected.values():
            for name, value in one.figures.items():
                self.figures[name] = self.figures.get(name, 0) + value
        self.figures["ends"] = [f"{sender.ledger.stream}: {end}" for sender in self.hurt for end in sender.ends if end.code != "OK"][:20]

    def close(self):
        for sender in self.senders:
            sender.stop()
            sender.ledger.close()
        if self.samples:
            self.samples.stop()
        self.server.stop()
        for server in self.servers:
            if server.process and server.process.poll() is None:
                server.kill()
        if self.target.proxy:
            self.target.proxy.close()
        self.target.close()


def commit():
    done = subprocess.run(["git", "-C", os.path.dirname(os.path.abspath(__file__)), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def applies(kind, fault):
    return FAULTS[fault].applies(KINDS[kind])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=KINDS, nargs="?")
    parser.add_argument("fault", choices=FAULTS, nargs="?")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--times", "--kills", type=int, default=1)
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{kind} {fault}" for kind in KINDS for fault in FAULTS if applies(kind, fault)))
        sys.exit(0)
    if not (args.kind and args.fault):
        parser.error("KIND and FAULT are needed; --list says what there is")
    if not applies(args.kind, args.fault):
        parser.error(f"{args.fault} has no meaning for {args.kind}; --list says what there is")
    return args


def main():
    args = arguments()
    began = time.monotonic()
    run = Run(args)
    print(f"{args.kind} {args.fault}: seed {args.seed}, in {run.folder}", flush=True)
    try:
        for step in (run.execute, run.judge):
            try:
                step()
            except (AssertionError, RuntimeError, TimeoutError, OSError, ValueError, AttributeError, subprocess.SubprocessError, grpc.RpcError) as fault:
                run.broke_off = True
                run.verdict.fault("I7", f"{step.__name__} broke off: {type(fault).__name__}: {fault}")
                with open(os.path.join(run.folder, "broke-off.txt"), "a", encoding="utf-8") as file:
                    traceback.print_exc(file=file)
    finally:
        run.close()
    faults = run.verdict.faults()
    again = f"tests/faults/again {args.kind} {args.fault} --seed {args.seed} --times {args.times} --streams {args.streams}"
    result = {
        "kind": args.kind, "fault": args.fault, "what": run.fault.what, "seed": args.seed, "commit": commit(), "times": args.times,
        "seconds": round(time.monotonic() - began, 1), "events": run.events, "invariants": run.verdict.table(), "figures": run.figures, "violations": faults, "again": again,
    }
    with open(os.path.join(run.folder, "result.json"), "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
    for fault in faults[:20]:
        print(f"  VIOLATED {fault}", flush=True)
    short = {name: run.figures.get(name) for name in ("guarantee", "sessions", "acked", "acks", "sent", "found", "repeated_requests") if name in run.figures}
    resumed = [wait for event in run.events for wait in event.get("resumed_seconds", {}).values() if wait is not None]
    print(f"{'FAILED' if faults else 'ok'}: {args.kind} {args.fault} x{args.times} in {result['seconds']} s, slowest resume {max(resumed, default=None)} s, {json.dumps(short)}", flush=True)
    if faults:
        print(f"  again with: {again}\n  logs and data stay in {run.folder}")
    else:
        shutil.rmtree(os.path.join(run.folder, "data"), ignore_errors=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
