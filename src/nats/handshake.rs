//! The two JSON documents of the handshake: the server's INFO and the client's CONNECT.

use serde::{Deserialize, Serialize};

/// What a server says about itself. Fields that it leaves out are false, zero or empty; unknown ones are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerInfo {
    pub server_id: String,
    pub server_name: String,
    pub version: String,
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
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// What a client says about itself. Unset credentials are left out.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
