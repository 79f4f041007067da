#!/usr/bin/env python3
"""Why: the grpcurl lines that the documentation tells people to type, each run as typed and judged by its exit status. Never skips a line unsaid.

Needs DATASINK_SERVER (the binary), GRPCURL and the generated stubs on PYTHONPATH; `tests/run walk` gives all three.
"""

import base64
import json
import os
import re
import subprocess
import sys

from server import Server, scratch

# grpcurl's exit status is 64 plus the gRPC code.
OK, INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED = 0, 67, 69, 76
REQUEST_ID = "6f0c3a1e-0d2b-4c0e-9a53-0d0f6f3e7b11"
TABLE = "example.ds_employee_backup"
SINK = "example.kin_dsink_local"
GRANT = {"principal": "auser", "object_type": "OBJECT_TYPE_DATA_SINK", "object": SINK, "permission": "PERMISSION_KIND_CONNECT"}
FRAMES = [
    {"open": {"data_sink": SINK, "stream": "demo", "record_error_policy": "RECORD_ERROR_POLICY_SKIP"}},
    {"batch": {"first_offset": 0, "json": {"records": [{"id": 3, "name": "Edsger"}, {"id": "oops"}, {"id": 5}]}}},
    {"flush": {"token": "a"}},
    {"finish": {}},
]
COLUMNS = [{"name": "id", "type": "COLUMN_TYPE_INT64", "primary_key": True}, {"name": "name", "type": "COLUMN_TYPE_STRING", "nullable": True}]

