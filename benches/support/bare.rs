//! Why: the yardstick: a tonic service that takes the same messages and does nothing else, or nothing but look at the records. Never shares code with the product's own Push.

use std::net::SocketAddr;

use datasink::{
    api::pb::{
        DropPushStreamRequest, DropPushStreamResponse, PushOnceRequest, PushOnceResponse, PushRequest, PushResponse, RecordBatch, ShowPushStreamRequest,
        ShowPushStreamResponse, StreamAck, StreamOpened, push_request, push_response,
        push_service_server::{PushService, PushServiceServer},
        record_batch,
    },
    record::{Change, Incoming, Payload, Piece, RollingHash, decode},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{
    StreamExt,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

struct Bare {
    /// Whether it looks at the records as the product must: each is JSON, and goes into a hash.
    checks: bool,
}

#[tonic::async_trait]
impl PushService for Bare {
    type PushStream = ReceiverStream<Result<PushResponse, Status>>;

    async fn push(&self, request: Request<Streaming<PushRequest>>) -> Result<Response<Self::PushStream>, Status> {
        let (mut incoming, checks, mut hash) = (request.into_inner(), self.checks, RollingHash::default());
        let (answers, outgoing) = mpsc::channel(64);
        #[expect(clippy::disallowed_methods, reason = "the yardstick is not the product")]
        tokio::spawn(async move {
            let mut next_offset = 0;
            while let Some(Ok(message)) = incoming.next().await {
                let frame = match message.frame {
                    Some(push_request::Frame::Open(_)) => push_response::Frame::Opened(StreamOpened::default()),
                    Some(push_request::Frame::Batch(batch)) => {
                        next_offset += i64::from(batch.record_count);
                        if checks {
                            check(batch, &mut hash);
                        }
                        push_response::Frame::Ack(StreamAck { next_offset, ..StreamAck::default() })
                    }
                    _ => continue,
                };
                if answers.send(Ok(PushResponse { frame: Some(frame) })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn push_once(&self, _: Request<PushOnceRequest>) -> Result<Response<PushOnceResponse>, Status> {
        Err(Status::unimplemented("the yardstick has Push only"))
    }

    async fn show_push_stream(&self, _: Request<ShowPushStreamRequest>) -> Result<Response<ShowPushStreamResponse>, Status> {
        Err(Status::unimplemented("the yardstick has Push only"))
    }

    async fn drop_push_stream(&self, _: Request<DropPushStreamRequest>) -> Result<Response<DropPushStreamResponse>, Status> {
        Err(Status::unimplemented("the yardstick has Push only"))
    }
}

/// What nobody can leave out who tells, record by record, that it was good and is the same as before.
fn check(batch: RecordBatch, hash: &mut RollingHash) {
    let Some(record_batch::Payload::Ndjson(text)) = batch.payload else { return };
    let (payload, stated_count) = (Payload::Ndjson(text), u64::try_from(batch.record_count).ok());
    let incoming = Incoming { payload, first_offset: 0, stated_count, change: Change::Insert, event_time: None, traceparent: None };
    for piece in decode(incoming, None).expect("the load is good") {
        if let Piece::Good(records) = piece {
            records.advance(hash).expect("text is always hashed");
        }
    }
}

/// Starts the yardstick with the product's own transport settings.
pub async fn start(checks: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    let server = Server::builder()
        .max_frame_size(Some(1 << 20))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .tcp_nodelay(true)
        .add_service(PushServiceServer::new(Bare { checks }).max_decoding_message_size(16 << 20))
        .serve_with_incoming(TcpListenerStream::new(listener));
    #[expect(clippy::disallowed_methods, reason = "it serves until the process ends")]
    tokio::spawn(server);
    address
}
