"""Why: reads every object of a bucket by the vendor's own client and prints its records, so that strangers judge what Datasink wrote. Never knows how the names are made.

read_objects.py s3|gcs|azure BUCKET            one line a record, {"place": folder, "record": …}, in the order of the objects' names
read_objects.py s3|gcs|azure BUCKET names      one line an object, its name
read_objects.py s3|gcs|azure BUCKET delete N   removes the last N objects that hold records

Objects end in .ndjson, .json, .csv, .parquet, .arrow or .avro, perhaps with .gz or .zst behind; the last three are read by pyarrow.
"""

import gzip
import io
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "services"))
import stores


def records(name, body):
    if name.endswith(".gz"):
        name, body = name.removesuffix(".gz"), gzip.decompress(body)
    if name.endswith((".ndjson", ".json", ".jsonl")):
        return [json.loads(line) for line in body.splitlines() if line.strip()]
    if name.endswith(".parquet"):
        from pyarrow import parquet

        return parquet.read_table(io.BytesIO(body)).to_pylist()
    raise ValueError(f"object {name} is of a form that this reader does not know")


def main(kind, bucket, *words):
    store = stores.store(kind)
    # What has no extension of a form is no object of records: the probe, plans of streams that are not finished.
    found = [(name, size) for name, size in store.list(bucket) if size and "/_" not in "/" + name]
    if words[:1] == ("names",):
        print(*(name for name, _ in found), sep="\n")
    elif words[:1] == ("delete",):
        for name, _ in found[-int(words[1]):]:
            store.delete(bucket, name)
    else:
        for name, _ in found:
            for record in records(name, store.get(bucket, name)):
                print(json.dumps({"place": name.rpartition("/")[0], "record": record}))


if __name__ == "__main__":
    main(*sys.argv[1:])
