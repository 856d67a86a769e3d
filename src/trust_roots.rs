//! The certificate authorities that TLS clients of this program trust: those of the system, those that the environment
//! names, and the well-known ones that are compiled in. All of them count together, because each is what some user
//! expects: a company's authority is usually in the system's store, PI's users set `NODE_EXTRA_CA_CERTS`, and a container
//! without a store has only the last.

use crate::files;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// Where systems keep all their authorities in one file; of these the first one that is there counts.
const BUNDLES: [&str; 9] = [
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Arch, Alpine, Gentoo
    "/etc/pki/tls/certs/ca-bundle.crt",   // Fedora, older RHEL
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // RHEL, CentOS
    "/etc/ssl/ca-bundle.pem",             // openSUSE
    "/var/lib/ca-certificates/ca-bundle.pem", // SUSE
    "/etc/ssl/certs/ca-bundle.crt",       // NixOS
    "/etc/ssl/cert.pem",                  // Alpine, macOS, OpenBSD
    "/usr/local/share/certs/ca-root-nss.crt", // FreeBSD
    "/opt/etc/ssl/certs/ca-certificates.crt", // routers with Entware
];
/// Where systems without such a file keep one file for each.
const FOLDERS: [&str; 3] = ["/etc/ssl/certs", "/etc/pki/tls/certs", "/system/etc/security/cacerts"];
/// Files with an authority or several more, and lists of folders of such files, as OpenSSL and Node.js read them.
const FILE_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"];
const FOLDER_VARIABLE: &str = "SSL_CERT_DIR";
/// Told where a server is not trusted.
pub(crate) const ADVICE: &str = "if its authority is your own, name the authority's certificate (a PEM file) in \
    NODE_EXTRA_CA_CERTS or SSL_CERT_FILE, or put it into the system's store, and restart";

/// Largest file, bytes; the whole store of a system has a quarter of a million.
const MAX_FILE: u64 = 8 << 20;
/// Most files of a folder.
const MAX_FILES: usize = 4096;

/// What is trusted.
pub(crate) struct Trusted {
    pub authorities: Arc<RootCertStore>,
    /// The certificates that the environment names, in their binary form. A server that shows one of them is trusted too,
    /// as by Node.js: a gateway's certificate that signs itself is often an authority by its own words.
    pub named: HashSet<Vec<u8>>,
}

/// Everything that is trusted. It is read at the first use of TLS, for the whole life of the process: plain connections do
/// not pay for it. What cannot be read, and certificates that make no sense, are left out and named in the log.
pub(crate) fn trusted() -> &'static Trusted {
    static TRUSTED: LazyLock<Trusted> = LazyLock::new(|| {
        let environment = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        load(&environment, &BUNDLES, &FOLDERS)
    });
    &TRUSTED
}

fn load(environment: &dyn Fn(&str) -> Option<OsString>, bundles: &[&str], folders: &[&str]) -> Trusted {
    let mut found =
        Found { store: RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }, known: HashSet::new() };
    match bundles.iter().map(Path::new).find(|path| path.is_file()) {
        Some(bundle) => found.add_file("the system's store", bundle),
        None => folders.iter().for_each(|folder| found.add_folder(Path::new(folder))),
    }
    let system = std::mem::take(&mut found.known);
    for name in FILE_VARIABLES {
        if let Some(path) = environment(name) {
            found.add_file(name, Path::new(&path));
        }
    }
    if let Some(list) = environment(FOLDER_VARIABLE) {
        for folder in std::env::split_paths(&list).filter(|folder| !folder.as_os_str().is_empty()) {
            match folder.is_dir() {
                true => found.add_folder(&folder),
                false => log::warn!("{FOLDER_VARIABLE}: {} is no folder", folder.display()),
            }
        }
    }
    found.store.roots.shrink_to_fit();
    // Whole copies of the system's store in these variables are usual, and name no server.
    found.known.retain(|der| !system.contains(der));
    found.known.shrink_to_fit();
    Trusted { authorities: Arc::new(found.store), named: found.known }
}

struct Found {
    store: RootCertStore,
    /// Certificates that were looked at already, since folders and bundles have much in common.
    known: HashSet<Vec<u8>>,
}

impl Found {
    /// A file that has to have certificates in it.
    fn add_file(&mut self, origin: &str, path: &Path) {
        match read(path) {
            Ok(content) => {
                let certificates = certificates(&content);
                if certificates.is_empty() {
                    log::warn!("{origin}: {}: no certificate in it", path.display());
                }
                self.add(path, certificates);
            }
            Err(why) => log::warn!("{origin}: {}: {why}", path.display()),
        }
    }

