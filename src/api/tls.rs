//! Why: the server's certificate and its clients' CA are files that rotate while it runs. Never accepts a half-read pair: the last good one stays.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Which files make up our side of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Who signs client certificates, PEM; `None`: clients show none.
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is turned away.
    pub client_required: bool,
    /// Whether TLS 1.2 is spoken too.
    pub tls_1_2: bool,
}

/// Our side of TLS, as the files were when they were last read well.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
    read: Mutex<[u8; 32]>,
}

impl Tls {
    /// Reads the files; a fault names the file.
    pub fn load(files: TlsFiles) -> io::Result<Self> {
        let contents = Contents::read(&files)?;
        let config = contents.config(&files)?;
        Ok(Self { config: ArcSwap::from_pointee(config), read: Mutex::new(contents.digest()), files })
    }

    /// Reads the files again if they changed, and says whether they did. Connections that are open keep what they began with.
    pub fn reload(&self) -> io::Result<bool> {
        let contents = Contents::read(&self.files)?;
        let digest = contents.digest();
        // Poisoning is harmless here: the digest is only ever replaced whole.
        let mut read = self.read.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *read == digest {
            return Ok(false);
        }
        self.config.store(Arc::new(contents.config(&self.files)?));
        *read = digest;
        Ok(true)
    }

    /// Shakes hands; gives the identity that the client's certificate proves.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Option<Arc<str>>)> {
        let stream = TlsAcceptor::from(self.config.load_full()).accept(stream).await?;
        let identity = match stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) {
            Some(leaf) => Some(identity(leaf).map_err(|fault| io::Error::new(io::ErrorKind::PermissionDenied, fault))?.into()),
            None => None,
        };
        Ok((stream, identity))
    }
}

/// The files' bytes, read together.
struct Contents {
    certificate: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
    client_ca: Vec<u8>,
}

fn fault(path: &Path, what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {what}", path.display()))
}

impl Contents {
    fn read(files: &TlsFiles) -> io::Result<Self> {
        let read = |path: &Path| fs::read(path).map_err(|error| fault(path, error));
        Ok(Self {
            certificate: read(&files.certificate)?,
            key: read(&files.key)?.into(),
            client_ca: files.client_ca.as_deref().map(read).transpose()?.unwrap_or_default(),
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [&self.certificate, &*self.key, &self.client_ca] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    fn config(&self, files: &TlsFiles) -> io::Result<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = if files.tls_1_2 { rustls::ALL_VERSIONS } else { &[&rustls::version::TLS13] };
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).map_err(io::Error::other)?;
        let builder = match &files.client_ca {
            Some(path) => {
                let roots = roots(&self.client_ca).map_err(|error| fault(path, error))?;
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                let verifier = if files.client_required { verifier } else { verifier.allow_unauthenticated() };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| fault(path, error))?)
            }
            None => builder.with_no_client_auth(),
        };
        let chain = certificates(&self.certificate).map_err(|error| fault(&files.certificate, error))?;
        let key: PrivateKeyDer<'static> =
            rustls_pemfile::private_key(&mut self.key.as_slice())?.ok_or_else(|| fault(&files.key, "there is no private key in it"))?;
        let mut config = builder.with_single_cert(chain, key).map_err(|error| fault(&files.key, error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let found = rustls_pemfile::certs(&mut &*pem).collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() { Err(io::Error::other("there is no certificate in it")) } else { Ok(found) }
}

fn roots(pem: &[u8]) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    Ok(roots)
}

/// Who a verified leaf certificate is: its one SPIFFE id, else its subject. Two SPIFFE ids, or a certificate that may sign others, are nobody.
fn identity(leaf: &[u8]) -> Result<String, &'static str> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| "the client certificate cannot be read")?;
    if certificate.is_ca() {
        return Err("the client certificate may sign others; show a leaf certificate");
    }
    let names = certificate.subject_alternative_name().map_err(|_| "the client certificate's names cannot be read")?;
    let mut spiffe = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with("spiffe://") => Some(*uri),
        _ => None,
    });
    match (spiffe.next(), spiffe.next()) {
        (Some(id), None) => Ok(id.to_owned()),
        (Some(_), Some(_)) => Err("the client certificate has two SPIFFE ids"),
        (None, _) => {
            let subject = certificate.subject().to_string();
            if subject.is_empty() { Err("the client certificate has neither a SPIFFE id nor a subject") } else { Ok(subject) }
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, IsCa, KeyPair, SanType};

    use super::*;

    fn leaf(uris: &[&str], subject: &str, ca: bool) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !subject.is_empty() {
            params.distinguished_name.push(DnType::CommonName, subject);
        }
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        if ca {
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_is_one_spiffe_id_or_its_subject() {
        assert_eq!(identity(&leaf(&["spiffe://mesh/app", "https://x"], "app", false)), Ok("spiffe://mesh/app".to_owned()));
        assert_eq!(identity(&leaf(&[], "app", false)), Ok("CN=app".to_owned()));
        assert!(identity(&leaf(&["spiffe://mesh/a", "spiffe://mesh/b"], "app", false)).is_err());
        assert!(identity(&leaf(&["spiffe://mesh/a"], "app", true)).is_err());
        assert!(identity(&leaf(&[], "", false)).is_err());
        assert!(identity(b"no certificate").is_err());
    }

    #[test]
    fn changed_files_are_taken_up_and_broken_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let files = TlsFiles {
            certificate: folder.path().join("tls.crt"),
            key: folder.path().join("tls.key"),
            client_ca: None,
            client_required: false,
            tls_1_2: false,
        };
        let write = |name: &str| {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            fs::write(&files.certificate, made.cert.pem()).unwrap();
            fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        };
        write("one.example");
        let tls = Tls::load(files.clone()).unwrap();
        assert!(!tls.reload().unwrap());
        write("two.example");
        assert!(tls.reload().unwrap());
        fs::write(&files.key, "half a key").unwrap();
        assert!(tls.reload().is_err());
        assert!(tls.reload().is_err(), "a broken file is told again until it is mended");
    }
}
