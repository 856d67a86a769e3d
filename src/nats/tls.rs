//! TLS settings of the NATS connection. Certificates are loaded when TLS is used and not before: the public roots take
//! milliseconds that a plain connection's start must not pay.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::Tls;
use crate::trust_roots;

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
pub(super) fn session(tls: &Tls, host: &str) -> Result<ClientConnection, TlsError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::BadName(host.into()))?;
    Ok(ClientConnection::new(client_config(tls)?, name)?)
}

fn client_config(tls: &Tls) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(tls.ca.as_deref())?);
    let config = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| file_error(key, error))?;
            builder.with_client_auth_cert(certificates(cert)?, key)?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(TlsError::CertWithoutKey),
    };
    Ok(Arc::new(config))
}

/// The authorities in `ca` and no others; without it those that every client here trusts.
fn roots(ca: Option<&Path>) -> Result<Arc<RootCertStore>, TlsError> {
    let Some(ca) = ca else { return Ok(trust_roots::trusted().authorities.clone()) };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(ca)?);
    if added == 0 { Err(TlsError::NoCertificate(ca.into())) } else { Ok(Arc::new(roots)) }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let list = read().map_err(|error| file_error(path, error))?;
    if list.is_empty() { Err(TlsError::NoCertificate(path.into())) } else { Ok(list) }
}

fn file_error(path: &Path, error: pem::Error) -> TlsError {
    TlsError::File { path: path.into(), error }
}