# (what it shows, method or grpcurl command, request or list of frames, exit status, pattern that the output must have)
LINES = [
    ("1 what is here", ["list"], None, OK, r"datasink\.v1\.PushService"),
    ("1 describe a service", ["describe", "datasink.v1.PushService"], None, OK, r"rpc Push \( stream"),
    ("2 the shape of a request", ["-msg-template", "describe", "datasink.v1.CreateDataSinkRequest"], None, OK, r'"destination"'),
    ("3 health", "grpc.health.v1.Health/Check", {"service": "datasink.v1.PushService"}, OK, r"SERVING"),
    ("3 who am I", "datasink.v1.ServerService/WhoAmI", None, OK, r"principal"),
    ("3 the server", "datasink.v1.ServerService/ShowServer", None, OK, r"version"),
    ("4 kinds", "datasink.v1.DataSinkService/ShowSinkKinds", {}, OK, r"SINK_KIND_LOCAL"),
    ("4 options of one kind", "datasink.v1.DataSinkService/ShowSinkKinds", {"kind": "SINK_KIND_WEBHOOK"}, OK, r"max_batch_size"),
    ("a schema", "datasink.v1.SchemaService/CreateSchema", {"name": "example"}, OK, r"example"),
    (
        "5 a credential",
        "datasink.v1.CredentialService/CreateCredential",
        {"name": "example.kafka_credential", "type": "CREDENTIAL_TYPE_KAFKA", "options": {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": "svc", "sasl.password": "canary-7f3a"}},
        OK,
        r"^(?!.*canary-7f3a)",
    ),
    ("5 its secret is never shown", "datasink.v1.CredentialService/ShowCredential", {"name": "example.kafka_credential"}, OK, r"^(?!.*canary-7f3a).*\*\*\*"),
    ("10 a table", "datasink.v1.TableService/CreateTable", {"name": TABLE, "schema": {"columns": COLUMNS}}, OK, r'"created": true'),
    ("10 a sink onto it, dry", "datasink.v1.DataSinkService/CreateDataSink", {"name": SINK, "destination": f"table://{TABLE}", "validate_only": True}, OK, ""),
    ("10 a sink onto it", "datasink.v1.DataSinkService/CreateDataSink", {"name": SINK, "destination": f"table://{TABLE}"}, OK, r'"created": true'),
    ("8 step by step", "datasink.v1.DataSinkService/TestDataSink", {"name": SINK}, OK, r'"passed": true'),
    (
        "11 push in one call",
        "datasink.v1.PushService/PushOnce",
        {"data_sink": SINK, "batch": {"json": {"records": [{"id": 1, "name": "Ada"}, {"id": 2, "name": "Grace"}]}}, "request_id": REQUEST_ID},
        OK,
        r'"deliveredRecords": "2"',
    ),
    (
        "11 the same request_id changes nothing",
        "datasink.v1.PushService/PushOnce",
        {"data_sink": SINK, "batch": {"json": {"records": [{"id": 1, "name": "Ada"}, {"id": 2, "name": "Grace"}]}}, "request_id": REQUEST_ID},
        OK,
        r'"replayed": true',
    ),
    ("12 a stream by hand", "datasink.v1.PushService/Push", FRAMES, OK, r'"opened".*"recordErrors".*"ended".*END_REASON_COMMITTED'),
    ("12 and what became of it", "datasink.v1.PushService/ShowPushStream", {"data_sink": SINK}, OK, r'"stream": "demo"'),
    ("14 read it back", "datasink.v1.TableService/ScanRows", {"table": TABLE}, OK, r"Edsger"),
    ("15 a user", "datasink.v1.PermissionService/CreatePrincipal", {"name": "auser", "kind": "PRINCIPAL_KIND_USER"}, OK, r"auser"),
    ("15 not allowed yet", "datasink.v1.PermissionService/CheckPermission", GRANT, OK, r"^(?!.*\"allowed\": true)"),
    ("15 grant", "datasink.v1.PermissionService/GrantPermission", GRANT, OK, r'"changed": true'),
    ("15 ask and explain", "datasink.v1.PermissionService/CheckPermission", GRANT, OK, r'"allowed": true.*"because"'),
    ("9 show all of a schema", "datasink.v1.DataSinkService/ShowDataSink", {"name": "example.*", "include_dependents": True}, OK, r"kin_dsink_local"),
    ("9 one that is not there", "datasink.v1.DataSinkService/ShowDataSink", {"name": "example.nothing"}, NOT_FOUND, r"NotFound"),
    (
        "20 an error as it should look",
        "datasink.v1.DataSinkService/CreateDataSink",
        {"name": "example.x", "destination": "https://localhost/x", "options": {"max_batch_sise": "5"}},
        INVALID_ARGUMENT,
        r"ERROR_REASON_UNKNOWN_OPTION.*max_batch_size|max_batch_size.*ERROR_REASON_UNKNOWN_OPTION",
    ),
    ("9 drop", "datasink.v1.DataSinkService/DropDataSink", {"name": SINK, "clear_table_monitors": True}, OK, r'"dropped": true'),
]

# Lines of the cookbook whose RPCs a server may honestly not have yet: then, and only then, they count as skipped.
LATER = [
    ("14 a condition", "datasink.v1.TableService/ScanRows", {"table": TABLE, "filter": "id > 1", "limit": 10}, OK, r"Grace|R3JhY2U"),
    ("16 the product's SQL", "datasink.v1.SqlService/ExecuteSql", {"sql": f"CREATE DATA SINK by_sql LOCATION = 'table://{TABLE}'", "default_schema": "example"}, OK, ""),
    (
        "17 a monitor",
        "datasink.v1.TableMonitorService/CreateTableMonitor",
        {"name": "example.m1", "table": TABLE, "event": "MONITOR_EVENT_INSERT", "data_sink": "example.by_sql"},
        OK,
        r"m1",
    ),
    ("18 an export", "datasink.v1.ExportService/CreateExportJob", {"source": {"table": TABLE}, "data_sink": "example.by_sql", "wait_timeout": "5s"}, OK, ""),
    (
        "19 a file",
        "datasink.v1.FileService/UploadFile",
        [{"header": {"path": "drivers/x.jar", "overwrite": True}}, {"chunk": base64.b64encode(b"not a jar").decode()}],
        OK,
        "",
    ),
]


def grpcurl(address, what, request):
    command = [os.environ.get("GRPCURL", "grpcurl"), "-plaintext"]
    if isinstance(what, list):
        flags = [word for word in what if word.startswith("-")]
        command += [*flags, address, *[word for word in what if word not in flags]]
        frames = None
    else:
        frames = None if request is None else "\n".join(json.dumps(frame) for frame in (request if isinstance(request, list) else [request]))
        command += [*([] if frames is None else ["-d", "@"]), address, what]
    done = subprocess.run(command, input=frames or "", capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def readable(output):
    """The output on one line, with what grpcurl shows as base64 appended in clear, so that patterns can be about the text."""
    clear = [base64.b64decode(text).decode(errors="replace") for text in re.findall(r'"ndjson": "([A-Za-z0-9+/=]+)"', output)]
    return " ".join(output.split()) + " " + " ".join(clear)


def main():
    folder = scratch("walk")
    server = Server(folder).start()
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    try:
        for later, (name, what, request, status, pattern) in [(False, line) for line in LINES] + [(True, line) for line in LATER]:
            found, output = grpcurl(server.address, what, request)
            if later and found == UNIMPLEMENTED:
                counts["skipped"] += 1
                print(f"  skipped {name}: this server says UNIMPLEMENTED")
            elif found == status and re.search(pattern, readable(output), re.DOTALL):
                counts["passed"] += 1
                print(f"  ok      {name}")
            else:
                counts["failed"] += 1
                print(f"  FAILED  {name}: exit status {found}, expected {status} and /{pattern}/\n{output[:2000]}")
    finally:
        server.stop()
    print("walk: {passed} passed, {failed} failed, {skipped} skipped".format(**counts))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
