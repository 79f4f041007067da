//! Why: files are listed and honestly refused until they are built. Never takes bytes it will not keep.

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};

use super::{Edge, pb, status};

/// What is missing, for whoever calls.
const SENTENCE: &str = "the file store kifs:// comes with JDBC drivers and keytabs; give credentials inline meanwhile";

/// See `proto/datasink/v1/file.proto`.
#[derive(Debug, Clone)]
pub struct FileService(pub Arc<Edge>);

#[tonic::async_trait]
impl pb::file_service_server::FileService for FileService {
    async fn show_file(&self, request: Request<pb::ShowFileRequest>) -> Result<Response<pb::ShowFileResponse>, Status> {
        self.0.identify("FileService/ShowFile", &request).await?;
        Err(status::not_yet("ShowFile", SENTENCE))
    }

    async fn drop_file(&self, request: Request<pb::DropFileRequest>) -> Result<Response<pb::DropFileResponse>, Status> {
        self.0.identify("FileService/DropFile", &request).await?;
        Err(status::not_yet("DropFile", SENTENCE))
    }

    async fn upload_file(&self, request: Request<Streaming<pb::UploadFileRequest>>) -> Result<Response<pb::UploadFileResponse>, Status> {
        self.0.identify("FileService/UploadFile", &request).await?;
        Err(status::not_yet("UploadFile", SENTENCE))
    }

    type DownloadFileStream = futures::stream::Empty<Result<pb::DownloadFileResponse, Status>>;

    async fn download_file(&self, request: Request<pb::DownloadFileRequest>) -> Result<Response<Self::DownloadFileStream>, Status> {
        self.0.identify("FileService/DownloadFile", &request).await?;
        Err(status::not_yet("DownloadFile", SENTENCE))
    }
}
