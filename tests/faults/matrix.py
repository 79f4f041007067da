#!/usr/bin/env python3
"""Why: runs every kind against every fault in bounded time, as many at once as do not hurt each other. Never leaves out a cell unsaid.

    matrix.py [--quick | --long] [--seed S] [KIND...]

--quick  a crash of the server and a lost reply of each kind
--long   every fault that has a meaning for the kind, five times each
         otherwise the faults of DAILY, once each, and crashes of the server more often
The last line is `faults: N passed, N failed`.
"""

import argparse
import concurrent.futures
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "python"))

from fault import FAULTS, applies  # noqa: E402
from kinds import KINDS  # noqa: E402

# Kinds of one lane hurt the same server, or would only wait for each other's disk, so they take turns.
LANES = [["local", "webhook", "nested"], ["kafka", "kafka-idempotent"], ["s3", "gcs", "azure"]]
DAILY = {kind: ["kill-server", "kill-target", "hang", "refuse", "cut", "zombie"] for kind in KINDS}
DAILY["local"] = ["kill-server", "takeover", "drain"]
DAILY["nested"] = ["kill-server", "cut"]
QUICK = ["kill-server", "cut"]
# Crashes of the server are cheap where nothing else has to be started.
KILLS = {"local": 20, "webhook": 10, "nested": 10}
KILLS_OTHERWISE, KILLS_QUICK, LONG_TIMES = 3, 3, 5
# One cell: about twenty seconds a fault, several times that on a machine that builds beside it.
CELL_SECONDS_MAX, CELL_FAULT_SECONDS_MAX = 240, 120


def cells(args):
    """[[(kind, fault, times), ...] of each lane]"""
    def faults(kind):
        wanted = QUICK if args.quick else list(FAULTS) if args.long else DAILY[kind]
        return [fault for fault in wanted if applies(kind, fault)]

    def times(kind, fault):
        kills = KILLS_QUICK if args.quick else KILLS.get(kind, LONG_TIMES if args.long else KILLS_OTHERWISE)
        return kills if fault == "kill-server" else LONG_TIMES if args.long else 1

    chosen = args.kinds or list(KINDS)
    return [[(kind, fault, times(kind, fault)) for kind in lane if kind in chosen for fault in faults(kind)] for lane in LANES]


def run(cell, seed):
    kind, fault, times = cell
    command = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "fault.py"), kind, fault, "--times", str(times)]
    command += ["--seed", str(seed)] if seed is not None else []
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=CELL_SECONDS_MAX + CELL_FAULT_SECONDS_MAX * times, check=False)
        status, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        status, output = None, late.stdout or b""
    print(output.decode(errors="replace").rstrip() + ("" if status is not None else f"\nFAILED: {kind} {fault} did not end in time"), flush=True)
    return status == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=" ".join(KINDS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--seed", type=int)
    args = parser.parse_args()
    unknown = set(args.kinds) - set(KINDS)
    if unknown:
        parser.error(f"no kind {' '.join(unknown)}; there are: {' '.join(KINDS)}")
    lanes = [lane for lane in cells(args) if lane]
    with concurrent.futures.ThreadPoolExecutor(len(lanes)) as pool:
        results = [ok for lane in pool.map(lambda lane: [run(cell, args.seed) for cell in lane], lanes) for ok in lane]
    print(f"faults: {sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
