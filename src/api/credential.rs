//! Why: the RPCs of credentials, translated and nothing more. Never returns a secret.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Edge, from_pb, pb, to_pb};

/// See `proto/datasink/v1/credential.proto`.
#[derive(Debug, Clone)]
pub struct CredentialService(pub Arc<Edge>);

#[tonic::async_trait]
impl pb::credential_service_server::CredentialService for CredentialService {
    async fn create_credential(&self, request: Request<pb::CreateCredentialRequest>) -> Result<Response<pb::CreateCredentialResponse>, Status> {
        let cx = self.0.identify("CredentialService/CreateCredential", &request).await?;
        let answer = self.0.domain.create_credential(&cx, from_pb::create_credential(request.into_inner())?).await?;
        Ok(Response::new(pb::CreateCredentialResponse { credential: Some(to_pb::credential(answer.credential)), created: answer.created }))
    }

    async fn alter_credential(&self, request: Request<pb::AlterCredentialRequest>) -> Result<Response<pb::AlterCredentialResponse>, Status> {
        let cx = self.0.identify("CredentialService/AlterCredential", &request).await?;
        let answer = self.0.domain.alter_credential(&cx, from_pb::alter_credential(request.into_inner())?).await?;
        Ok(Response::new(pb::AlterCredentialResponse { credential: Some(to_pb::credential(answer.credential)), changed: answer.changed }))
    }

    async fn drop_credential(&self, request: Request<pb::DropCredentialRequest>) -> Result<Response<pb::DropCredentialResponse>, Status> {
        let cx = self.0.identify("CredentialService/DropCredential", &request).await?;
        let answer = self.0.domain.drop_credential(&cx, from_pb::drop_credential(request.into_inner())).await?;
        Ok(Response::new(pb::DropCredentialResponse { dropped: answer.dropped }))
    }

    async fn show_credential(&self, request: Request<pb::ShowCredentialRequest>) -> Result<Response<pb::ShowCredentialResponse>, Status> {
        let cx = self.0.identify("CredentialService/ShowCredential", &request).await?;
        let answer = self.0.domain.show_credential(&cx, from_pb::show_credential(request.into_inner())?).await?;
        Ok(Response::new(pb::ShowCredentialResponse {
            credentials: answer.credentials.into_iter().map(to_pb::credential).collect(),
            next_page_token: answer.next_page_token,
        }))
    }
}
