#!/usr/bin/env python3
"""Why: a secret handed to every server of a test run must be in nothing that the run leaves behind: no log, no data directory, no output. Never reports clean without having seen itself find.

    canary.py scan FOLDER    looks into every file below FOLDER; fails if a secret is seen, or if no server had one
"""

import base64
import json
import os
import sys
import urllib.parse

# Characters that every encoding treats in its own way; only what a header may carry.
SECRETS = {
    "the credential's secret": 'cAn4ry-"run-one+/=<a&b>%\\bearer',
    "header_value": 'cAn4ry-"run-two+/=<a&b>%\\header',
    "a misplaced secret": 'cAn4ry-"run-three+/=<a&b>%\\stray',
    "signing_secret": "whsec_Y0FuNHJ5IGtleSBvZiB0aGUgd2hvbGUgdGVzdCBydW4h",
    # Of tests/process/canary.rs, whose servers leave their files, too.
    "the Rust tests' secret": 'cAn4ry"one+/=<a&b>%\\bearer',
    "the Rust tests' second secret": 'cAn4ry"two+/=<a&b>%\\bearer',
    "the Rust tests' header_value": 'cAn4ry"three+/=<a&b>%\\header',
}
# Left in a server's folder once it has the secrets.
PLANTED = "canary-planted"


def plant(server, folder):
    """Gives a server the secrets, uses them, and misplaces one; once a data directory."""
    import grpc
    from datasink.v1 import credential_pb2, credential_pb2_grpc, data_sink_pb2

    marker = os.path.join(folder, PLANTED)
    if os.path.exists(marker):
        return
    credentials = credential_pb2_grpc.CredentialServiceStub(server.channel)

    def credential(name, secret, options):
        kind = credential_pb2.CREDENTIAL_TYPE_REST
        request = credential_pb2.CreateCredentialRequest(name=name, type=kind, secret=secret, options=options, if_not_exists=True)
        credentials.CreateCredential(request, timeout=30)

    credential("default.canary", SECRETS["the credential's secret"], {"signing_secret": SECRETS["signing_secret"]})
    credential("default.canary_header", None, {"header_name": "x-canary", "header_value": SECRETS["header_value"]})
    for name in ("canary", "canary_header"):
        # Nothing listens there: what the connection is made with is all that matters.
        server.create_sink(f"default.{name}", "http://127.0.0.1:9/", credential=f"default.{name}", skip_validation="true")
        server.sinks.TestDataSink(data_sink_pb2.TestDataSinkRequest(name=f"default.{name}", write_probe=True), timeout=60)
    try:
        credential("default.canary_stray", None, {"header_valeu": SECRETS["a misplaced secret"]})
        raise AssertionError("an unknown option was taken")
    except grpc.RpcError as refused:
        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT, refused
    with open(marker, "w", encoding="utf-8"):
        pass


def forms(secret):
    """Every way in which a secret may slip out, by name."""
    raw = secret.encode()
    yield "raw", raw
    yield "reversed", raw[::-1]
    yield "hex", raw.hex().encode()
    yield "upper-case hex", raw.hex().upper().encode()
    yield "list of numbers", ", ".join(map(str, raw)).encode()
    yield "compact list of numbers", ",".join(map(str, raw)).encode()
    once = json.dumps(secret)[1:-1]
    yield "JSON", once.encode()
    yield "JSON in JSON", json.dumps(once)[1:-1].encode()
    for kept in ("", "/", "/+=&"):
        quoted = urllib.parse.quote(secret, safe=kept)
        yield f"URL, {kept!r} kept", quoted.encode()
    for before in range(3):
        # The characters that are the same whatever stands before and behind.
        first, last = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
        for name, encode in (("base64", base64.b64encode), ("URL-safe base64", base64.urlsafe_b64encode)):
            yield f"{name} behind {before} bytes", encode(bytes(before) + raw)[first:last]


FORMS = [(canary, name, form) for canary, secret in SECRETS.items() for name, form in forms(secret)]


def look(haystack):
    return sorted({(canary, name) for canary, name, form in FORMS if form in haystack})


def assert_not_blind():
    """Each form made by other code than the finder's own, in the middle of something else."""
    for canary, secret in SECRETS.items():
        raw = secret.encode()
        texts = [
            b"login " + raw + b" refused",
            bytes(reversed(raw)),
            "".join(f"{byte:02x}" for byte in raw).encode(),
            "".join(f"{byte:02X}" for byte in raw).encode(),
            str(list(raw)).encode(),
            json.dumps(list(raw), separators=(",", ":")).encode(),
            json.dumps({"message": f"it said {secret}."}).encode(),
            json.dumps({"body": json.dumps({"message": secret})}).encode(),
            urllib.parse.urlencode({"q": secret}).encode(),
        ]
        for before in range(6):
            for behind in range(4):
                padded = b"u" * before + raw + b"v" * behind
                texts += [base64.b64encode(padded), base64.urlsafe_b64encode(padded)]
        for text in texts:
            assert any(seen == canary for seen, _ in look(text)), f"{canary} is not seen in {text!r}"
        assert not look(raw[:-1]), "all but the last character is not the secret"


def scan(folder):
    assert_not_blind()
    files = size = planted = 0
    sightings = []
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if not os.path.isfile(path) or os.path.islink(path):
                continue
            planted += name == PLANTED
            with open(path, "rb") as file:
                content = file.read()
            files, size = files + 1, size + len(content)
            sightings += [f"{canary} as {form} in {path}" for canary, form in look(content)]
    for sighting in sightings:
        print(f"SEEN: {sighting}")
    print(f"canary: {planted} servers had the secrets; {files} files of {size} bytes looked into, {len(sightings)} sightings")
    return 1 if sightings or not planted else 0


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "scan":
        sys.exit(__doc__)
    sys.exit(scan(sys.argv[2]))
