//! stub
#[allow(missing_docs)]
pub mod pb {
    tonic::include_proto!("datasink.v1");
}
