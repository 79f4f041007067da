"""Why: pushes the lines of standard input by generated stubs, as somebody who knows only the proto files does. Never uses a client library of the project.

push.py ADDRESS SINK STREAM, the token in the variable TOKEN; prints the offset up to which everything is settled.
"""

import os
import queue
import sys

import grpc

from datasink.v1 import push_pb2, push_pb2_grpc

BATCH_RECORDS = 37


def main(address, sink, stream):
    lines = sys.stdin.buffer.read().splitlines(keepends=True)
    frames = queue.SimpleQueue()
    frames.put(push_pb2.PushRequest(open=push_pb2.OpenStream(data_sink=sink, stream=stream, client_id="stranger")))
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        answers = push_pb2_grpc.PushServiceStub(channel).Push(iter(frames.get, None), metadata=[("authorization", f"Bearer {os.environ['TOKEN']}")], timeout=120)
        settled = 0
        for answer in answers:
            kind = answer.WhichOneof("frame")
            if kind == "opened":
                for first in range(answer.opened.next_offset, len(lines), BATCH_RECORDS):
                    request = push_pb2.PushRequest()
                    request.batch.first_offset = first
                    request.batch.ndjson = b"".join(lines[first : first + BATCH_RECORDS])
                    frames.put(request)
                frames.put(push_pb2.PushRequest(flush=push_pb2.FlushStream(token="all")))
            elif kind == "ack":
                settled = answer.ack.next_offset
                if answer.ack.flush_token == "all":
                    frames.put(None)
            elif kind == "record_errors":
                sys.exit(f"records were refused: {answer.record_errors}")
        print(settled)


if __name__ == "__main__":
    main(*sys.argv[1:])
