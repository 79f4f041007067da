#!/usr/bin/env python3
"""Why: mints the OAuth tokens of one `with`, signed by its own key, for Kafka (which checks them) and Azurite (which reads them). Never a token of a real issuer.

Inside `with`, with SERVICES_PYTHON:
  tokens.py kafka SUBJECT [--seconds N]   a JWT for OAUTHBEARER at KAFKA_SASL_SSL
  tokens.py azure [--seconds N]           a JWT that Azurite's --oauth basic accepts
"""

import argparse
import base64
import json
import os
import time
import uuid
from pathlib import Path

KAFKA_ISSUER, KAFKA_AUDIENCE, KEY_ID = "https://issuer.datasink.test", "kafka", "datasink-tests"
AZURE_TENANT = "11111111-2222-3333-4444-555555555555"
SECONDS = 3600


def new_key(folder):
    """An RSA key, because that is what every checker knows; the public half as a key set."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    numbers = key.public_key().public_numbers()
    text = lambda number: base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8, "big")).decode().rstrip("=")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    keys = {"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": KEY_ID, "n": text(numbers.n), "e": text(numbers.e)}]}
    # Last: it says that the key is there.
    (folder / "jwks.json").write_text(json.dumps(keys))


def sign(folder, claims, seconds):
    import jwt

    now = int(time.time())
    lasting = {"iat": now, "nbf": now - 5, "exp": now + seconds, "jti": str(uuid.uuid4())}
    return jwt.encode({**lasting, **claims}, (folder / "key.pem").read_text(), algorithm="RS256", headers={"kid": KEY_ID})


def kafka_token(folder, subject, seconds=SECONDS):
    return sign(folder, {"iss": KAFKA_ISSUER, "aud": KAFKA_AUDIENCE, "sub": subject, "scope": "kafka"}, seconds)


def azure_token(folder, seconds=SECONDS):
    """Azurite wants this issuer and audience, and does not check the signature."""
    return sign(folder, {"iss": f"https://sts.windows.net/{AZURE_TENANT}/", "aud": "https://storage.azure.com/", "sub": "tests", "oid": str(uuid.uuid4()), "tid": AZURE_TENANT, "ver": "1.0"}, seconds)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=["kafka", "azure", "new-key"])
    arguments.add_argument("subject", nargs="?", default="alice")
    arguments.add_argument("--seconds", type=int, default=SECONDS)
    arguments.add_argument("--folder", type=Path, default=Path(os.environ.get("SERVICES_DIR", ".")) / "oauth")
    given = arguments.parse_args()
    if given.what == "new-key":
        new_key(given.folder)
    elif given.what == "kafka":
        print(kafka_token(given.folder, given.subject, given.seconds))
    else:
        print(azure_token(given.folder, given.seconds))


if __name__ == "__main__":
    main()
