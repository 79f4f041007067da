"""Why: one table of faults: what is done to the server, to the destination or to what lies between them, and what proves that it was done. Never judges what came of it."""

import os
import random
import shutil
import signal
import time

from checker import RECORDS_AROUND_A_FAULT
from driver import End, Life
from kinds import SINK
from server import Server, reason_of

from datasink.v1 import push_pb2

# From SIGTERM to the exit, whatever clients do.
SHUTDOWN_SECONDS_MAX = 30
# How long a request of the wanted sort, or a failpoint, may let a fault wait.
MOMENT_SECONDS_MAX = 60
# Replies that one `cut` fault loses, each of a request chosen by the seed.
CUTS = 5
# What a rival must get acknowledged before it is thrown out in turn.
RIVAL_RECORDS = 500
# The steps of a unit's life, as src/delivery/failpoint.rs names them.
FAILPOINTS = ("received", "encoded", "sent", "committed", "noted", "ack-queued", "ack-sent")
SERVER_GONE, TARGET_GONE = "no acks are possible: the server is gone", "no acks are possible: the destination is gone"


class Fault:
    """`inject(run, event)` returns what proves that the fault happened, None if nothing does. It draws whatever it chooses through `event.draw`, always the same draws in the same order, so
    that a seed is a plan."""

    def __init__(self, what, inject, during, hurts_target=False, hurts_server=False, **needs):
        self.what, self.inject, self.during = what, inject, during
        self.hurts_target, self.hurts_server = hurts_target, hurts_server
        # Attributes that a kind must have: proxied, fences, moments.
        self.needs = needs

    def applies(self, target):
        return (target.can_be_hurt or not self.hurts_target) and all(bool(getattr(target, name)) for name in self.needs)


def until(so, seconds_max):
    """Waits until it is so; says False where it is not in time."""
    deadline = time.monotonic() + seconds_max
    while not so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


# ---- the server ----


def sessions_break(run, lives):
    """A server that is killed ends its calls, and none of them with OK."""
    for sender, life in lives:
        run.verdict.unless(life.done.wait(20), "I9", f"{sender.ledger.stream}: the call did not end in 20 s after the server was killed")
        run.verdict.unless(life.error is not None, "I9", f"{sender.ledger.stream}: a killed server ended the stream with OK")


def kill_server(run, event):
    lives = run.lives()
    status = run.server.kill()
    sessions_break(run, lives)
    run.server.start()
    return {"exit_status": status, "back_after_seconds": run.server.start_seconds[-1]} if status == -signal.SIGKILL else None


def kill_at(run, event):
    """Each event takes the next point."""
    point = FAILPOINTS[(run.args.seed + event.number) % len(FAILPOINTS)]
    event.plan["failpoint"] = point
    armed = os.path.join(run.server.failpoints, point)
    lives = run.lives()
    with open(armed, "w", encoding="ascii"):
        pass
    status = run.server.wait_dead(MOMENT_SECONDS_MAX)
    os.remove(armed)
    if status is None:
        run.verdict.fault("I10", f"the failpoint {point} was not reached in {MOMENT_SECONDS_MAX} s: is the server built with --features failpoints?")
        return None
    sessions_break(run, lives)
    run.server.start()
    return {"exit_status": status, "failpoint": point} if status == -signal.SIGABRT else None


def drain(run, event):
    lives = run.lives()
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
    return {"exit_status": status, "left_after_seconds": seconds}


def takeover(run, event):
    """The rival owns the ledger while the stream's own client is held back: it opens where the server says, which is never below an ack. Then the first one takes the stream back."""
    proof = {}
    for sender in run.hurt:
        stream, first, epoch = sender.ledger.stream, sender.life, sender.ledger.epochs[-1]
        sender.held.set()
        rng = random.Random(f"{run.args.seed}/rival/{event.number}")
        rival = Life(run.server.pusher, sender.ledger, SINK, (1, min(200, run.target.batch_max)), rng, sender.rate, client_id="rival", takeover=True,
                     outstanding=run.target.outstanding)
        opened = rival.opened.wait(30)
        wanted = getattr(rival, "start", 0) + RIVAL_RECORDS
        wrote = opened and until(lambda: sender.ledger.acked >= wanted or rival.done.is_set(), MOMENT_SECONDS_MAX)
        sender.held.clear()
        for name, life in (("whoever was taken over", first), ("the rival", rival)):
            life.done.wait(30)
            fenced = life.error is not None and reason_of(life.error) == "STREAM_FENCED"
            run.verdict.unless(fenced, "I6", f"{stream}: {name} ended with {End(life)}, not STREAM_FENCED")
        if not (wrote and rival.epoch > epoch):
            return None
        proof[stream] = {"first_epoch": epoch, "rival_epoch": rival.epoch, "rival_from": rival.start, "acked_by_then": sender.ledger.acked}
    return proof


