#!/usr/bin/env python3
"""Why: shows that every server of this folder works, by a foreign client, and that `with` keeps its word. Never tests Datasink.

Usage: tests/services/with NAME... -- checks.py WHAT     WHAT: kafka kafka-secure s3 s3-tls gcs azure azure-oauth fake-cloud webhook
       checks.py with                                    outside of any `with`
Exit status 0, or 1 with the first thing that is not so.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from control import control
import stores

HERE = Path(__file__).resolve().parent
SECONDS_MAX = 120
SEND_SECONDS_MAX = 40


def tool(*words, text=None):
    return subprocess.run([str(HERE / words[0]), *words[1:]], input=text, text=True, check=True, capture_output=True, timeout=SECONDS_MAX).stdout


def same(found, wanted):
    if found != wanted:
        raise AssertionError(f"{found!r} where {wanted!r} was expected")


def refused(call, *kinds):
    """That a call is refused, with one of these errors; returns the error."""
    try:
        call()
    except kinds or (Exception,) as fault:
        return fault
    raise AssertionError("was let through")


def http_call(verb, url, body=None, **headers):
    """(status, headers, body) of one request; never a redirect, never a proxy."""
    at = urllib.parse.urlsplit(url)
    link = http.client.HTTPConnection(at.netloc, timeout=SECONDS_MAX)
    link.request(verb, f"{at.path}?{at.query}" if at.query else at.path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = link.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


# Kafka


def kafka():
    tool("kafka-topic", "t", "3", "min.insync.replicas=1")
    producer = ["java", "-Xmx128m", "-cp", f"{os.environ['KAFKA_LIB']}/*", "org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", os.environ["KAFKA_BOOTSTRAP"], "--topic", "t"]
    subprocess.run(producer, input="".join(f"row {number}\n" for number in range(100)), text=True, check=True, capture_output=True, timeout=SECONDS_MAX)
    wanted = sorted(f"row {number}" for number in range(100))
    same(sorted(tool("kafka-read", "t", "--max", "100").splitlines()), wanted)
    transactions()
    control("kafka", "restart")
    same(sorted(tool("kafka-read", "t", "--max", "100").splitlines()), wanted)


def transactions():
    """What was aborted is seen by read_uncommitted only."""
    from confluent_kafka import Producer

    tool("kafka-topic", "tx", "1")
    producer = Producer({"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP"], "transactional.id": "checks"})
    producer.init_transactions(SECONDS_MAX)
    for value, end in (("kept", producer.commit_transaction), ("dropped", producer.abort_transaction)):
        producer.begin_transaction()
        producer.produce("tx", value, key="k", headers={"h": "v"})
        producer.flush(SECONDS_MAX)
        end()
    same(tool("kafka-read", "tx", "--print", "partition,offset,key,headers").splitlines(), ["Partition:0\tOffset:0\th:v\tk\tkept"])
    same(tool("kafka-read", "tx", "--isolation", "read_uncommitted", "--max", "2").splitlines(), ["kept", "dropped"])


def kafka_secure():
    from confluent_kafka import Producer

    import tokens

    of = os.environ

    def send(where, topic, reason=None, **settings):
        """None if it was written, else what was told; `reason` ends the wait as soon as it is heard."""
        told, ends = [], []
        settings = {name if name == "oauth_cb" else name.replace("_", "."): value for name, value in settings.items()}
        common = {"bootstrap.servers": of[where], "ssl.ca.location": of["KAFKA_CA"], "log_level": 0, "error_cb": lambda fault: told.append(fault.str())}
        producer = Producer({**common, **settings})
        producer.poll(0)
        producer.produce(topic, b"x", callback=lambda fault, _: ends.append(fault and fault.str()))
        deadline = time.monotonic() + SEND_SECONDS_MAX
        while not ends and not (reason and reason in " ".join(told)) and time.monotonic() < deadline:
            producer.poll(0.1)
        if ends == [None]:
            return None
        producer.purge()
        return " ".join([*told, *filter(None, ends)]) or "nothing heard"

    def sasl(mechanism, user="alice", password=None, protocol="sasl_ssl"):
        return {"security_protocol": protocol, "sasl_mechanisms": mechanism, "sasl_username": user, "sasl_password": password or of[f"KAFKA_{user.upper()}_PASSWORD"]}

    def bearer(user, seconds=3600):
        mint = lambda _: (tokens.kafka_token(Path(of["SERVICES_DIR"]) / "oauth", user, seconds), time.time() + 3600)
        return {"security_protocol": "sasl_ssl", "sasl_mechanisms": "OAUTHBEARER", "oauth_cb": mint}

    def certificate(who):
        return {"security_protocol": "ssl", "ssl_certificate_location": of[f"KAFKA_{who}_CERT"], "ssl_key_location": of[f"KAFKA_{who}_KEY"]}

    for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        same(send("KAFKA_SASL_SSL", "allowed", **sasl(mechanism)), None)
        same(send("KAFKA_SASL_PLAINTEXT", "allowed", **sasl(mechanism, protocol="sasl_plaintext")), None)
    same(send("KAFKA_SASL_SSL", "allowed", **bearer("alice")), None)
    same(send("KAFKA_SSL", "allowed", **certificate("CLIENT")), None)
    same(send("KAFKA_TLS", "open", security_protocol="ssl"), None)
    for where, topic, settings, reason in (
        ("KAFKA_SASL_SSL", "denied", sasl("PLAIN"), "authorization failed"),
        ("KAFKA_SASL_SSL", "allowed", sasl("SCRAM-SHA-512", "bob"), "authorization failed"),
        ("KAFKA_SASL_SSL", "allowed", bearer("bob"), "authorization failed"),
        ("KAFKA_SSL", "allowed", certificate("BOB"), "authorization failed"),
        ("KAFKA_TLS", "allowed", {"security_protocol": "ssl"}, "authorization failed"),
        ("KAFKA_SASL_SSL", "allowed", sasl("PLAIN", password="wrong"), "Invalid username or password"),
        ("KAFKA_SASL_SSL", "allowed", bearer("alice", -100), "invalid_token"),
        ("KAFKA_SSL_WRONG_HOST", "allowed", sasl("PLAIN"), "certificate verify failed"),
        ("KAFKA_SSL", "allowed", certificate("STRANGER"), "alert"),
        ("KAFKA_SSL", "allowed", {"security_protocol": "ssl"}, "alert"),
    ):
        told = send(where, topic, reason, **settings)
        if told is None or reason not in told:
            raise AssertionError(f"{where} {topic}: {told!r} where {reason!r} was expected")


# Object stores


def object_store(name, one=None, unit=None):
    one = one or stores.store(name)
    one.make_bucket("checks")
    one.put("checks", "a/put", b"old")
    one.put("checks", "a/put", b"new")
    one.create("checks", "a/created", b"first")
    refused(lambda: one.create("checks", "a/created", b"second"), stores.Exists)
    wanted = [("a/created", 5), ("a/put", 3)]
    same(one.list("checks", "a/"), wanted)
    # What was acknowledged outlives a kill.
    control(unit or name, "restart")
    same((one.get("checks", "a/put"), one.get("checks", "a/created"), one.list("checks", "a/")), (b"new", b"first", wanted))
    one.delete("checks", "a/put")
    same(one.list("checks"), wanted[:1])
    return one


def s3():
    one = object_store("s3")
    reader = stores.S3(access_key=os.environ["S3_READONLY_ACCESS_KEY"], secret_key=os.environ["S3_READONLY_SECRET_KEY"])
    same(reader.get("checks", "a/created"), b"first")
    same(refused(lambda: reader.put("checks", "no", b"")).response["Error"]["Code"], "AccessDenied")
    same(one.list("checks"), [("a/created", 5)])


def s3_tls():
    import boto3

    of = os.environ
    root = stores.S3(of["S3_TLS_ENDPOINT"], of["S3_TLS_ACCESS_KEY"], of["S3_TLS_SECRET_KEY"], verify=of["S3_CA"])
    object_store("s3", root, "s3-tls")
    refused(lambda: stores.S3(of["S3_TLS_ENDPOINT"], "x", "x").list("checks"))
    sts = boto3.client("sts", endpoint_url=of["S3_STS_ENDPOINT"], verify=of["S3_CA"], region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    token = Path(of["S3_WEB_IDENTITY_TOKEN_FILE"]).read_text()
    made = sts.assume_role_with_web_identity(RoleArn=of["S3_ROLE_ARN"], RoleSessionName="checks", WebIdentityToken=token)["Credentials"]
    session = stores.S3(of["S3_TLS_ENDPOINT"], made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"], verify=of["S3_CA"])
    session.put("checks", "web-identity", b"")
    refused(lambda: sts.assume_role_with_web_identity(RoleArn=of["S3_ROLE_ARN"], RoleSessionName="checks", WebIdentityToken=token[:-4] + "AAAA"))


def gcs():
    object_store("gcs", unit="gcs-json")
    front, body = os.environ["GCS_ENDPOINT"], bytes(range(256)) * 4096 * 5
    same([http_call("PUT", f"{front}/checks/x%2Fone", b"1", x_goog_if_generation_match="0")[0] for _ in range(2)], [200, 412])
    same(http_call("PUT", f"{front}/no-such-bucket/x", b"1")[0], 404)
    same(http_call("GET", f"{front}/checks/x%2Fone")[2], b"1")
    upload = http_call("POST", f"{front}/checks/big?uploads")[2].decode().split("UploadId>")[1][:-2]
    tags = [http_call("PUT", f"{front}/checks/big?partNumber={number}&uploadId={upload}", body)[1]["etag"] for number in (1, 2)]
    # A part outlives the front that took it.
    control("gcs", "restart")
    same(http_call("GET", f"{front}/checks/big")[0], 404)
    parts = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>" for number, tag in enumerate(tags, 1))
    same(http_call("POST", f"{front}/checks/big?uploadId={upload}", f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode())[0], 200)
    same(stores.store("gcs").get("checks", "big"), body * 2)
    same([http_call("PUT", f"{front}/checks/copy", x_goog_copy_source="checks/big", x_goog_if_generation_match="0", content_length="0")[0] for _ in range(2)], [200, 412])
    same(http_call("DELETE", f"{front}/checks/copy")[0], 204)
    listed = http_call("GET", f"{front}/checks?list-type=2&prefix=x/")[2].decode()
    same(listed.count("<Key>"), 1)


def azure():
    object_store("azure")


class Bearer:
    """A token for the Azure client."""

    def __init__(self, token):
        self.token = token

    def get_token(self, *_, **__):
        from azure.core.credentials import AccessToken

        return AccessToken(self.token, int(time.time()) + 3600)


def azure_by(token):
    return stores.Azure(os.environ["AZURE_OAUTH_ENDPOINT"], Bearer(token), connection_verify=os.environ["AZURE_OAUTH_CA"])


def azure_oauth():
    import tokens

    folder = Path(os.environ["SERVICES_DIR"]) / "oauth"
    object_store("azure", azure_by(tokens.azure_token(folder)), "azure-oauth")
    refused(lambda: azure_by(tokens.azure_token(folder, -60)).list("checks"))


# The fake cloud; beside it s3, gcs and azure-oauth, which check what it hands out.


def fake_cloud():
    of, cloud = os.environ, os.environ["FAKE_CLOUD"]
    answer = lambda *words, **headers: json.loads(http_call(*words, **headers)[2])
    one = stores.store("s3")
    one.make_bucket("checks")
    same(http_call("GET", f"{cloud}/latest/meta-data/iam/security-credentials/")[0], 401)
    session = http_call("PUT", f"{cloud}/latest/api/token", x_aws_ec2_metadata_token_ttl_seconds="60")[2].decode()
    role = http_call("GET", f"{cloud}/latest/meta-data/iam/security-credentials/", x_aws_ec2_metadata_token=session)[2].decode()
    by_imds = answer("GET", f"{cloud}/latest/meta-data/iam/security-credentials/{role}", x_aws_ec2_metadata_token=session)
    same(http_call("GET", of["FAKE_CLOUD_AWS_CONTAINER_URI"])[0], 401)
    by_container = answer("GET", of["FAKE_CLOUD_AWS_CONTAINER_URI"], authorization=Path(of["FAKE_CLOUD_AWS_CONTAINER_TOKEN_FILE"]).read_text())
    for key, made in (("imds", by_imds), ("container", by_container)):
        stores.S3(access_key=made["AccessKeyId"], secret_key=made["SecretAccessKey"], session_token=made["Token"]).put("checks", key, b"")
        refused(lambda: stores.S3(access_key=made["AccessKeyId"], secret_key=made["SecretAccessKey"], session_token="other").list("checks"))
    same(len(one.list("checks")), 2)

    azure_by(answer("GET", f"{of['FAKE_CLOUD_AZURE_MSI']}?resource=x", metadata="true", x_identity_header=of["FAKE_CLOUD_AZURE_IDENTITY_HEADER"])["access_token"]).make_bucket("checks")
    login = f"{of['FAKE_CLOUD_AZURE_AUTHORITY']}/{of['FAKE_CLOUD_AZURE_TENANT']}/oauth2/v2.0/token"
    form = lambda **fields: urllib.parse.urlencode({"grant_type": "client_credentials", "client_id": of["FAKE_CLOUD_CLIENT_ID"], **fields}).encode()
    azure_by(answer("POST", login, form(client_secret=of["FAKE_CLOUD_CLIENT_SECRET"]))["access_token"]).list("checks")
    same(http_call("POST", login, form(client_secret="wrong"))[0], 401)
    same(http_call("POST", login, form(client_assertion=Path(of["FAKE_CLOUD_AZURE_FEDERATED_TOKEN_FILE"]).read_text()))[0], 200)

    stores.store("gcs").make_bucket("private-checks")
    put = lambda token: http_call("PUT", f"{of['GCS_ENDPOINT']}/private-checks/x", b"1", authorization=f"Bearer {token}")[0]
    metadata = f"http://{of['FAKE_CLOUD_GCE_HOST']}/computeMetadata/v1/instance/service-accounts/default/token"
    same(http_call("GET", metadata)[0], 403)
    same((put("invented"), put(answer("GET", metadata, metadata_flavor="Google")["access_token"])), (401, 200))
    http_call("GET", f"{cloud}/control?ttl=0")
    same(put(answer("GET", metadata, metadata_flavor="Google")["access_token"]), 401)
    http_call("GET", f"{cloud}/control?fail=1&status=429&ttl=60")
    same([http_call("GET", metadata, metadata_flavor="Google")[0] for _ in range(2)], [429, 200])


def webhook():
    same(http_call("POST", f"{os.environ['WEBHOOK_URL']}/x", b"[1,2]", webhook_id="one")[0], 200)
    control("webhook", "restart")
    same([json.loads(line)["records"] for line in Path(os.environ["WEBHOOK_LEDGER"]).read_text().splitlines()], [2])
    same(http_call("POST", f"{os.environ['WEBHOOK_SIGNED_URL']}/x", b"1", webhook_id="one")[0], 401)


# `with` itself


def living(folder):
    """The processes of a run's servers that are still there, children of a server among them: each server began a session."""
    sessions, found = {file.read_text().strip() for file in Path(folder).glob("*.pid")}, []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (process / "stat").read_text().rsplit(")", 1)[1].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if session in sessions and state != "Z":
            found.append(int(process.name))
    return found


