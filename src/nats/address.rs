//! Server addresses as users write them: `nats://user:pass@host:4222`, `tls://host`, `host`, lists with commas.

use super::auth::Auth;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// The port of nats-server when an address names none.
const DEFAULT_PORT: u16 = 4222;

/// One server to connect to. Shown without its user info, which is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerAddress {
    pub host: String,
    pub port: u16,
    /// TLS is demanded, whatever the server says.
    pub tls: bool,
    /// User and password, or a token, from before the `@`.
    pub(super) user_info: Option<Auth>,
    /// The name in the server's certificate, when it is not `host`: a server that was discovered is known by its IP
    /// address and shows the certificate of its cluster.
    pub(super) tls_name: Option<String>,
}

/// Why an address was refused. It never shows the user info.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressError {
    Empty,
    WebSocket,
    UnknownScheme(String),
    BadPort(String),
    BadHost(String),
    BadUserInfo,
    HasPath,
}

impl fmt::Display for AddressError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressError::Empty => write!(out, "the NATS server address is empty"),
            AddressError::WebSocket => write!(out, "NATS over WebSocket (ws://, wss://) is not supported"),
            AddressError::UnknownScheme(scheme) => write!(out, "unknown scheme {scheme:?} in a NATS server address"),
            AddressError::BadPort(port) => write!(out, "bad port {port:?} in a NATS server address"),
            AddressError::BadHost(host) => write!(out, "bad host {host:?} in a NATS server address"),
            AddressError::BadUserInfo => write!(out, "the user info of a NATS server address cannot be decoded"),
            AddressError::HasPath => write!(out, "a NATS server address has no path or query"),
        }
    }
}

impl std::error::Error for AddressError {}

impl ServerAddress {
    /// Who we are to this server. A key or a JWT is shown to every server; a password or token in the address goes before
    /// the general one, because it was written for this server.
    pub(super) fn auth<'a>(&'a self, general: &'a Auth) -> &'a Auth {
        match (general, &self.user_info) {
            (Auth::None | Auth::UserPassword { .. } | Auth::Token(_), Some(user_info)) => user_info,
            _ => general,
        }
    }

    /// Reads one address or several separated by commas.
    pub fn parse_list(text: &str) -> Result<Vec<ServerAddress>, AddressError> {
        text.split(',').map(str::trim).map(str::parse).collect()
    }
}

impl From<SocketAddr> for ServerAddress {
    fn from(address: SocketAddr) -> ServerAddress {
        let host = address.ip().to_string();
        ServerAddress { host, port: address.port(), tls: false, user_info: None, tls_name: None }
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<ServerAddress, AddressError> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("nats", text));
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "nats" => false,
            "tls" => true,
            "ws" | "wss" => return Err(AddressError::WebSocket),
            other => return Err(AddressError::UnknownScheme(other.into())),
        };
        // The last `@` divides: a password may contain one that was not escaped.
        let (user_info, place) = match rest.rsplit_once('@') {
            Some((user_info, place)) => (Some(parse_user_info(user_info)?), place),
            None => (None, rest),
        };
        let place = place.strip_suffix('/').unwrap_or(place);
        if place.is_empty() {
            return Err(AddressError::Empty);
        }
        if place.contains(['/', '?', '#']) {
            return Err(AddressError::HasPath);
        }
        let (host, port) = split_port(place)?;
        let host_ok = |char: char| char.is_alphanumeric() || matches!(char, '.' | '-' | '_' | ':' | '%');
        if host.is_empty() || !host.chars().all(host_ok) {
            return Err(AddressError::BadHost(host.into()));
        }
        Ok(ServerAddress { host: host.into(), port, tls, user_info, tls_name: None })
    }
}

/// Takes `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address apart.
fn split_port(place: &str) -> Result<(&str, u16), AddressError> {
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(|| AddressError::BadHost(place.into()))?;
        match rest.strip_prefix(':') {
            None if rest.is_empty() => (host, None),
            None => return Err(AddressError::BadHost(place.into())),
            Some(port) => (host, Some(port)),
        }
    } else {
        match place.split_once(':') {
            Some((_, rest)) if rest.contains(':') => (place, None),
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    };
    match port {
        None | Some("") => Ok((host, DEFAULT_PORT)),
        Some(port) => match port.parse() {
            Ok(number) if number > 0 => Ok((host, number)),
            _ => Err(AddressError::BadPort(port.into())),
        },
    }
}