def zombie(run, event):
    first, seconds_awake = run.server, 4
    os.kill(first.process.pid, signal.SIGSTOP)
    data = os.path.join(run.folder, f"heir-{event.number}")
    shutil.copytree(os.path.join(first.folder, "data"), os.path.join(data, "data"))
    heir = Server(data, *run.server_arguments).start()
    run.servers.append(heir)
    run.server = run.samples.server = heir
    epochs = {}
    for sender in run.senders:
        sender.server, life = heir, sender.life
        if sender.sink == SINK:
            sender.options = run.target.heir_options
        epochs[sender.ledger.stream] = sender.ledger.epochs[-1]
        life.abandon()
    run.wait_for_more(RECORDS_AROUND_A_FAULT, "from the heir")
    os.kill(first.process.pid, signal.SIGCONT)
    time.sleep(seconds_awake)
    status = first.kill()
    heirs = {sender.ledger.stream: sender.ledger.epochs[-1] for sender in run.senders}
    woke = status == -signal.SIGKILL and all(heirs[stream] > epoch for stream, epoch in epochs.items())
    return {"zombie_epochs": epochs, "heir_epochs": heirs, "awake_seconds": seconds_awake} if woke else None


# ---- the destination, for a while ----


def outage(begin, end, seconds, moved):
    """A destination that is gone, or bad, for so many seconds (least, most); `moved` tells the proof from what `begin` and `end` say."""

    def inject(run, event):
        lasts = event.draw("seconds", *seconds)
        begun = begin(run)
        time.sleep(lasts)
        ended = end(run)
        return {"begun": begun, "ended": ended, "seconds": round(lasts, 2)} if moved(begun, ended) else None

    return inject


def to_target(verb):
    return lambda run: run.target.do(verb)


def to_proxy(*lines):
    """The proxy's counts before it is told."""

    def tell(run):
        counts = run.target.proxy.counts()
        for line in lines:
            run.target.proxy.say(line)
        return counts

    return tell


# ---- one request ----


def moment(run, event, command):
    """Tells the proxy to `command` (lose-reply, catch) a request that the seed chose among those whose outcome matters, and waits until it has."""
    proxy, points = run.target.proxy, run.target.moments
    point = points[event.moments % len(points)]
    event.moments += 1
    counter = {"lose-reply": "replies_lost", "catch": "caught"}[command]
    before = proxy.counts()[counter]
    proxy.say(f"{command} {event.draw('nth', 1, run.target.moment_nth_max, whole=True)} {point}")
    if until(lambda: proxy.counts()[counter] > before, MOMENT_SECONDS_MAX):
        return point
    proxy.say("disarm")
    run.verdict.fault("I10", f"no request like `{point}` came within {MOMENT_SECONDS_MAX} s")
    return None


def cut(run, event):
    lost = [moment(run, event, "lose-reply") for _ in range(CUTS)]
    return {"replies_lost": lost} if all(lost) else None


def caught(deed):
    """Does the deed while a request is on its way: it has left the server, and not a byte of it has reached the destination. What the destination holds of it by then is noted."""

    def inject(run, event):
        # Points take turns over the events of a run, and so do the ways of a deed.
        event.moments = event.number
        passes, pause = event.draw("passes", 0, 1, whole=True), event.draw("pause", 0, 0.01)
        point = moment(run, event, "catch")
        if not point:
            return None
        halfway = run.target.halfway(run.target.proxy.say("caught")["caught"])
        answered = run.target.proxy.counts()["answered"]
        proof = deed(run, event, lambda: run.target.proxy.say("release"), point, passes, pause)
        run.target.proxy.say("release")
        return proof and {"request": point, "halfway": halfway, "answered": run.target.proxy.counts()["answered"] - answered, **proof}

    return inject


def caught_kill_server(run, event, release, _, passes, pause):
    """The server dies with the request held, or just after it passed."""
    if passes:
        release()
        time.sleep(pause)
    return kill_server(run, event)


