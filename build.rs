//! Compiles `proto/` with protox, so that a build needs no protoc; the same descriptors feed reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const PROTOS: &[&str] = &["common", "schema", "credential", "data_sink", "permission", "push", "table", "table_monitor", "export", "sql", "file", "server"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files: Vec<String> = PROTOS.iter().map(|name| format!("proto/datasink/v1/{name}.proto")).collect();
    let descriptors = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("datasink_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".datasink.v1.RecordBatch").skip_debug(SECRET_BEARING.iter().copied()).compile_fds(descriptors)?;
    Ok(())
}

/// Messages that carry a secret inward, or a new token outward once: their `Debug` is written by hand in `api/pb.rs`.
const SECRET_BEARING: &[&str] = &[
    ".datasink.v1.CreateCredentialRequest",
    ".datasink.v1.AlterCredentialRequest",
    ".datasink.v1.CreatePrincipalRequest",
    ".datasink.v1.AlterPrincipalRequest",
    ".datasink.v1.CreateAccessTokenResponse",
    ".datasink.v1.CreateDataSinkRequest",
    ".datasink.v1.AlterDataSinkRequest",
    ".datasink.v1.TestDataSinkRequest",
    ".datasink.v1.OpenStream",
    ".datasink.v1.PushOnceRequest",
    ".datasink.v1.ExecuteSqlRequest",
];
