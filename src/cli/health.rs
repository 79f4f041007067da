//! Why: `datasink health` is what containers and scripts ask before they send work. Never needs a token, and never calls a server well that did not say so.

use std::{error::Error as _, fmt::Write as _, time::Duration};

use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::client::{CliError, Server};

/// How long a server may take to answer, after it was connected to: a probe that hangs tells as little as one that fails.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Arguments of `datasink health`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    /// A service by its full name, such as datasink.v1.PushService; without one, the server as a whole.
    #[arg(long, default_value = "")]
    service: String,
}

/// Asks grpc.health.v1.Health once.
pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let Args { server, service } = args;
    let mut client = HealthClient::new(server.connect().await?);
    let asked = timeout(ANSWER_MAX, client.check(HealthCheckRequest { service: service.clone() })).await;
    let unreachable = |what: &str| CliError::Unreachable(format!("the server at {} {what}", server.address));
    let answer = match asked {
        Err(_) => return Err(unreachable(&format!("gave no answer within {} s", ANSWER_MAX.as_secs()))),
        Ok(Err(status)) if status.code() == Code::NotFound => {
            return Err(CliError::Refused(Box::new(tonic::Status::not_found(format!(
                "the server has no service {service:?}; `grpcurl … list` names those it has"
            )))));
        }
        // Made by the connection and not by a server: whoever is there speaks something else, or has gone.
        Ok(Err(status)) if status.code() == Code::Unavailable || status.source().is_some() => return Err(unreachable("broke the connection")),
        Ok(answer) => answer?.into_inner(),
    };
    let mut told = answer.status().as_str_name().to_owned();
    if !service.is_empty() {
        let _ = write!(told, " {service}");
    }
    println!("{told}");
    if answer.status() == ServingStatus::Serving {
        Ok(())
    } else {
        Err(CliError::NotServing(format!("{} does not take work now; ask again", if service.is_empty() { "the server" } else { &service })))
    }
}
