//! Keys, tokens and certificates for the tests of who is who.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// An Ed25519 key in the notation of NATS.
pub struct Nkey {
    kind: u8,
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

impl Nkey {
    /// `kind` is the letter with which the public key begins: `U`ser, `A`ccount or `O`perator.
    pub fn new(kind: u8, seed: u8) -> Nkey {
        let seed = [seed; 32];
        Nkey { kind: (kind - b'A') << 3, seed, pair: Ed25519KeyPair::from_seed_unchecked(&seed).expect("a key") }
    }

    pub fn public(&self) -> String {
        checked_base32(&[&[self.kind], self.pair.public_key().as_ref()].concat())
    }

    pub fn seed(&self) -> String {
        let prefix = [18 << 3 | self.kind >> 5, (self.kind & 31) << 3];
        checked_base32(&[&prefix[..], &self.seed].concat())
    }

    /// A signed token that says what `claims` say about `subject`.
    pub fn jwt(&self, subject: &str, claims: Value) -> String {
        let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = encode(json!({"typ": "JWT", "alg": "ed25519-nkey"}));
        let body = json!({
            "jti": "test", "iat": 1_700_000_000, "iss": self.public(), "name": "test", "sub": subject, "nats": claims
        });
        let text = format!("{header}.{}", encode(body));
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(text.as_bytes()));
        format!("{text}.{signature}")
    }
}

fn checked_base32(bytes: &[u8]) -> String {
    let crc = bytes.iter().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc >> 15 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    });
    let bits: String =
        bytes.iter().chain(&crc.to_le_bytes()).map(|byte| format!("{byte:08b}")).collect::<Vec<_>>().concat();
    let digit = |chunk: &[u8]| {
        let text = format!("{:0<5}", String::from_utf8_lossy(chunk));
        let value = u8::from_str_radix(&text, 2).expect("bits");
        char::from(if value < 26 { b'A' + value } else { b'2' + value - 26 })
    };
    bits.as_bytes().chunks(5).map(digit).collect()
}

/// An operator with one account and one user in it.
pub struct Tenant {
    pub server_config: String,
    pub user_jwt: String,
    pub user: Nkey,
}

impl Tenant {
    pub fn new() -> Tenant {
        let (operator, account, user) = (Nkey::new(b'O', 1), Nkey::new(b'A', 2), Nkey::new(b'U', 3));
        let operator_jwt = operator.jwt(&operator.public(), json!({"type": "operator", "version": 2}));
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
            "leaf": -1
        });
        let account_jwt = operator.jwt(
            &account.public(),
            json!({"type": "account", "version": 2, "limits": limits, "default_permissions": {"pub": {}, "sub": {}}}),
        );
        let user_jwt = account.jwt(
            &user.public(),
            json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}),
        );
        let server_config = format!(
            "operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {}: {account_jwt} }}\n",
            account.public()
        );
        Tenant { server_config, user_jwt, user }
    }

    pub fn creds(&self) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n\n*****\n",
            self.user_jwt,
            self.user.seed()
        )
    }
}

/// Certificates in PEM files.
pub struct Certificates {
    pub ca: PathBuf,
    pub server: (PathBuf, PathBuf),
    pub client: (PathBuf, PathBuf),
}

impl Certificates {
    /// A CA in `dir`, and certificates from it for a server with these names and for a client.
    pub fn create(dir: &Path, names: &[&str]) -> Certificates {
        fs::create_dir_all(dir).expect("created");
        let ca_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_cert = params.self_signed(&ca_key).expect("signed");
        let issuer = Issuer::new(params, ca_key);
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            fs::write(&path, text).expect("written");
            path
        };
        let issue = |name: &str, names: &[&str]| {
            let key = KeyPair::generate().expect("a key");
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let cert = CertificateParams::new(names).expect("names").signed_by(&key, &issuer).expect("signed");
            (write(&format!("{name}.pem"), cert.pem()), write(&format!("{name}.key"), key.serialize_pem()))
        };
        Certificates {
            ca: write("ca.pem", ca_cert.pem()),
            server: issue("server", names),
            client: issue("client", &["client.example"]),
        }
    }

    /// The `tls` section of a server's configuration.
    pub fn config(&self, more: &str) -> String {
        format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}\n{more} }}",
            self.server.0, self.server.1, self.ca
        )
    }
}
