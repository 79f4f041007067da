"""Why: lets a fault driver kill, pause and restart a server of the `with` that it runs inside. Never starts a process itself: `with` does, and so can stop it.

control("kafka", "kill")     SIGKILL, and gone when it returns
control("kafka", "stop")     SIGTERM, and gone
control("kafka", "start")    on the same port and the same data, and ready when it returns
control("kafka", "restart")  kill and start
control("kafka", "pause")    SIGSTOP
control("kafka", "resume")   SIGCONT
control("kafka", "pid")      returns its process id, 0 if it does not run
"""

import json
import os
import socket
import sys

VERBS = ("kill", "stop", "start", "restart", "pause", "resume", "pid")
ANSWER_SECONDS_MAX = 150


def control(name, verb):
    """Returns the process id after the deed, 0 if there is none; raises RuntimeError with the reason if it did not work."""
    folder = os.environ.get("SERVICES_DIR")
    if not folder:
        raise RuntimeError("SERVICES_DIR is not set: this works only inside tests/services/with")
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(ANSWER_SECONDS_MAX)
        link.connect(os.path.join(folder, "control.sock"))
        link.sendall(json.dumps({"name": name, "verb": verb}).encode() + b"\n")
        answer = json.loads(link.makefile().readline())
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["pid"]


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in VERBS:
        sys.exit(f"usage: ctl NAME {'|'.join(VERBS)}")
    try:
        print(control(*sys.argv[1:]))
    except (RuntimeError, OSError) as fault:
        sys.exit(f"ctl: {fault}")
