//! Why: probes and meshes learn in one place whether to send calls here. Never says NOT_SERVING because a destination is down: ejecting us would not mend it.

use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};

/// Every service of the interface, by full name.
pub const SERVICES: [&str; 11] = [
    "datasink.v1.SchemaService",
    "datasink.v1.CredentialService",
    "datasink.v1.DataSinkService",
    "datasink.v1.PermissionService",
    "datasink.v1.PushService",
    "datasink.v1.TableService",
    "datasink.v1.TableMonitorService",
    "datasink.v1.ExportService",
    "datasink.v1.SqlService",
    "datasink.v1.FileService",
    "datasink.v1.ServerService",
];

/// What is announced, and to whom it is told.
#[derive(Debug, Clone)]
pub struct Health(HealthReporter);

impl Health {
    /// Nothing announced yet, and the service that answers probes.
    pub fn new() -> (Self, Routes) {
        let (reporter, service) = tonic_health::server::health_reporter();
        (Self(reporter), Routes::new(service))
    }

    /// Announces whether calls are welcome: "" and every service alike. Watchers are told at once.
    pub async fn announce(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in std::iter::once("").chain(SERVICES) {
            self.0.set_service_status(service, status).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::api::pb;

    #[test]
    fn every_service_of_the_interface_is_announced() {
        let descriptors = prost_types::FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap();
        let mut found: Vec<String> =
            descriptors.file.iter().flat_map(|file| file.service.iter().map(move |service| format!("{}.{}", file.package(), service.name()))).collect();
        let mut announced = SERVICES.map(str::to_owned);
        found.sort();
        announced.sort();
        assert_eq!(found, announced);
    }
}
