//! Why: the RPCs of grants, principals and tokens, translated and nothing more. Never decides who may what.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Edge, from_pb, pb, to_pb};

/// See `proto/datasink/v1/permission.proto`.
#[derive(Debug, Clone)]
pub struct PermissionService(pub Arc<Edge>);

#[tonic::async_trait]
impl pb::permission_service_server::PermissionService for PermissionService {
    async fn grant_permission(&self, request: Request<pb::GrantPermissionRequest>) -> Result<Response<pb::GrantPermissionResponse>, Status> {
        let cx = self.0.identify("PermissionService/GrantPermission", &request).await?;
        let answer = self.0.domain.grant_permission(&cx, from_pb::grant_permission(request.into_inner())?).await?;
        Ok(Response::new(pb::GrantPermissionResponse { grant: Some(to_pb::grant(answer.grant)), changed: answer.changed }))
    }

    async fn revoke_permission(&self, request: Request<pb::RevokePermissionRequest>) -> Result<Response<pb::RevokePermissionResponse>, Status> {
        let cx = self.0.identify("PermissionService/RevokePermission", &request).await?;
        let answer = self.0.domain.revoke_permission(&cx, from_pb::revoke_permission(request.into_inner())?).await?;
        Ok(Response::new(pb::RevokePermissionResponse { changed: answer.changed }))
    }

    async fn show_permission(&self, request: Request<pb::ShowPermissionRequest>) -> Result<Response<pb::ShowPermissionResponse>, Status> {
        let cx = self.0.identify("PermissionService/ShowPermission", &request).await?;
        let answer = self.0.domain.show_permission(&cx, from_pb::show_permission(request.into_inner())?).await?;
        Ok(Response::new(pb::ShowPermissionResponse { grants: answer.grants.into_iter().map(to_pb::grant).collect(), next_page_token: answer.next_page_token }))
    }

    async fn check_permission(&self, request: Request<pb::CheckPermissionRequest>) -> Result<Response<pb::CheckPermissionResponse>, Status> {
        let cx = self.0.identify("PermissionService/CheckPermission", &request).await?;
        let answer = self.0.domain.check_permission(&cx, from_pb::check_permission(request.into_inner())?).await?;
        Ok(Response::new(pb::CheckPermissionResponse { allowed: answer.allowed, because: answer.because.into_iter().map(to_pb::grant).collect() }))
    }

    async fn create_principal(&self, request: Request<pb::CreatePrincipalRequest>) -> Result<Response<pb::CreatePrincipalResponse>, Status> {
        let cx = self.0.identify("PermissionService/CreatePrincipal", &request).await?;
        let answer = self.0.domain.create_principal(&cx, from_pb::create_principal(request.into_inner())?).await?;
        Ok(Response::new(pb::CreatePrincipalResponse { principal: Some(to_pb::principal(answer.principal)), created: answer.created }))
    }

    async fn alter_principal(&self, request: Request<pb::AlterPrincipalRequest>) -> Result<Response<pb::AlterPrincipalResponse>, Status> {
        let cx = self.0.identify("PermissionService/AlterPrincipal", &request).await?;
        let answer = self.0.domain.alter_principal(&cx, from_pb::alter_principal(request.into_inner())).await?;
        Ok(Response::new(pb::AlterPrincipalResponse { principal: Some(to_pb::principal(answer.principal)), changed: answer.changed }))
    }

    async fn drop_principal(&self, request: Request<pb::DropPrincipalRequest>) -> Result<Response<pb::DropPrincipalResponse>, Status> {
        let cx = self.0.identify("PermissionService/DropPrincipal", &request).await?;
        let answer = self.0.domain.drop_principal(&cx, from_pb::drop_principal(request.into_inner())).await?;
        Ok(Response::new(pb::DropPrincipalResponse { dropped: answer.dropped }))
    }

    async fn show_principal(&self, request: Request<pb::ShowPrincipalRequest>) -> Result<Response<pb::ShowPrincipalResponse>, Status> {
        let cx = self.0.identify("PermissionService/ShowPrincipal", &request).await?;
        let answer = self.0.domain.show_principal(&cx, from_pb::show_principal(request.into_inner())?).await?;
        Ok(Response::new(pb::ShowPrincipalResponse {
            principals: answer.principals.into_iter().map(to_pb::principal).collect(),
            next_page_token: answer.next_page_token,
        }))
    }

    async fn grant_role(&self, request: Request<pb::GrantRoleRequest>) -> Result<Response<pb::GrantRoleResponse>, Status> {
        let cx = self.0.identify("PermissionService/GrantRole", &request).await?;
        let answer = self.0.domain.grant_role(&cx, from_pb::grant_role(request.into_inner())).await?;
        Ok(Response::new(pb::GrantRoleResponse { changed: answer.changed }))
    }

    async fn revoke_role(&self, request: Request<pb::RevokeRoleRequest>) -> Result<Response<pb::RevokeRoleResponse>, Status> {
        let cx = self.0.identify("PermissionService/RevokeRole", &request).await?;
        let answer = self.0.domain.revoke_role(&cx, from_pb::revoke_role(request.into_inner())).await?;
        Ok(Response::new(pb::RevokeRoleResponse { changed: answer.changed }))
    }

    async fn create_access_token(&self, request: Request<pb::CreateAccessTokenRequest>) -> Result<Response<pb::CreateAccessTokenResponse>, Status> {
        let cx = self.0.identify("PermissionService/CreateAccessToken", &request).await?;
        let answer = self.0.domain.create_access_token(&cx, from_pb::create_access_token(request.into_inner())?).await?;
        Ok(Response::new(to_pb::created_access_token(answer)))
    }

    async fn revoke_access_token(&self, request: Request<pb::RevokeAccessTokenRequest>) -> Result<Response<pb::RevokeAccessTokenResponse>, Status> {
        let cx = self.0.identify("PermissionService/RevokeAccessToken", &request).await?;
        let answer = self.0.domain.revoke_access_token(&cx, from_pb::revoke_access_token(request.into_inner())).await?;
        Ok(Response::new(pb::RevokeAccessTokenResponse { revoked: answer.revoked }))
    }

    async fn show_access_token(&self, request: Request<pb::ShowAccessTokenRequest>) -> Result<Response<pb::ShowAccessTokenResponse>, Status> {
        let cx = self.0.identify("PermissionService/ShowAccessToken", &request).await?;
        let answer = self.0.domain.show_access_token(&cx, from_pb::show_access_token(request.into_inner())).await?;
        Ok(Response::new(pb::ShowAccessTokenResponse {
            access_tokens: answer.access_tokens.into_iter().map(to_pb::access_token).collect(),
            next_page_token: answer.next_page_token,
        }))
    }
}
