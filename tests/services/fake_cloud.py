#!/usr/bin/env python3
"""Why: stands for the clouds' metadata, token and STS services, so that managed credentials can be tested end to end. Never a store itself: what it hands out is real where a real server runs beside it.

Usage: fake_cloud.py --port P --run RUN [--tls-port Q --certificate PEM --key PEM] (started by `with fake-cloud`)

  AWS     PUT /latest/api/token, GET /latest/meta-data/iam/security-credentials/[ROLE]      IMDSv2 only; MinIO STS credentials if `s3` runs beside
          GET /container/credentials                                                        with the authorization of RUN/fake-cloud/container-token
  Azure   GET /metadata/identity/oauth2/token   (Metadata: true; X-IDENTITY-HEADER if sent) JWTs that Azurite accepts
          POST /TENANT/oauth2/v2.0/token        client secret, or a client assertion of our own key
  GCE     GET /computeMetadata/v1/instance/service-accounts/default/{token,email}           tokens that the front of `gcs` accepts for buckets private-*
  OAuth   POST /oauth/token                     client credentials: a JWT for `kafka-secure`, its subject the client id
          GET /.well-known/openid-configuration, /jwks

Controls, for the credentials that follow:
  GET /control?ttl=SECONDS            how long they are said to live; tokens and JWTs truly live so long, MinIO's credentials at least 900 s
  GET /control?fail=N&status=S        answer the next N requests for one with status S
  GET /control?delay=SECONDS          wait before every answer
  GET /control?reset=1                none of these any more
  GET /stats                          {"aws-imds": n, "aws-container": n, "azure-msi": n, "azure-ad": n, "gce": n, "oauth": n, "failed": n}
"""

import argparse
import base64
import json
import secrets
import ssl
import sys
import threading
import time
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import tokens

ROLE = "datasink-tests"
STS_SECONDS_MIN = 900
BODY_BYTES_MAX = 1 << 20


class Refusal(Exception):
    def __init__(self, status, body):
        super().__init__(str(body))
        self.status, self.body = status, body


class Cloud:
    """What both listeners share."""

    def __init__(self, run, address):
        self.run, self.address, self.folder = run, address, run / "fake-cloud"
        self.lock = threading.Lock()
        self.counts = dict.fromkeys(["aws-imds", "aws-container", "azure-msi", "azure-ad", "gce", "oauth", "failed"], 0)
        self.session_tokens = set()
        self.secret = (self.folder / "client-secret").read_text().strip()
        self.reset()

    def reset(self):
        self.ttl, self.fail, self.status, self.delay = 3600, 0, 503, 0.0

    def turn(self, query):
        with self.lock:
            if "reset" in query:
                self.reset()
            self.ttl = int(query.get("ttl", self.ttl))
            self.fail = int(query.get("fail", self.fail))
            self.status = int(query.get("status", self.status))
            self.delay = float(query.get("delay", self.delay))

    def count(self, flow):
        """One request for a credential; raises if it is to fail."""
        time.sleep(self.delay)
        with self.lock:
            if self.fail > 0:
                self.fail -= 1
                self.counts["failed"] += 1
                raise Refusal(self.status, {"error": "as told"})
            self.counts[flow] += 1

    def aws(self, flow):
        self.count(flow)
        return {"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": stamp(time.time()), **self.sts(), "Expiration": stamp(time.time() + self.ttl)}

    def sts(self):
        """Credentials that MinIO really checks, or words of the right form where no MinIO runs beside."""
        file = self.run / "s3.env"
        if not file.exists():
            return {"AccessKeyId": "ASIAFAKE", "SecretAccessKey": "fake", "Token": "fake"}
        import boto3

        about = dict(line.split("=", 1) for line in file.read_text().splitlines())
        client = boto3.client("sts", endpoint_url=about["S3_ENDPOINT"], aws_access_key_id=about["S3_ACCESS_KEY"], aws_secret_access_key=about["S3_SECRET_KEY"], region_name="us-east-1")
        made = client.assume_role(RoleArn="arn:aws:iam::000000000000:role/tests", RoleSessionName="tests", DurationSeconds=max(self.ttl, STS_SECONDS_MIN))["Credentials"]
        return {"AccessKeyId": made["AccessKeyId"], "SecretAccessKey": made["SecretAccessKey"], "Token": made["SessionToken"]}

    def azure(self, flow):
        self.count(flow)
        return tokens.azure_token(self.run / "oauth", self.ttl)

    def google(self):
        self.count("gce")
        token = f"ya29.{secrets.token_urlsafe(32)}"
        with self.lock, open(self.run / "gcs-tokens", "a") as file:
            file.write(json.dumps({"token": token, "expires": time.time() + self.ttl}) + "\n")
        return {"access_token": token, "expires_in": self.ttl, "token_type": "Bearer"}

    def kafka(self, subject):
        self.count("oauth")
        return {"access_token": tokens.kafka_token(self.run / "oauth", subject, self.ttl), "expires_in": self.ttl, "token_type": "Bearer"}

    def is_client(self, form, header=""):
        """Our one client, by secret (form or Basic) or by an assertion that our key signed."""
        if header.lower().startswith("basic "):
            name, _, secret = base64.b64decode(header[6:]).decode().partition(":")
            return secrets.compare_digest(secret, self.secret) and bool(name)
        if "client_assertion" in form:
            import jwt

            key = jwt.PyJWKSet.from_json((self.run / "oauth" / "jwks.json").read_text()).keys[0]
            try:
                jwt.decode(form["client_assertion"], key, algorithms=["RS256"], options={"verify_aud": False})
            except jwt.InvalidTokenError:
                return False
            return True
        return secrets.compare_digest(form.get("client_secret", ""), self.secret)


