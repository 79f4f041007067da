"""Why: what tests/lint/compose asks of docker-compose.yml and the Dockerfile beyond their syntax. Never needs a daemon. Prints every fault, and exits 1 if there is one."""

import os
import re
import sys
from pathlib import Path

import yaml

# Service, and what its image or command must contain.
PINNED = {"kafka": f"apache/kafka:{os.environ['KAFKA_VERSION']}", "fake-gcs": f"fsouza/fake-gcs-server:{os.environ['FAKE_GCS_VERSION']}", "azurite": f"azurite@{os.environ['AZURITE_VERSION']}"}
WANTED = {"datasink", "kafka", "minio", "fake-gcs", "gcs", "azurite", "webhook"}


def compose_faults(text):
    file = yaml.safe_load(text)
    services, volumes = file["services"], set(file.get("volumes") or {})
    for name in sorted(WANTED - set(services)):
        yield f"there is no service {name}"
    for name, service in services.items():
        if ("image" in service) == ("build" in service):
            yield f"{name}: either image or build"
        if "image" in service and not re.search(r":[^/]*\d", service["image"]):
            yield f"{name}: the image has no version"
        if not (service.get("healthcheck") or {}).get("test"):
            yield f"{name}: no health check"
        for port in service.get("ports", []):
            if not port.startswith("127.0.0.1:"):
                yield f"{name}: port {port} is not on loopback only"
        for other, how in (service.get("depends_on") or {}).items():
            if other not in services or how != {"condition": "service_healthy"}:
                yield f"{name}: depends on {other}, which is not a service that it waits for"
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if not (Path(source).exists() if source.startswith(".") else source in volumes):
                yield f"{name}: nothing is there to mount as {source}"
    for name, words in PINNED.items():
        if words not in f"{services[name].get('image')} {services[name].get('command')}":
            yield f"{name}: not {words}, as in tests/tools"
    for script in re.findall(r"/(?:front|receiver)/(\w+\.py)", text):
        if not Path("tests/services", script).exists():
            yield f"there is no tests/services/{script}"


def dockerfile_faults(text):
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    if not stages or not stages[0].startswith(f"rust:{os.environ['RUST_WANTED']}"):
        yield f"Dockerfile: the first stage is not rust:{os.environ['RUST_WANTED']}, the rust-version of Cargo.toml"
    if len(stages) < 2:
        yield "Dockerfile: one stage only"
    for wanted, why in ((r"^RUN cargo build --locked", "built without --locked"), (r"^USER (?!root)\S+", "runs as root"), (r"^STOPSIGNAL SIGTERM", "no STOPSIGNAL SIGTERM"), (r"^HEALTHCHECK ", "no health check")):
        if not re.search(wanted, text, re.MULTILINE):
            yield f"Dockerfile: {why}"
    for form in re.findall(r"^(ENTRYPOINT|CMD) (?!\[)", text, re.MULTILINE):
        yield f"Dockerfile: {form} is not in exec form, so signals would not reach the program"


faults = [*compose_faults(Path("docker-compose.yml").read_text()), *dockerfile_faults(Path("Dockerfile").read_text())]
print(*(faults or ["    docker-compose.yml and Dockerfile: nothing wrong found"]), sep="\n")
sys.exit(1 if faults else 0)