def caught_late(run, event, release, *_):
    """The server dies, its heir goes on and cuts otherwise, and only then the dead one's request arrives: it can pass for nothing that the heir wrote."""
    for sender in run.hurt:
        sender.options = None if sender.options else run.target.heir_options
    proof = kill_server(run, event)
    run.wait_for_more(RIVAL_RECORDS, "before the late request was let go")
    answered = run.target.proxy.counts()["answered"]
    release()
    served = until(lambda: run.target.proxy.counts()["answered"] > answered, MOMENT_SECONDS_MAX)
    run.verdict.unless(served, "I10", f"the destination did not answer the late request within {MOMENT_SECONDS_MAX} s, so it may never have come")
    return proof


def caught_kill_target(run, event, release, _, passes, pause):
    """The destination dies with the request held, or with it in hand."""
    away = event.draw("seconds", 1, 5)
    if passes:
        release()
        time.sleep(pause)
    killed = run.target.do("kill")
    release()
    time.sleep(away)
    back = run.target.do("start")
    return {"killed": killed, "back": back} if killed != back else None


def caught_hang(run, event, release, *_):
    """The destination is stopped, the request lies before it, and is served late."""
    stuck = event.draw("seconds", 5, 15)
    paused = run.target.do("pause")
    release()
    time.sleep(stuck)
    run.target.do("resume")
    return {"paused": paused, "seconds": round(stuck, 2)}


def caught_cut(run, event, *_):
    """The connection breaks, and the request never arrives."""
    before = run.target.proxy.counts()["cut"]
    run.target.proxy.say("cut")
    return {"cut": run.target.proxy.counts()["cut"] - before}


def grew(*names):
    return lambda before, after: any(after[name] > before[name] for name in names)


def other(before, after):
    return before != after


FLOWING = "acks flow"
HURT, MOMENT = {"hurts_target": True}, {"proxied": True, "moments": True}
FAULTS = {
    "kill-server": Fault("kill -9 of the server; it comes back on the same data", kill_server, SERVER_GONE, hurts_server=True),
    "kill-at": Fault("the server ends at a named step of a unit's life, each event at the next one", kill_at, SERVER_GONE, hurts_server=True),
    "drain": Fault("SIGTERM: streams end with a notice and without an error, and the server leaves in time", drain, SERVER_GONE, hurts_server=True),
    "takeover": Fault("a second client takes each stream over at full speed, and is thrown out in turn by the first", takeover, f"{FLOWING}: to whoever holds the stream"),
    "zombie": Fault("the server is stopped in the middle of its work, a second one takes its streams over from a copy of its data, and then the first wakes up", zombie,
                    f"{FLOWING}: from the heir", hurts_server=True, fences=True),
    "kill-target": Fault("kill -9 of the destination; it comes back on the same data", outage(to_target("kill"), to_target("start"), (1, 10), other), TARGET_GONE, **HURT),
    "hang": Fault("SIGSTOP of the destination, then SIGCONT: what was asked before is done late", outage(to_target("pause"), to_target("resume"), (5, 15), lambda paused, _: bool(paused)),
                  "no acks are possible: the destination does not answer", **HURT),
    "refuse": Fault("nobody listens; the destination left in peace", outage(to_target("stop"), to_target("start"), (1, 10), other), "no acks are possible: connections are refused", **HURT),
    "reset": Fault("connections are reset, in the middle of what they carry", outage(to_proxy("mode refuse"), to_proxy("mode pass"), (1, 10), grew("refused")),
                   "no acks are possible: connections are reset", proxied=True, **HURT),
    "slow": Fault("every piece comes late, and a connection carries no more than 20 kB a second", outage(to_proxy("delay 50", "limit 20000"), to_proxy("delay 0", "limit 0"), (5, 10), grew("up_bytes")),
                  f"{FLOWING}, slowly", proxied=True, **HURT),
    "cut": Fault("requests reach the destination, their replies are lost and the connections cut: nobody here can know what became of them", cut, f"{FLOWING} between the lost replies",
                 hurts_target=True, **MOMENT),
    "caught-kill-server": Fault("kill -9 of the server while such a request is on its way", caught(caught_kill_server), SERVER_GONE, hurts_server=True, **MOMENT),
    "caught-late": Fault("kill -9 of the server while such a request is on its way, which arrives when its heir is at work", caught(caught_late), FLOWING, hurts_server=True, **MOMENT),
    "caught-kill-target": Fault("kill -9 of the destination while such a request is on its way", caught(caught_kill_target), TARGET_GONE, **HURT, **MOMENT),
    "caught-hang": Fault("SIGSTOP of the destination while such a request is on its way", caught(caught_hang), "no acks are possible: the destination does not answer", **HURT, **MOMENT),
    "caught-cut": Fault("the connections are cut while such a request is on its way", caught(caught_cut), FLOWING, **HURT, **MOMENT),
}
