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
import signal
import subprocess
import sys
import threading
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "python"))

import checker  # noqa: E402
import grpc  # noqa: E402
from checker import RECORDS_AROUND_A_FAULT, Verdict  # noqa: E402
from driver import End, Life, Sender  # noqa: E402
from kinds import KINDS, SINK, create_table  # noqa: E402
from ledger import Ledger  # noqa: E402
from server import Server, reason_of, scratch  # noqa: E402

from datasink.v1 import common_pb2, push_pb2  # noqa: E402

# Sinks may not reach this machine unless the server is told so.
TO_LOOPBACK = ("--set", 'egress_allow=["127.0.0.0/8"]')
# From SIGTERM to the exit, whatever clients do.
SHUTDOWN_SECONDS_MAX = 30
# How long so many records may take before a fault, and after one (which includes RESUME_SECONDS_MAX).
WORK_SECONDS_MAX = 120
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


class Run:
    """One server, one destination, some streams, one sort of fault, several times."""

    def __init__(self, args):
        self.args, self.kind, self.folder = args, args.kind, scratch(f"fault-{args.kind}-{args.fault}")
        self.random = random.Random(args.seed)
        self.verdict, self.events, self.senders, self.figures = Verdict(), [], [], {}
        self.target = KINDS[args.kind](self.folder, args.seed)
        self.server = Server(self.folder, *TO_LOOPBACK)
        self.servers = [self.server]
        self.samples, self.broke_off, self.finished_at = None, False, None
        self.hurts_server = args.fault in ("kill-server", "drain", "zombie")

    # ---- the work ----

    def execute(self):
        fault = FAULTS[self.args.fault]
        self.server.start()
        if fault.proxied:
            from proxy import Proxy

            self.target.proxy = self.target.make_proxy(Proxy)
        self.target.create(self.server)
        self.samples = Samples(self.server)
        self.samples.baseline = self.samples.take()
        self._start_senders(fault)
        for number in range(self.args.times):
            self._work(f"before fault {number}")
            time.sleep(self.random.uniform(0.05, 2.0))
            event = {"began": time.time(), "proof": None}
            self.events.append(event)
            event["proof"] = fault.inject(self, event)
            event.setdefault("ended", time.time())
        self._work("after the last fault")
        self.finished_at = time.time()

    def _start_senders(self, fault):
        for number in range(self.args.streams):
            self._sender(f"ledger-{number}", SINK, self.target.rate)
        if FAULTS[self.args.fault].hurts_target:
            create_table(self.server, BYSTANDER_TABLE)
            self.server.create_sink(BYSTANDER_SINK, f"table://{BYSTANDER_TABLE}")
            self._sender(BYSTANDER, BYSTANDER_SINK, BYSTANDER_RATE)
        for sender in self.senders:
            sender.start()

    def _sender(self, stream, sink, rate):
        ledger = Ledger(os.path.join(self.folder, f"{stream}.ledger.jsonl"), f"r{self.args.seed}", stream)
        self.senders.append(Sender(self.server, ledger, sink, self.args.seed, rate, outstanding=self.target.outstanding))

    @property
    def hurt(self):
        """The senders whose destination is under test."""
        return [sender for sender in self.senders if sender.sink == SINK]

    @property
    def bystander(self):
        return next((sender for sender in self.senders if sender.sink == BYSTANDER_SINK), None)

    def _work(self, when):
        """Every stream gets so many records acknowledged from here on, or the run is over."""
        since = self.events[-1]["ended"] if self.events else 0
        for sender in self.hurt:
            base = max((offset for at, offset in sender.ledger.ack_times if at < since), default=0)
            if not sender.wait_acked(base + RECORDS_AROUND_A_FAULT, WORK_SECONDS_MAX):
                raise RuntimeError(f"{sender.ledger.stream}: {sender.ledger.acked - base} of {RECORDS_AROUND_A_FAULT} records acknowledged {when} "
                                   f"({sender.fault or (sender.ends and sender.ends[-1]) or 'no session has ended'})")

    # ---- the judgement ----

    def judge(self):
        verdict, target = self.verdict, self.target
        ends = {sender.ledger.stream: sender.finish(*([BROKEN_FINISH_SECONDS_MAX] if self.broke_off else [])) for sender in self.senders}
        time.sleep(1)
        self.samples.take()
        self.samples.stop()
        announced = self._announced()
        collected = target.collect(self.server, [sender.ledger for sender in self.hurt])
        for sender in self.hurt:
            ledger, end = sender.ledger, ends[sender.ledger.stream]
            if sender.fault:
                verdict.fault("I7", f"{ledger.stream}: {sender.fault}")
            checker.check_records(verdict, ledger, collected[ledger.stream], announced, end.next_offset if end else None)
            checker.check_epochs(verdict, ledger)
            checker.check_progress(verdict, ledger, self.events)
            checker.check_volume(verdict, ledger, self.events, self.finished_at or time.time())
            checker.check_errors(verdict, sender, REASONS, self.hurts_server, SINK, target.shown())
        self._judge_bystander(ends)
        checker.check_bounds(verdict, self.samples)
        for event in self.events:
            verdict.unless(event["proof"], "I10", f"nothing proves that the fault at {event['began']} happened")
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
            during = ledger.acked_between(event["began"], event["ended"])
            event["bystander_acked_during"] = during
            lasted = event["ended"] - event["began"]
            self.verdict.unless(lasted < 1 or during >= min(RECORDS_AROUND_A_FAULT, BYSTANDER_RATE * lasted / 4), "I7", f"the bystander had only {during} records acknowledged in the {lasted:.1f} s of a fault next door")

    def _proof_of_the_kind(self, collected):
        """Kills that all fell between two requests would prove nothing about the one in flight."""
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