def stamp(seconds):
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    timeout = 60

    def handle_any(self):
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        length = min(int(self.headers.get("content-length") or 0), BODY_BYTES_MAX)
        form = {key: values[-1] for key, values in parse_qs(self.rfile.read(length).decode(errors="replace")).items()}
        try:
            status, body = 200, self.route(self.server.cloud, url.path, query, form)
        except Refusal as refusal:
            status, body = refusal.status, refusal.body
        except Exception as fault:
            print(f"{type(fault).__name__}: {fault}", file=sys.stderr, flush=True)
            status, body = 500, {"error": type(fault).__name__}
        self.answer(status, body)

    do_GET = do_PUT = do_POST = handle_any

    def route(self, cloud, path, query, form):
        if path == "/control":
            return cloud.turn(query) or {"ok": True}
        if path == "/stats":
            return dict(cloud.counts)
        if path.startswith("/latest/"):
            return self.imds(cloud, path)
        if path == "/container/credentials":
            if self.headers.get("authorization") != (cloud.folder / "container-token").read_text().strip():
                raise Refusal(401, {"code": "Unauthorized", "message": "the authorization token does not fit"})
            return cloud.aws("aws-container")
        if path == "/metadata/identity/oauth2/token":
            return self.managed_identity(cloud)
        if path.startswith("/computeMetadata/v1/"):
            return self.gce(cloud, path)
        if path.endswith("/oauth2/v2.0/token") and self.command == "POST":
            self.want_client(cloud, form)
            return {"access_token": cloud.azure("azure-ad"), "expires_in": cloud.ttl, "ext_expires_in": cloud.ttl, "token_type": "Bearer"}
        if path == "/oauth/token" and self.command == "POST":
            self.want_client(cloud, form)
            return cloud.kafka(self.client_id(form))
        if path == "/jwks":
            return json.loads((cloud.run / "oauth" / "jwks.json").read_text())
        if path.endswith("/.well-known/openid-configuration"):
            return {"issuer": tokens.KAFKA_ISSUER, "jwks_uri": f"{cloud.address}/jwks", "token_endpoint": f"{cloud.address}/oauth/token", "authorization_endpoint": f"{cloud.address}/none",
                    "response_types_supported": ["code"], "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256"]}
        raise Refusal(404, {"error": f"nothing here answers {path}"})

    def imds(self, cloud, path):
        if path == "/latest/api/token":
            if self.command != "PUT" or "x-aws-ec2-metadata-token-ttl-seconds" not in self.headers:
                raise Refusal(400, "Bad Request")
            token = secrets.token_urlsafe(32)
            cloud.session_tokens.add(token)
            return token
        if self.headers.get("x-aws-ec2-metadata-token") not in cloud.session_tokens:
            raise Refusal(401, "Unauthorized")
        role = path.removeprefix("/latest/meta-data/iam/security-credentials/")
        if role == "":
            return ROLE
        if role == ROLE:
            return cloud.aws("aws-imds")
        raise Refusal(404, "Not Found")

    def managed_identity(self, cloud):
        if self.headers.get("metadata", "").lower() != "true":
            raise Refusal(400, {"error": "invalid_request", "error_description": "Required metadata header not specified"})
        header = self.headers.get("x-identity-header")
        if header is not None and header != (cloud.folder / "identity-header").read_text().strip():
            raise Refusal(401, {"error": "unauthorized"})
        token = cloud.azure("azure-msi")
        return {"access_token": token, "expires_in": str(cloud.ttl), "expires_on": str(int(time.time()) + cloud.ttl), "resource": "https://storage.azure.com/", "token_type": "Bearer"}

    def gce(self, cloud, path):
        if self.headers.get("metadata-flavor") != "Google":
            raise Refusal(403, "Missing Metadata-Flavor:Google header.")
        what = path.removeprefix("/computeMetadata/v1/instance/service-accounts/default/")
        if what == "token":
            return cloud.google()
        if what == "email":
            return "tests@datasink.test"
        raise Refusal(404, "Not Found")

    def want_client(self, cloud, form):
        if not cloud.is_client(form, self.headers.get("authorization", "")):
            raise Refusal(401, {"error": "invalid_client", "error_description": "the client's secret or assertion does not fit"})

    def client_id(self, form):
        header = self.headers.get("authorization", "")
        return base64.b64decode(header[6:]).decode().partition(":")[0] if header.lower().startswith("basic ") else form.get("client_id", "")

    def answer(self, status, body):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("metadata-flavor", "Google")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, form, *words):
        print(f"{time.time():.3f} {form % words}", file=sys.stderr, flush=True)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--run", type=Path, required=True)
    arguments.add_argument("--tls-port", type=int)
    arguments.add_argument("--certificate")
    arguments.add_argument("--key")
    given = arguments.parse_args()
    cloud = Cloud(given.run, f"http://127.0.0.1:{given.port}")
    server = Server(("127.0.0.1", given.port), Handler)
    server.cloud = cloud
    if given.tls_port:
        secure = Server(("127.0.0.1", given.tls_port), Handler)
        secure.cloud = cloud
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(given.certificate, given.key)
        secure.socket = context.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=secure.serve_forever, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
