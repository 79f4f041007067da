//! Why: the yardstick: a tonic service that takes the same messages and does nothing else. Never shares code with the product's own Push.

use std::net::SocketAddr;

use datasink::api::pb::{
    DropPushStreamRequest, DropPushStreamResponse, PushOnceRequest, PushOnceResponse, PushRequest, PushResponse, ShowPushStreamRequest, ShowPushStreamResponse,
    StreamAck, StreamOpened, push_request, push_response,
    push_service_server::{PushService, PushServiceServer},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{
    StreamExt,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

struct Bare;

#[tonic::async_trait]
impl PushService for Bare {
    type PushStream = ReceiverStream<Result<PushResponse, Status>>;

    async fn push(&self, request: Request<Streaming<PushRequest>>) -> Result<Response<Self::PushStream>, Status> {
        let mut incoming = request.into_inner();
        let (answers, outgoing) = mpsc::channel(64);
        #[expect(clippy::disallowed_methods, reason = "the yardstick is not the product")]
        tokio::spawn(async move {
            let mut next_offset = 0;
            while let Some(Ok(message)) = incoming.next().await {
                let frame = match message.frame {
                    Some(push_request::Frame::Open(_)) => push_response::Frame::Opened(StreamOpened::default()),
                    Some(push_request::Frame::Batch(batch)) => {
                        next_offset += i64::from(batch.record_count);
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

/// Starts the yardstick with the product's own transport settings.
pub async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    let server = Server::builder()
        .max_frame_size(Some(1 << 20))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .tcp_nodelay(true)
        .add_service(PushServiceServer::new(Bare).max_decoding_message_size(16 << 20))
        .serve_with_incoming(TcpListenerStream::new(listener));
    #[expect(clippy::disallowed_methods, reason = "it serves until the process ends")]
    tokio::spawn(server);
    address
}
