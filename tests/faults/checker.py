"""Why: the promises I1 to I10, judged in one place for every kind and every fault. Never fixes a number to make a run pass: what cannot be judged is said."""

import re
from collections import Counter

# From the end of a fault until acks flow again, at most.
RESUME_SECONDS_MAX = 30
# What a server may hold, debug build and all: the byte budget of all sessions (256 MiB) and as much again for code, runtime and allocator.
RSS_BYTES_MAX = 512 << 20
# Open files and threads beyond those of the idle server, once every stream is finished.
FILES_SLACK, THREADS_SLACK = 24, 24
# The least that must be acknowledged before and after each fault, so that an idle run cannot pass.
RECORDS_AROUND_A_FAULT = 1_000
FAULTS_LISTED_MAX = 8
NAMES = {
    "I1": "nothing acknowledged is lost",
    "I2": "nothing twice where exactly-once was announced",
    "I3": "nothing invented, nothing bent",
    "I4": "order kept",
    "I5": "what is there is a prefix, without holes",
    "I6": "an older epoch writes nothing after a newer one opened",
    "I7": f"acks flow again within {RESUME_SECONDS_MAX} s",
    "I8": "memory, files and threads are bounded",
    "I9": "errors are typed, name the sink, and hold no secret",
    "I10": "the fault happened, with work before and after it",
}


class Verdict:
    """Collects violations by invariant, and what could not be judged with the reason."""

    def __init__(self):
        self.violated = {name: [] for name in NAMES}
        self.unjudged = {}

    def fault(self, name, text):
        self.violated[name].append(text)

    def unless(self, holds, name, text):
        if not holds:
            self.fault(name, text)

    def cannot(self, name, why):
        self.unjudged[name] = why

    def faults(self):
        return [f"{name} ({NAMES[name]}): {text}" for name, texts in self.violated.items() for text in texts]

    def table(self):
        def word(name):
            if self.violated[name]:
                more = len(self.violated[name]) - FAULTS_LISTED_MAX
                return ["VIOLATED", *self.violated[name][:FAULTS_LISTED_MAX], *([f"and {more} more"] if more > 0 else [])]
            return f"not judged: {self.unjudged[name]}" if name in self.unjudged else "held"

        return {name: word(name) for name in NAMES}


def check_records(verdict, ledger, collected, guarantee, end):
    """I1 to I5 over what one stream left at its destination. `end` is where the server's last frame put it, None if there was none."""
    found, where = collected.found, ledger.stream
    for text in collected.faults:
        verdict.fault("I3", f"{where}: {text}")
    counts = Counter(one.seq for one in found)
    bent = [one for one in found if one.fault]
    invented = [seq for seq in counts if not 0 <= seq < ledger.sent]
    missing = [seq for seq in range(ledger.acked) if seq not in counts]
    twice = [seq for seq, count in counts.items() if count > 1]
    present = [seq for seq in counts if seq >= 0]
    top = max(present, default=-1) + 1
    holes = [seq for seq in range(top) if seq not in counts]
    verdict.unless(not bent, "I3", f"{where}: {len(bent)} records are not as sent, the first: seq {bent[0].seq if bent else ''}, {bent[0].fault if bent else ''}")
    verdict.unless(not invented, "I3", f"{where}: {len(invented)} records were never sent, the first is {invented[:1]}")
    verdict.unless(not missing, "I1", f"{where}: {len(missing)} acknowledged records are not there, the first is {missing[:1]}; acked {ledger.acked}, found {len(counts)}")
    if guarantee in ("EXACTLY_ONCE", "IDEMPOTENT"):
        verdict.unless(not twice, "I2", f"{where}: {len(twice)} records are there more than once, the first is {twice[:1]}")
    else:
        verdict.cannot("I2", f"{guarantee} was announced, which allows duplicates; {len(found) - len(counts)} were there")
    verdict.unless(not holes, "I5", f"{where}: {len(holes)} holes below {top}, the first is {holes[:1]}")
    check_order(verdict, where, found)
    if end is None:
        verdict.fault("I7", f"{where}: the stream could not be finished")
    elif guarantee == "EXACTLY_ONCE":
        verdict.unless(end == top, "I5", f"{where}: the stream ended at {end}, the destination at {top}")
    else:
        verdict.unless(end <= top, "I1", f"{where}: the stream ended at {end}, the destination at {top}")


