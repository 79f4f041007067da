"""Why: drives the fault proxy (proxy.rs) from a script, and hands on what it counted, so that a fault can be shown to have happened. Never breaks anything by itself."""

import json
import os
import subprocess


def binary():
    """FAULT_PROXY, or where cargo puts the example."""
    found = os.environ.get("FAULT_PROXY") or os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "debug", "examples", "fault_proxy")
    if not os.access(found, os.X_OK):
        raise RuntimeError(f"{found} is missing: cargo build --example fault_proxy makes it")
    return found


class Proxy:
    def __init__(self, to, listen="127.0.0.1:0"):
        self._process = subprocess.Popen([binary(), "--to", to, "--listen", listen], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.address = json.loads(self._process.stdout.readline())["listening"]

    def say(self, line):
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(f"the fault proxy: {answer['error']}")
        return answer

    def counts(self):
        return self.say("counts")

    def close(self):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()