# ---- the faults ----


def sessions_of(run):
    return [(sender, sender.life) for sender in run.senders]


def kill_server(run, event):
    """F1: kill -9 of the server; it comes back on the same data."""
    lives = sessions_of(run)
    status = run.server.kill()
    for sender, life in lives:
        run.verdict.unless(life.done.wait(20), "I9", f"{sender.ledger.stream}: the call did not end in 20 s after the server was killed")
        run.verdict.unless(life.error is not None, "I9", f"{sender.ledger.stream}: a killed server ended the stream with OK")
    run.server.start()
    event["during"] = "no acks are possible: the server is gone"
    return {"exit_status": status, "back_after_seconds": run.server.start_seconds[-1]} if status == -9 else None


def drain(run, event):
    """F18: SIGTERM. Streams end with a notice and without an error, and the server leaves in time."""
    lives = sessions_of(run)
    status, seconds = run.server.terminate(SHUTDOWN_SECONDS_MAX)
    run.verdict.unless(status == 0, "I9", f"SIGTERM: exit status {status} after {seconds} s")
    for sender, life in lives:
        life.done.wait(5)
        stream = sender.ledger.stream
        run.verdict.unless(life.error is None, "I9", f"{stream}: a draining server ended the stream with {life.error and life.error.code().name}: {life.error and life.error.details()}")
        run.verdict.unless(life.drained, "I9", f"{stream}: no drain notice before the end")
        resumable = life.ended is not None and life.ended.reason == push_pb2.END_REASON_DRAINED and life.ended.resumable
        run.verdict.unless(resumable, "I9", f"{stream}: the last frame is not ended(DRAINED, resumable): {life.ended}")
    run.server.start()
    event["during"] = "no acks are possible: the server is gone"
    return {"exit_status": status, "left_after_seconds": seconds}


def kill_target(run, event):
    """F2: kill -9 of the destination; it comes back after 1 to 10 s on the same data."""
    away = run.random.uniform(1, 10)
    killed = run.target.do("kill")
    time.sleep(away)
    back = run.target.do("start")
    event["during"] = "no acks are possible: the destination is gone"
    return {"killed": killed, "back": back, "away_seconds": round(away, 2)} if killed != back else None


def hang(run, event):
    """F3: SIGSTOP for 5 to 15 s, then SIGCONT: what was asked before is done late."""
    stuck = run.random.uniform(5, 15)
    paused = run.target.do("pause")
    before = [sender.ledger.acked for sender in run.hurt]
    time.sleep(stuck)
    moved = sum(sender.ledger.acked for sender in run.hurt) - sum(before)
    run.target.do("resume")
    event["during"] = f"no acks are possible: the destination does not answer ({moved} records were acknowledged from what was answered before)"
    return {"paused": paused, "seconds": round(stuck, 2)}


def refuse(run, event):
    """F4: nobody listens for 1 to 10 s; the destination left in peace."""
    away = run.random.uniform(1, 10)
    stopped = run.target.do("stop")
    time.sleep(away)
    back = run.target.do("start")
    event["during"] = "no acks are possible: connections are refused"
    return {"stopped": stopped, "back": back, "away_seconds": round(away, 2)} if stopped != back else None


def reset(run, event):
    """F4: connections are accepted and reset for 1 to 10 s, those that are open first."""
    away, before = run.random.uniform(1, 10), run.target.proxy.counts()
    run.target.proxy.say("mode refuse")
    time.sleep(away)
    run.target.proxy.say("mode pass")
    after = run.target.proxy.counts()
    event["during"] = "no acks are possible: connections are reset"
    done = {name: after[name] - before[name] for name in ("refused", "cut")}
    return {**done, "away_seconds": round(away, 2)} if done["refused"] else None


# Replies that one `cut` fault loses, each of a request chosen by the seed.
CUTS = 5


