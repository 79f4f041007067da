#!/usr/bin/env python3
"""Why: runs every kind against every fault in bounded time, as many at once as do not hurt each other. Never leaves out a cell unsaid.

    matrix.py [--quick | --long] [--times N] [--fault FAULT]... [--seed S] [KIND...]

--quick  a crash of the server and a lost reply of each kind
--long   every fault that has a meaning for the kind, five times each, which takes hours: choose kinds or faults
         otherwise the faults of DAILY, once each, and crashes of the server more often
--times, --fault  so often instead, and only these
The last line is `faults: N passed, N failed`.
"""

import argparse
import concurrent.futures
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "python"))

from fault import FAULTS, applies  # noqa: E402
from inject import FAILPOINTS  # noqa: E402
from kinds import KINDS  # noqa: E402

# Kinds of one lane hurt the same server, so they take turns; lanes run beside each other, two at a time.
LANES = [["local", "webhook", "nested"], ["kafka", "kafka-idempotent"], ["s3", "gcs", "azure", "s3-large", "azure-large"]]
LANES_AT_ONCE = 2
# About six minutes on two cores. What kinds share (a chain of objects, a webhook, one broker) is hurt at one of them.
DAILY = {
    "local": ["kill-server", "kill-at", "takeover", "drain"],
    "webhook": ["kill-at", "kill-target", "cut", "caught-late"],
    "nested": ["kill-server", "cut"],
    # Not hang: see docs/guarantees.md for what a lone broker does that was away.
    "kafka": ["kill-server", "zombie", "cut", "caught-kill-target", "caught-late"],
    "kafka-idempotent": ["kill-server"],
    "s3": ["kill-server", "zombie", "kill-target", "cut", "caught-late"],
    "gcs": ["kill-server"],
    "azure": ["kill-server"],
    "s3-large": ["caught-kill-server"],
    "azure-large": ["caught-late"],
}
QUICK = ["kill-server", "cut"]
# A crash of the server is cheap where nothing else has to be started; one run of kill-at visits every point, one of s3-large both requests.
KILLS, KILLS_OTHERWISE, LONG_TIMES = {"local": 5, "nested": 5}, 2, 5
DAILY_TIMES = {("s3-large", "caught-kill-server"): 2}
# Behind the first of them the heir's objects are small, so no second request of a large one would come.
ONCE_A_RUN = {("s3-large", "caught-late"), ("azure-large", "caught-late")}
# One cell: about twenty seconds a fault, several times that on a machine that builds beside it.
CELL_SECONDS_MAX, CELL_FAULT_SECONDS_MAX = 240, 120


def cells(args):
    """[[(kind, fault, times), ...] of each lane]"""
    def faults(kind):
        small = not kind.endswith("-large")
        wanted = args.fault or ((QUICK if small else []) if args.quick else list(FAULTS) if args.long else DAILY[kind])
        return [fault for fault in wanted if applies(kind, fault)]

    def times(kind, fault):
        if fault == "kill-at":
            return len(FAILPOINTS) * (args.times or 1)
        if args.times:
            return args.times
        if args.long and (kind, fault) not in ONCE_A_RUN:
            return LONG_TIMES
        return KILLS.get(kind, KILLS_OTHERWISE) if fault == "kill-server" else DAILY_TIMES.get((kind, fault), 1)

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
    parser.add_argument("--times", type=int)
    parser.add_argument("--fault", action="append", choices=FAULTS)
    parser.add_argument("--seed", type=int)
    args = parser.parse_args()
    unknown = set(args.kinds) - set(KINDS)
    if unknown:
        parser.error(f"no kind {' '.join(unknown)}; there are: {' '.join(KINDS)}")
    lanes = [lane for lane in cells(args) if lane]
    with concurrent.futures.ThreadPoolExecutor(LANES_AT_ONCE) as pool:
        results = [ok for lane in pool.map(lambda lane: [run(cell, args.seed) for cell in lane], lanes) for ok in lane]
    print(f"faults: {sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