fn parse_user_info(text: &str) -> Result<Auth, AddressError> {
    Ok(match text.split_once(':') {
        Some((user, password)) => {
            Auth::UserPassword { user: percent_decode(user)?, password: percent_decode(password)? }
        }
        None => Auth::Token(percent_decode(text)?),
    })
}

fn percent_decode(text: &str) -> Result<String, AddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = (digit(), digit());
                let code = high.zip(low).map(|(high, low)| high * 16 + low);
                code.and_then(|code| u8::try_from(code).ok()).ok_or(AddressError::BadUserInfo)?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| AddressError::BadUserInfo)
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tls {
            out.write_str("tls://")?;
        }
        if self.host.contains(':') {
            write!(out, "[{}]:{}", self.host, self.port)
        } else {
            write!(out, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for ServerAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ServerAddress({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(user: &str, password: &str) -> Option<Auth> {
        Some(Auth::UserPassword { user: user.into(), password: password.into() })
    }

    #[test]
    fn reads_addresses() {
        let token = |token: &str| Some(Auth::Token(token.into()));
        let table = [
            ("h", "h:4222", false, None),
            (" h:5 ", "h:5", false, None),
            ("nats://h", "h:4222", false, None),
            ("NATS://h:/", "h:4222", false, None),
            ("tls://h.example:4443/", "tls://h.example:4443", true, None),
            ("nats://u:p%40s%3as@h:1", "h:1", false, user("u", "p@s:s")),
            ("u:p@ss@h", "h:4222", false, user("u", "p@ss")),
            ("nats://u:@h", "h:4222", false, user("u", "")),
            ("nats://t%C3%BC@h", "h:4222", false, token("tü")),
            ("nats://[::1]:7", "[::1]:7", false, None),
            ("[fe80::1%eth0]", "[fe80::1%eth0]:4222", false, None),
            ("::1", "[::1]:4222", false, None),
        ];
        for (text, shown, tls, user_info) in table {
            let address: ServerAddress = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((address.to_string().as_str(), address.tls), (shown, tls), "{text}");
            assert!(address.user_info == user_info, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_address_and_keeps_secrets() {
        let table = [
            ("", AddressError::Empty),
            ("nats://", AddressError::Empty),
            ("nats://secret@", AddressError::Empty),
            ("ws://h", AddressError::WebSocket),
            ("wss://secret@h", AddressError::WebSocket),
            ("http://h", AddressError::UnknownScheme("http".into())),
            ("h:0", AddressError::BadPort("0".into())),
            ("h:65536", AddressError::BadPort("65536".into())),
            ("h:x", AddressError::BadPort("x".into())),
            ("[::1", AddressError::BadHost("[::1".into())),
            ("[::1]x", AddressError::BadHost("[::1]x".into())),
            (":4222", AddressError::BadHost("".into())),
            ("a b", AddressError::BadHost("a b".into())),
            ("h/path", AddressError::HasPath),
            ("nats://secret%@h", AddressError::BadUserInfo),
            ("nats://secret%zz@h", AddressError::BadUserInfo),
            ("nats://secret%ff@h", AddressError::BadUserInfo),
        ];
        for (text, error) in table {
            let result = text.parse::<ServerAddress>();
            assert!(!format!("{result:?}").contains("secret"), "{text}");
            assert_eq!(result, Err(error), "{text}");
        }
        let address: ServerAddress = "nats://u:secret@h".parse().expect("valid");
        assert!(!format!("{address} {address:?}").contains("secret"));
    }

    #[test]
    fn reads_lists() {
        let list = ServerAddress::parse_list("nats://a:1, tls://b ,c").expect("valid");
        assert_eq!(list.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "tls://b:4222", "c:4222"]);
        assert_eq!(ServerAddress::parse_list("a,,b"), Err(AddressError::Empty));
    }
}