def cut(run, event):
    """F6: a request reaches the destination, its reply is lost and the connection cut: nobody here can know what became of it."""
    proxy, before = run.target.proxy, run.target.proxy.counts()["replies_lost"]
    for number in range(CUTS):
        point = run.target.cut_points[number % len(run.target.cut_points)]
        proxy.say(f"lose-reply {run.random.randint(1, 10)} {point}")
        deadline = time.monotonic() + 30
        while proxy.counts()["replies_lost"] <= before + number:
            if time.monotonic() > deadline:
                proxy.say("disarm")
                run.verdict.fault("I10", f"no request like `{point}` lost its reply within 30 s")
                return None
            time.sleep(0.02)
    event["during"] = "acks flow between the lost replies"
    return {"replies_lost": proxy.counts()["replies_lost"] - before}


def takeover(run, event):
    """F17: a second client takes each stream over at full speed, is thrown out in turn by the first, and both are checked by the one ledger of the stream."""
    rivals = []
    for sender in run.hurt:
        before = len(sender.ledger.epochs)
        first = sender.life
        # The rival owns the ledger from here on: it opens where the server says, which is never below an ack.
        rival = Life(run.server.pusher, sender.ledger, SINK, (1, 200), random.Random(f"{run.args.seed}/rival/{before}"), sender.rate, client_id="rival", takeover=True, outstanding=run.target.outstanding)
        rivals.append((sender, first, rival))
    proof = {}
    for sender, first, rival in rivals:
        stream = sender.ledger.stream
        rival.opened.wait(20)
        first.done.wait(20)
        rival.done.wait(20)
        fenced = first.error is not None and reason_of(first.error) == "STREAM_FENCED"
        run.verdict.unless(fenced, "I6", f"{stream}: whoever was taken over ended with {End(first)}, not STREAM_FENCED")
        proof[stream] = {"rival_epoch": getattr(rival, "epoch", None), "first_ended": first.error and first.error.code().name, "rival_ended": rival.error and rival.error.code().name}
    event["during"] = "acks flow: to whoever holds the stream"
    return proof


def zombie(run, event):
    """F17, F19: the server is stopped in the middle of its work, a second one takes its streams over from a copy of its data, and then the first one wakes up and finds its commits fenced."""
    first, seconds_awake = run.server, 4
    os.kill(first.process.pid, signal.SIGSTOP)
    data = os.path.join(run.folder, f"heir-{len(run.events)}")
    shutil.copytree(os.path.join(first.folder, "data"), os.path.join(data, "data"))
    heir = Server(data, *TO_LOOPBACK).start()
    run.servers.append(heir)
    run.server = run.samples.server = heir
    epochs = {}
    for sender in run.senders:
        sender.server, life = heir, sender.life
        epochs[sender.ledger.stream] = sender.ledger.epochs[-1]
        life.abandon()
    marks = {sender: sender.ledger.acked for sender in run.hurt}
    for sender, mark in marks.items():
        if not sender.wait_acked(mark + RECORDS_AROUND_A_FAULT, WORK_SECONDS_MAX):
            raise RuntimeError(f"{sender.ledger.stream}: the heir got only {sender.ledger.acked - mark} records acknowledged")
    os.kill(first.process.pid, signal.SIGCONT)
    time.sleep(seconds_awake)
    status = first.kill()
    event["during"] = "acks flow: from the heir"
    heirs = {sender.ledger.stream: sender.ledger.epochs[-1] for sender in run.senders}
    woke = status == -9 and all(heirs[stream] > epoch for stream, epoch in epochs.items())
    return {"zombie_epochs": epochs, "heir_epochs": heirs, "awake_seconds": seconds_awake} if woke else None


class Fault:
    def __init__(self, inject, hurts_target=True, proxied=False, needs_fence=False):
        self.inject, self.hurts_target, self.proxied, self.needs_fence = inject, hurts_target, proxied, needs_fence


FAULTS = {
    "kill-server": Fault(kill_server, hurts_target=False),
    "takeover": Fault(takeover, hurts_target=False),
    "drain": Fault(drain, hurts_target=False),
    "zombie": Fault(zombie, hurts_target=False, needs_fence=True),
    "kill-target": Fault(kill_target),
    "hang": Fault(hang),
    "refuse": Fault(refuse),
    "reset": Fault(reset, proxied=True),
    "cut": Fault(cut, proxied=True),
}


def commit():
    done = subprocess.run(["git", "-C", os.path.dirname(os.path.abspath(__file__)), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def applies(kind, fault):
    target = KINDS[kind]
    of = FAULTS[fault]
    return (target.can_be_hurt or not of.hurts_target) and (target.proxied or not of.proxied) and (target.fences or not of.needs_fence)


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
        "kind": args.kind, "fault": args.fault, "what": FAULTS[args.fault].inject.__doc__, "seed": args.seed, "commit": commit(), "times": args.times,
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
