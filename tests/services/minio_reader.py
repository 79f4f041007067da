"""Why: makes a MinIO user without a right to write, by MinIO's own client. Never called by hand: s3 does, with ADDRESS ADMIN SECRET USER SECRET."""

import sys

import minio
from minio.credentials import StaticProvider

READ = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation", "s3:ListAllMyBuckets"], "Resource": ["arn:aws:s3:::*"]}]}


def main(address, admin, admin_secret, user, secret):
    client = minio.MinioAdmin(endpoint=address, credentials=StaticProvider(admin, admin_secret), secure=False)
    client.policy_add("datasink-read", policy=READ)
    client.user_add(user, secret)
    client.policy_set("datasink-read", user=user)


main(*sys.argv[1:])
