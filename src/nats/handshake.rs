//! The two JSON documents of the handshake: the server's INFO and the client's CONNECT.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Reads one of the two documents as nats-server reads JSON: a null is an absent field, of a doubled field the last one
/// counts, and upper and lower case of names are the same. async-nats 0.51 writes `"name":null` where no name is set.
///
/// # Errors
/// It is no JSON object, or a field has another type.
pub fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    let fields: Map<String, Value> = serde_json::from_slice(json)?;
    let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
    serde_json::from_value(fields.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect())
}

/// What a server says about itself. Fields that it leaves out are false, zero or empty; unknown ones are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerInfo {
    pub server_id: String,
    pub server_name: String,
    pub version: String,
    /// What the server is built with. It means nothing to us, and some client libraries insist on it.
    pub go: String,
    pub host: String,
    pub port: u16,
    pub headers: bool,
    /// Largest header block and payload of a message, in bytes.
    pub max_payload: u64,
    #[serde(skip_serializing_if = "is_false")]
    pub auth_required: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub tls_required: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub tls_available: bool,
    /// To be signed by clients that prove who they are with a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Other servers of the cluster, as `host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_urls: Option<Vec<String>>,
    /// Lame duck: the server is about to stop.
    #[serde(skip_serializing_if = "is_false")]
    pub ldm: bool,
    pub proto: u8,
    #[serde(skip_serializing_if = "is_zero")]
    pub client_id: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_ip: String,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// What a client says about itself. Unset credentials are left out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectInfo {
    /// The server answers every operation with `+OK`.
    pub verbose: bool,
    /// The server checks subjects strictly.
    pub pedantic: bool,
    pub tls_required: bool,
    pub name: String,
    pub lang: String,
    pub version: String,
    /// 1: the client understands INFO at any time.
    pub protocol: u8,
    /// The client gets what it publishes itself, if it subscribed to it.
    pub echo: bool,
    pub headers: bool,
    /// The server answers a request that nobody listens for with status 503.
    pub no_responders: bool,
    #[serde(flatten)]
    pub credentials: Credentials,
}

impl Default for ConnectInfo {
    /// What nats-server assumes where a client says nothing.
    fn default() -> ConnectInfo {
        ConnectInfo {
            verbose: true,
            pedantic: true,
            tls_required: false,
            name: String::new(),
            lang: String::new(),
            version: String::new(),
            protocol: 0,
            echo: true,
            headers: false,
            no_responders: false,
            credentials: Credentials::default(),
        }
    }
}

/// The part of CONNECT that says who the client is.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Credentials {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<String>,
    /// The public key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nkey: Option<String>,
    /// The signature of the server's nonce, base64 for URLs without padding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sig: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_as_nats_server_does() {
        for (json, verbose, name) in [
            (r#"{"verbose":false,"name":null}"#, false, ""),
            (r#"{"name":"a","verbose":true,"name":"b","verbose":false}"#, false, "b"),
            (r#"{"Verbose":false,"NAME":"c","unknown":{"x":[null]}}"#, false, "c"),
            ("{}", true, ""),
        ] {
            let connect: ConnectInfo = read(json.as_bytes()).expect(json);
            assert_eq!((connect.verbose, connect.name.as_str()), (verbose, name), "{json}");
        }
        let credentials =
            read::<ConnectInfo>(br#"{"user":"u","pass":null,"auth_token":"t"}"#).expect("it reads").credentials;
        assert_eq!(
            (credentials.user.as_deref(), credentials.pass, credentials.auth_token.as_deref()),
            (Some("u"), None, Some("t"))
        );
        let info: ServerInfo =
            read(br#"{"server_id":"s","nonce":null,"connect_urls":null,"port":4222}"#).expect("it reads");
        assert_eq!((info.server_id.as_str(), info.nonce, info.port), ("s", None, 4222));
        for json in ["", "null", "[]", r#"{"verbose":"yes"}"#, r#"{"name":1}"#] {
            assert!(read::<ConnectInfo>(json.as_bytes()).is_err(), "{json}");
        }
    }
}
