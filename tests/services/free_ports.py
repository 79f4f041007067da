"""Why: ports for servers that must get the same one back after a restart, so never of the range that outgoing connections are given. Never gives one out twice: recipes choose side by side.

free_ports.py COUNT RUN prints so many, one a line, and notes them in RUN/ports. What other runs beside RUN have noted is left alone, too.
"""

import fcntl
import os
import random
import socket
import sys
from pathlib import Path

FIRST, LAST = 15_000, 32_000


def free_ports(count, run):
    """A port may be free only because its server is not up yet, hence the notes; nobody else of this folder chooses meanwhile."""
    folder = os.open(run.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        taken = {port for notes in run.parent.glob("datasink-services-*/ports") for port in noted(notes)}
        chosen = []
        while len(chosen) < count:
            port = random.randint(FIRST, LAST)
            if port not in taken and is_free(port):
                taken.add(port)
                chosen.append(port)
        with open(run / "ports", "a") as notes:
            notes.writelines(f"{port}\n" for port in chosen)
        return chosen
    finally:
        os.close(folder)


def noted(notes):
    try:
        return [int(line) for line in notes.read_text().split()]
    except FileNotFoundError:
        return []  # that run has just ended


def is_free(port):
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


if __name__ == "__main__":
    print(*free_ports(int(sys.argv[1]), Path(sys.argv[2])), sep="\n")
