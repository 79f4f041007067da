"""Why: ports for servers that must get the same one back after a restart, so never of the range that outgoing connections are given. Prints so many, one a line."""

import random
import socket
import sys

FIRST, LAST = 15_000, 32_000


def free_ports(count):
    """The sockets are held until all are chosen, so that no two are the same."""
    held = []
    while len(held) < count:
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", random.randint(FIRST, LAST)))
        except OSError:
            continue
        held.append(one)
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


if __name__ == "__main__":
    print(*free_ports(int(sys.argv[1])), sep="\n")