def check_order(verdict, where, found):
    """First occurrences must grow within each place."""
    seen, last = set(), {}
    for one in found:
        if one.seq in seen:
            continue
        seen.add(one.seq)
        before = last.get(one.place, -1)
        if one.seq < before:
            verdict.fault("I4", f"{where}: seq {one.seq} comes after {before}" + (f" in {one.place}" if one.place is not None else ""))
            return
        last[one.place] = one.seq


def check_epochs(verdict, ledger):
    """The client's side of the fence: each session had a higher epoch. Whether an older one still wrote shows in I2, I4 and the kind's own chain."""
    verdict.unless(ledger.epochs == sorted(set(ledger.epochs)), "I6", f"{ledger.stream}: epochs {ledger.epochs}")


def over(events):
    """Those that came to their end; one that did not has broken the run off, which is told by itself."""
    return [event for event in events if "ended" in event]


def check_progress(verdict, ledger, events):
    for event in over(events):
        ack = ledger.first_ack_after(event["ended"])
        wait = None if ack is None else ack - event["ended"]
        event.setdefault("resumed_seconds", {})[ledger.stream] = None if wait is None else round(wait, 2)
        alone = wait is not None and wait <= RESUME_SECONDS_MAX
        verdict.unless(alone or "operator" in event, "I7", f"{ledger.stream}: first ack {wait} s after the end of the fault")


def check_volume(verdict, ledger, events, finished_at):
    """Records acknowledged before each fault (since the one before) and after it."""
    events = over(events)
    edges = [0, *(event["ended"] for event in events)]
    for number, event in enumerate(events):
        before = ledger.acked_between(edges[number], event["began"])
        until = events[number + 1]["began"] if number + 1 < len(events) else finished_at
        after = ledger.acked_between(event["ended"], until)
        event.setdefault("acked", {})[ledger.stream] = {"before": before, "during": ledger.acked_between(event["began"], event["ended"]), "after": after}
        verdict.unless(before >= RECORDS_AROUND_A_FAULT, "I10", f"{ledger.stream}: only {before} records acknowledged before fault {number}")
        verdict.unless(after >= RECORDS_AROUND_A_FAULT, "I10", f"{ledger.stream}: only {after} records acknowledged after fault {number}")


def check_errors(verdict, sender, reasons, server_killed, sink, destination):
    """Whatever ended a session is typed, or the transport's own word where the server was killed or its process left."""
    for end in sender.ends:
        if end.code == "OK" or end.reason is None and server_killed:
            continue
        verdict.unless(end.reason in reasons, "I9", f"{sender.ledger.stream}: ended with {end}, which is no reason of the closed list")
        # What is about the server as a whole (it drains, it is full) names no sink.
        about_the_stream = end.reason is not None and end.reason.startswith(("DESTINATION_", "STREAM_", "RECORD_"))
        verdict.unless(not about_the_stream or any(word in end.text for word in (sink, destination, sender.ledger.stream)), "I9", f"{sender.ledger.stream}: this error names neither sink nor destination nor stream: {end}")
    for _, status in sender.statuses:
        if status.HasField("problem"):
            text = status.problem.message
            verdict.unless(sink in text or destination in text, "I9", f"{sender.ledger.stream}: a destination_status names neither sink nor destination: {text}")


def check_secrets(verdict, texts, secrets):
    for where, text in texts.items():
        for secret in secrets:
            verdict.unless(secret not in text, "I9", f"a secret is in {where}")
        panics = re.findall(r".*panicked at.*", text)
        verdict.unless(not panics, "I9", f"a panic is in {where}: {panics[:1]}")


def check_bounds(verdict, samples):
    if not samples.baseline:
        verdict.cannot("I8", "no sample of the idle server")
        return
    peak, last, idle = samples.peak, samples.last, samples.baseline
    verdict.unless(peak["rss_bytes"] <= RSS_BYTES_MAX, "I8", f"the server held {peak['rss_bytes'] >> 20} MiB, at most {RSS_BYTES_MAX >> 20} are allowed")
    verdict.unless(last["files"] <= idle["files"] + FILES_SLACK, "I8", f"{last['files']} open files at the end, {idle['files']} when idle")
    verdict.unless(last["threads"] <= idle["threads"] + THREADS_SLACK, "I8", f"{last['threads']} threads at the end, {idle['threads']} when idle")