def with_itself():
    run = lambda *words: subprocess.run([HERE / "with", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    same(run("webhook", "--", "bash", "-c", "exit 42").returncode, 42)
    same(run("webhook", "--", "bash", "-c", "kill -9 $$").returncode, 137)
    same(run("webhook", "--", "no-such-command-here").returncode, 127)
    same(run("no-such-service", "--", "true").returncode, 1)
    same(run("webhook", "--", "bash", "-c", "env | grep -q ^DATASINK_").returncode, 1)
    gone = run("webhook", "--", "bash", "-c", "echo $SERVICES_DIR")
    same((gone.returncode, os.path.exists(gone.stdout.strip())), (0, False))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        end_by(number)
    early_end()


def end_by(number):
    """Nothing is left when `with` gets a signal in the middle: neither servers, nor what the command put into the background."""
    with tempfile.TemporaryDirectory() as folder:
        background = "setsid sleep 600 & echo $! >bg; echo $SERVICES_DIR >dir.new; mv dir.new dir; sleep 600"
        process = subprocess.Popen([HERE / "with", "webhook", "s3", "gcs", "azure", "--", "bash", "-c", background], cwd=folder, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        services = Path(wait_for(Path(folder, "dir"), process)).resolve()
        same(len(living(services)), 6)
        process.send_signal(number)
        same(process.wait(60), -number if number == signal.SIGKILL else 128 + number)
        background_pid = int(Path(folder, "bg").read_text())
        if number == signal.SIGKILL:
            # The kernel ends the servers; the command's own children are beyond what can be done then.
            deadline = time.monotonic() + 10
            while living(services) and time.monotonic() < deadline:
                time.sleep(0.05)
            os.kill(background_pid, signal.SIGKILL)
        else:
            refused(lambda: os.kill(background_pid, 0), ProcessLookupError)
        same(living(services), [])


def early_end():
    """Nothing is left either when the signal comes while the servers are still starting."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([HERE / "with", "webhook", "kafka", "--", "true"], env=dict(os.environ, TMPDIR=folder), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(Path(folder), process, lambda: list(Path(folder).glob("*/webhook.pid")))
        process.send_signal(signal.SIGTERM)
        same(process.wait(60), 128 + signal.SIGTERM)
        same([pid for run in Path(folder).iterdir() for pid in living(run)], [])


def wait_for(file, process, done=None):
    deadline = time.monotonic() + SECONDS_MAX
    while not (done() if done else file.exists()):
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"with ended with {process.poll()} before its servers ran")
        time.sleep(0.05)
    return file.read_text().strip() if file.is_file() else None


CHECKS = {"kafka": kafka, "kafka-secure": kafka_secure, "s3": s3, "s3-tls": s3_tls, "gcs": gcs, "azure": azure, "azure-oauth": azure_oauth, "fake-cloud": fake_cloud, "webhook": webhook, "with": with_itself}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in CHECKS:
        sys.exit(__doc__)
    try:
        CHECKS[sys.argv[1]]()
    except subprocess.CalledProcessError as fault:
        sys.exit(f"{fault}\n{fault.stderr}")
