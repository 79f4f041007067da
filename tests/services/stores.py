"""Why: reads and writes the three object stores by the vendors' own clients, so that what Datasink wrote is judged by strangers. Never retries: a test wants the first answer.

In Python, with the interpreter SERVICES_PYTHON:  store("s3").get("bucket", "key")
On a command line:  stores.py s3|gcs|azure make-bucket B | open B (s3) | put B K FILE | put-many B PREFIX FILE COUNT (four at a time; says the seconds) | create B K FILE | get B K | list B [PREFIX] | delete B K | uploads B | encryption B K (s3)
"""

import os
import sys


class Exists(Exception):
    """A create was refused because the object is there."""


class S3:
    """MinIO by boto3; or, with `secure`, the server of `with s3-tls`."""

    def __init__(self, endpoint=None, access_key=None, secret_key=None, session_token=None, verify=None):
        import boto3
        import botocore.config

        settings = botocore.config.Config(retries={"max_attempts": 0}, s3={"addressing_style": "path"}, proxies={})
        self.client = boto3.client(
            "s3", endpoint_url=endpoint or os.environ["S3_ENDPOINT"], aws_access_key_id=access_key or os.environ["S3_ACCESS_KEY"],
            aws_secret_access_key=secret_key or os.environ["S3_SECRET_KEY"], aws_session_token=session_token, region_name="us-east-1", config=settings, verify=verify)

    def make_bucket(self, bucket):
        self.client.create_bucket(Bucket=bucket)

    def open_to_all(self, bucket):
        """Lets anybody write, read, list and delete, without a credential: for whoever signs nothing."""
        import json

        def rule(resource, *actions):
            return {"Effect": "Allow", "Principal": "*", "Action": list(actions), "Resource": f"arn:aws:s3:::{resource}"}

        rules = [rule(bucket, "s3:ListBucket"), rule(f"{bucket}/*", "s3:PutObject", "s3:GetObject", "s3:DeleteObject")]
        self.client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": rules}))

    def put(self, bucket, key, body):
        self.client.put_object(Bucket=bucket, Key=key, Body=body)

    def create(self, bucket, key, body):
        import botocore.exceptions

        try:
            self.client.put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*")
        except botocore.exceptions.ClientError as fault:
            if fault.response["ResponseMetadata"]["HTTPStatusCode"] == 412:
                raise Exists(key) from fault
            raise

    def get(self, bucket, key):
        return self.client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def list(self, bucket, prefix=""):
        """(key, bytes) of every object, in the order of their keys."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [(item["Key"], item["Size"]) for page in pages for item in page.get("Contents", [])]

    def delete(self, bucket, key):
        self.client.delete_object(Bucket=bucket, Key=key)

    def encryption(self, bucket, key):
        """How the store says that it encrypts an object, and its key there."""
        told = self.client.head_object(Bucket=bucket, Key=key)
        return told.get("ServerSideEncryption", "none"), told.get("SSEKMSKeyId", "")

    def uploads(self, bucket, prefix=""):
        """Keys of multipart uploads that were begun and neither completed nor aborted. MinIO lists them only by the whole key as prefix."""
        return [item["Key"] for item in self.client.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", [])]


class Gcs:
    """fake-gcs-server itself, not the front, by google-cloud-storage."""

    def __init__(self, endpoint=None):
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        self.client = storage.Client(project="tests", credentials=AnonymousCredentials(), client_options={"api_endpoint": endpoint or os.environ["GCS_JSON_ENDPOINT"]})

    def make_bucket(self, bucket):
        self.client.create_bucket(bucket)

    def _blob(self, bucket, key):
        return self.client.bucket(bucket).blob(key)

    def put(self, bucket, key, body):
        self._blob(bucket, key).upload_from_string(body, "application/octet-stream", retry=None)

    def create(self, bucket, key, body):
        from google.api_core.exceptions import PreconditionFailed

        try:
            self._blob(bucket, key).upload_from_string(body, "application/octet-stream", if_generation_match=0, retry=None)
        except PreconditionFailed as fault:
            raise Exists(key) from fault

    def get(self, bucket, key):
        return self._blob(bucket, key).download_as_bytes(retry=None)

    def list(self, bucket, prefix=""):
        return sorted((blob.name, blob.size) for blob in self.client.list_blobs(bucket, prefix=prefix))

    def delete(self, bucket, key):
        self._blob(bucket, key).delete(retry=None)

    def uploads(self, bucket, prefix=""):
        raise NotImplementedError("the JSON API has no list of uploads")


class Azure:
    """Azurite by azure-storage-blob."""

    def __init__(self, endpoint=None, credential=None, **more):
        from azure.storage.blob import BlobServiceClient

        self.client = BlobServiceClient(
            endpoint or os.environ["AZURE_ENDPOINT"], credential=credential or {"account_name": os.environ["AZURE_ACCOUNT"], "account_key": os.environ["AZURE_KEY"]}, retry_total=0, **more)

    def make_bucket(self, bucket):
        self.client.create_container(bucket)

    def put(self, bucket, key, body):
        self.client.get_blob_client(bucket, key).upload_blob(body, overwrite=True)

    def create(self, bucket, key, body):
        from azure.core.exceptions import ResourceExistsError

        try:
            self.client.get_blob_client(bucket, key).upload_blob(body, overwrite=False)
        except ResourceExistsError as fault:
            raise Exists(key) from fault

    def get(self, bucket, key):
        return self.client.get_blob_client(bucket, key).download_blob().readall()

    def list(self, bucket, prefix=""):
        return sorted((blob.name, blob.size) for blob in self.client.get_container_client(bucket).list_blobs(name_starts_with=prefix or None))

    def delete(self, bucket, key):
        self.client.get_blob_client(bucket, key).delete_blob()

    def uploads(self, bucket, prefix=""):
        """Keys that have blocks and no content."""
        found = self.client.get_container_client(bucket).list_blobs(name_starts_with=prefix or None, include=["uncommittedblobs"])
        return sorted({blob.name for blob in found} - {name for name, _ in self.list(bucket, prefix)})


STORES = {"s3": S3, "gcs": Gcs, "azure": Azure}


def store(name, **arguments):
    return STORES[name](**arguments)


def many(put, bucket, prefix, file, count):
    """Puts the file's bytes `count` times, four at a time, and gives the seconds that took, from the first byte to the last answer."""
    import concurrent.futures
    import time

    with open(file, "rb") as opened:
        body = opened.read()
    with concurrent.futures.ThreadPoolExecutor(4) as four:
        started = time.monotonic()
        for answer in [four.submit(put, bucket, f"{prefix}/{number}", body) for number in range(int(count))]:
            answer.result()
        return time.monotonic() - started


def main(name, verb, bucket, *words):
    one = store(name)
    if verb == "make-bucket":
        one.make_bucket(bucket)
    elif verb == "open":
        one.open_to_all(bucket)
    elif verb in ("put", "create"):
        with open(words[1], "rb") as file:
            getattr(one, verb)(bucket, words[0], file.read())
    elif verb == "put-many":
        print(many(one.put, bucket, *words))
    elif verb == "get":
        sys.stdout.buffer.write(one.get(bucket, words[0]))
    elif verb == "list":
        for key, size in one.list(bucket, *words):
            print(f"{size}\t{key}")
    elif verb == "delete":
        one.delete(bucket, words[0])
    elif verb == "encryption":
        print(*one.encryption(bucket, words[0]))
    elif verb == "uploads":
        print(*one.uploads(bucket, *words), sep="\n")
    else:
        raise ValueError(f"no verb {verb}")


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in STORES:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except Exists as fault:
        sys.exit(f"exists: {fault}")
