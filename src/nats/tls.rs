//! TLS settings of the NATS connection. Certificates are loaded when TLS is used and not before.

use super::options::{Options, Tls};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why TLS cannot even begin.
#[derive(Debug)]
pub(super) enum TlsError {
    File {
        path: PathBuf,
        error: pem::Error,
    },
    /// The file was read and held no certificate that can be used.
    NoCertificate(PathBuf),
    CertWithoutKey,
    Rustls(rustls::Error),
    BadName(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::File { path, error } => write!(out, "{}: {error}", path.display()),
            TlsError::NoCertificate(path) => write!(out, "{}: no certificate in it", path.display()),
            TlsError::CertWithoutKey => write!(out, "a client certificate needs its key, and a key its certificate"),
            TlsError::Rustls(error) => write!(out, "TLS: {error}"),
            TlsError::BadName(name) => write!(out, "{name:?} cannot be a name in a certificate"),
        }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> TlsError {
        TlsError::Rustls(error)
    }
}

/// Prepares a session with a server whose certificate has to be for `host`.
pub(super) fn session(options: &Options, host: &str) -> Result<ClientConnection, TlsError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::BadName(host.into()))?;
    Ok(ClientConnection::new(client_config(options)?, name)?)
}

fn client_config(options: &Options) -> Result<Arc<ClientConfig>, TlsError> {
    let Tls { ca, cert, key, .. } = &options.tls;
    let read = |path: &Path| (options.read_file)(path).map_err(|error| file_error(path, pem::Error::Io(error)));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(match ca {
        Some(ca) => authorities_in(ca, &read(ca)?)?,
        None => (options.authorities)(),
    });
    let config = match (cert, key) {
        (Some(cert), Some(key)) => {
            let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| file_error(key, error))?;
            builder.with_client_auth_cert(certificates(cert, &read(cert)?)?, secret)?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(TlsError::CertWithoutKey),
    };
    Ok(Arc::new(config))
}

/// The authorities in a file, and no others.
fn authorities_in(path: &Path, text: &[u8]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(path, text)?);
    if added == 0 { Err(TlsError::NoCertificate(path.into())) } else { Ok(Arc::new(roots)) }
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let list = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let list = list.map_err(|error| file_error(path, error))?;
    if list.is_empty() { Err(TlsError::NoCertificate(path.into())) } else { Ok(list) }
}

fn file_error(path: &Path, error: pem::Error) -> TlsError {
    TlsError::File { path: path.into(), error }
}
