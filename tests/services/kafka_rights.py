"""Why: makes the topics and the ACLs of `with kafka-secure`, once it runs, as its admin. Never called by hand: kafka-secure does, with BOOTSTRAP and the folder of certificates."""

import sys

from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, AdminClient, NewTopic, ResourcePatternType, ResourceType

TOPICS = ("allowed", "denied", "open")
SECONDS_MAX = 30
# Who may do what on which resource; Describe alone on `denied` makes it exist for alice, without a right to write.
RIGHTS = (
    [("alice", ResourceType.TOPIC, "allowed", one) for one in (AclOperation.WRITE, AclOperation.READ, AclOperation.DESCRIBE)]
    + [("alice", ResourceType.TOPIC, "denied", AclOperation.DESCRIBE)]
    + [("alice", ResourceType.GROUP, "*", AclOperation.READ)]
    + [("alice", ResourceType.TRANSACTIONAL_ID, "*", one) for one in (AclOperation.WRITE, AclOperation.DESCRIBE)]
    + [("ANONYMOUS", ResourceType.TOPIC, "open", one) for one in (AclOperation.WRITE, AclOperation.DESCRIBE)]
)


def main(bootstrap, folder):
    admin = AdminClient({"bootstrap.servers": bootstrap, "security.protocol": "ssl", "ssl.ca.location": f"{folder}/ca.pem",
                         "ssl.certificate.location": f"{folder}/admin.pem", "ssl.key.location": f"{folder}/admin.key"})
    bindings = [AclBinding(kind, name, ResourcePatternType.LITERAL, f"User:{who}", "*", operation, AclPermissionType.ALLOW) for who, kind, name, operation in RIGHTS]
    done = admin.create_topics([NewTopic(name, 2, 1) for name in TOPICS], request_timeout=SECONDS_MAX) | admin.create_acls(bindings, request_timeout=SECONDS_MAX)
    for future in done.values():
        future.result(SECONDS_MAX)


main(*sys.argv[1:])
