"""Why: reads every object of a bucket by the vendor's own client and prints its records, so that strangers judge what Datasink wrote. Never knows how the names of objects are made.

read_objects.py s3|gcs|azure BUCKET                      one line a record, {"place": folder, "record": …}, in the order of the objects' names
read_objects.py s3|gcs|azure BUCKET named                the same of the objects that manifests name, in the order of the manifests; fails where one is not what its manifest says,
                                                         or holds a record whose fields are not what its folders say by Hive's rules
read_objects.py s3|gcs|azure BUCKET names                one line an object, its name
read_objects.py s3|gcs|azure BUCKET unnamed              one line an object that no manifest names
read_objects.py s3 BUCKET uploads KEY...                 one line an upload in parts, its key: of those keys, and of those that the service wrote down
read_objects.py s3|gcs|azure BUCKET delete N             removes the last N objects that hold records
read_objects.py s3|gcs|azure BUCKET delete-manifests N   removes the last N manifests

Objects end in .ndjson, .csv, .parquet, .arrow or .avro, the first two perhaps with .gz, .zst or .sz behind. Arrow, Parquet and CSV are read by pyarrow, Avro by fastavro.
Values that JSON has no word for are told as Datasink takes them: instants and days as RFC 3339 has them. The column `nested` is JSON in every form.
"""

import datetime
import decimal
import gzip
import hashlib
import io
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "services"))
import stores


def decompressed(name, body):
    if name.endswith(".gz"):
        return name.removesuffix(".gz"), gzip.decompress(body)
    if name.endswith(".zst"):
        import pyarrow

        return name.removesuffix(".zst"), pyarrow.input_stream(io.BytesIO(body), compression="zstd").read()
    if name.endswith(".sz"):
        import cramjam

        return name.removesuffix(".sz"), bytes(cramjam.snappy.decompress(body))
    return name, body


def csv(body):
    """CSV tells no types, so the reader must know them."""
    import pyarrow
    from pyarrow import csv

    types = {
        "n": pyarrow.int64(), "large": pyarrow.int64(), "unsigned": pyarrow.uint64(), "ratio": pyarrow.float64(), "flag": pyarrow.bool_(), "text": pyarrow.string(),
        "pad": pyarrow.string(), "region": pyarrow.string(), "at": pyarrow.timestamp("us", "UTC"), "day": pyarrow.date32(), "nested": pyarrow.string()}
    parsing = csv.ParseOptions(newlines_in_values=True)
    converting = csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False)
    return csv.read_csv(io.BytesIO(body), parse_options=parsing, convert_options=converting).to_pylist()


def raw_records(name, body):
    name, body = decompressed(name, body)
    if name.endswith(".ndjson"):
        return [json.loads(line) for line in body.splitlines() if line.strip()]
    if name.endswith(".csv"):
        return csv(body)
    if name.endswith(".parquet"):
        from pyarrow import parquet

        # The file itself, not its folder: pyarrow would add columns for what the folders say.
        return parquet.ParquetFile(io.BytesIO(body)).read().to_pylist()
    if name.endswith(".arrow"):
        from pyarrow import ipc

        return ipc.open_file(io.BytesIO(body)).read_all().to_pylist()
    if name.endswith(".avro"):
        import fastavro

        return list(fastavro.reader(io.BytesIO(body)))
    raise ValueError(f"object {name} is of a form that this reader does not know")


def plain(name, value):
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, decimal.Decimal) and value == int(value):
        return int(value)
    if name == "nested" and isinstance(value, str):
        return json.loads(value)
    return value


def records(name, body):
    return [{column: plain(column, value) for column, value in record.items()} for record in raw_records(name, body)]


def manifests(store, bucket):
    """What lists objects, in the order of their names."""
    found = sorted(name for name, _ in store.list(bucket) if "/_manifests/" in name and name.endswith(".json"))
    return [(name, json.loads(store.get(bucket, name))) for name in found]


def hive_keys(folder):
    """What the folders of an object say its records hold, as pyarrow understands folders."""
    import pyarrow
    from pyarrow import dataset

    names = [segment.partition("=")[0] for segment in folder.split("/") if "=" in segment]
    schema = pyarrow.schema([(name, pyarrow.string()) for name in names])
    # Hive has one word for null and the empty text.
    return {name: value or "" for name, value in dataset.get_partition_keys(dataset.HivePartitioning(schema).parse("/" + folder)).items()}


def named(store, bucket):
    """(folder, record) of all that counts."""
    for manifest_name, manifest in manifests(store, bucket):
        for entry in manifest["objects"]:
            name, body = entry["key"], store.get(bucket, entry["key"])
            found = records(name, body)
            said = (entry["byte_count"], entry["sha256"], entry["record_count"])
            if said != (len(body), hashlib.sha256(body).hexdigest(), len(found)):
                sys.exit(f"{manifest_name} says {said} of {name}, which has {len(body)} bytes and {len(found)} records")
            folder = name.rpartition("/")[0]
            keys = hive_keys(folder)
            for record in found:
                if any(record[key] != value for key, value in keys.items()):
                    sys.exit(f"{name} holds {record}, and its folders say {keys}")
                yield folder, record


def main(kind, bucket, *words):
    store = stores.store(kind)
    # What has no extension of a form is no object of records: the probe, plans of streams that are not finished.
    found = [(name, size) for name, size in store.list(bucket) if size and "/_" not in "/" + name and "/." not in "/" + name]
    if words[:1] == ("names",):
        print(*(name for name, _ in found), sep="\n")
    elif words[:1] == ("unnamed",):
        known = {entry["key"] for _, manifest in manifests(store, bucket) for entry in manifest["objects"]}
        for name, _ in found:
            if name not in known:
                print(name)
    elif words[:1] == ("uploads",):
        notes = [name for name, _ in store.list(bucket) if "/.plan/" in name and name.endswith(".upload")]
        keys = {*words[1:], *(json.loads(store.get(bucket, name))["key"] for name in notes)}
        print(*(upload for key in sorted(keys) for upload in store.uploads(bucket, key)), sep="\n", end="")
    elif words[:1] == ("delete",):
        for name, _ in found[-int(words[1]):]:
            store.delete(bucket, name)
    elif words[:1] == ("delete-manifests",):
        for name, _ in manifests(store, bucket)[-int(words[1]):]:
            store.delete(bucket, name)
    elif words[:1] == ("named",):
        for folder, record in named(store, bucket):
            print(json.dumps({"place": folder, "record": record}))
    else:
        for name, _ in found:
            for record in records(name, store.get(bucket, name)):
                print(json.dumps({"place": name.rpartition("/")[0], "record": record}))


if __name__ == "__main__":
    main(*sys.argv[1:])