    /// A folder in which there may be other things as well.
    fn add_folder(&mut self, folder: &Path) {
        let Ok(entries) = folder.read_dir() else { return };
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).take(MAX_FILES).collect();
        paths.sort();
        for path in paths {
            match read(&path) {
                Ok(content) => self.add(&path, certificates(&content)),
                Err(why) => log::debug!("{}: {why}", path.display()),
            }
        }
    }

    fn add(&mut self, path: &Path, certificates: Vec<Option<Vec<u8>>>) {
        for (at, der) in certificates.into_iter().enumerate() {
            let wrong = |why: &str| log::warn!("{}: certificate {} is left out: {why}", path.display(), at + 1);
            let Some(der) = der else {
                wrong("it is not base64");
                continue;
            };
            if self.known.contains(&der) {
                continue;
            }
            match self.store.add(CertificateDer::from(der.as_slice())) {
                Ok(()) => self.forget_if_there(),
                Err(why) => wrong(&why.to_string()),
            }
            self.known.insert(der);
        }
    }

    /// Most authorities are in several places: one copy is enough.
    fn forget_if_there(&mut self) {
        if let Some((last, others)) = self.store.roots.split_last()
            && others.iter().any(|root| {
                (&root.subject, &root.subject_public_key_info) == (&last.subject, &last.subject_public_key_info)
            })
        {
            self.store.roots.pop();
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    files::read(path, MAX_FILE).map_err(|error| error.to_string())
}

/// The certificates of a PEM file, among whatever else is in it, or of a binary one, which holds a single one. `None` for
/// one that is no base64 or has no end.
fn certificates(content: &[u8]) -> Vec<Option<Vec<u8>>> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    const END: &[u8] = b"-----END CERTIFICATE-----";
    // A sequence with a length of two bytes.
    if content.starts_with(b"\x30\x82") {
        return vec![Some(content.to_vec())];
    }
    let mut found = Vec::new();
    let mut rest = content;
    while let Some(start) = memchr::memmem::find(rest, BEGIN) {
        rest = &rest[start + BEGIN.len()..];
        // What lacks its end must not swallow the next one.
        let next = memchr::memmem::find(rest, b"-----BEGIN").unwrap_or(rest.len());
        let end = memchr::memmem::find(&rest[..next], END);
        let base64: Option<Vec<u8>> =
            end.map(|end| rest[..end].iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect());
        found.push(base64.and_then(|base64| STANDARD.decode(base64).ok()));
        rest = &rest[end.unwrap_or(next)..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(name: &str) -> String {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("a certificate").pem()
    }

    /// How many authorities there are beside those that are compiled in.
    fn added(environment: &[(&str, &Path)], bundles: &[&Path], folders: &[&Path]) -> usize {
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, path)| path.as_os_str().to_owned())
        };
        let texts = |paths: &[&Path]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        let (bundles, folders) = (texts(bundles), texts(folders));
        let texts = |all: &'static [String]| all.iter().map(String::as_str).collect::<Vec<_>>();
        let (bundles, folders) = (texts(bundles.leak()), texts(folders.leak()));
        let store = load(&variable, &bundles, &folders);
        store.authorities.len() - webpki_roots::TLS_SERVER_ROOTS.len()
    }

    #[test]
    fn all_places_count_together_and_each_authority_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let write = |name: &str, content: &str| {
            std::fs::write(path(name), content).expect("it writes");
            path(name)
        };
        std::fs::create_dir(path("folder")).expect("it is made");
        let (a, b, c, d) = (authority("a"), authority("b"), authority("c"), authority("d"));
        let bundle = write("bundle", &format!("# all\r\n{a}\n{b}").replace('\n', "\r\n"));
        let file = write("file", &format!("{a}{c}"));
        write("folder/0a1b2c3d.0", &d);
        write("folder/d.pem", &d);
        write("folder/README", "nothing");
        let (none, folder) = (path("none"), path("folder"));
        for (name, environment, bundles, folders, expected) in [
            ("nothing", vec![], vec![], vec![], 0),
            ("the first bundle", vec![], vec![&*none, &bundle, &file], vec![&*folder], 2),
            ("folders without a bundle", vec![], vec![&*none], vec![&*none, &folder], 1),
            ("Node's variable", vec![("NODE_EXTRA_CA_CERTS", &*file)], vec![&*bundle], vec![], 3),
            ("a file", vec![("SSL_CERT_FILE", &*file)], vec![], vec![], 2),
            ("a folder", vec![("SSL_CERT_DIR", &*folder)], vec![&*bundle], vec![], 3),
            ("none of them", vec![("SSL_CERT_FILE", &*none), ("SSL_CERT_DIR", &none)], vec![&*bundle], vec![], 2),
            ("a folder as a file", vec![("SSL_CERT_FILE", &*folder)], vec![], vec![], 0),
        ] {
            assert_eq!(added(&environment, &bundles, &folders), expected, "{name}");
        }
    }

    #[test]
    fn a_broken_certificate_costs_only_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("mixed");
        let (a, b) = (authority("a"), authority("b"));
        let cut = a.split("-----END").next().expect("its beginning");
        let garbage = "-----BEGIN CERTIFICATE-----\n???\n-----END CERTIFICATE-----\n";
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        std::fs::write(&path, [garbage, cut, key, no_certificate, &b, cut].concat()).expect("it writes");
        assert_eq!(added(&[("SSL_CERT_FILE", &path)], &[], &[]), 1);
        // The same in its binary form.
        let der = certificates(b.as_bytes()).remove(0).expect("a certificate");
        std::fs::write(&path, der).expect("it writes");
        assert_eq!(added(&[("SSL_CERT_FILE", &path)], &[], &[]), 1);
    }

    #[test]
    fn what_is_compiled_in_is_not_there_twice() {
        let system = BUNDLES.iter().map(Path::new).find(|path| path.is_file());
        let Some(bundle) = system else { return };
        let content = std::fs::read(bundle).expect("it is read");
        let (all, more) = (certificates(&content).len(), added(&[], &[bundle], &[]));
        assert!(more < all / 2, "{more} of {all}");
    }
}
