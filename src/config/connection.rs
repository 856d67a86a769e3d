//! The settings of the connection: the server and how to reach it, the embedded one, what its subjects begin with.

use super::ConfigError;
use super::nats_context::{self, Context};
use super::settings::{Origin, Settings};
use crate::broker::sockets::{self, Owner};
use crate::broker::{BrokerAuth, BrokerOptions};
use crate::nats::{self, Auth, ServerAddress};
use crate::service::agents::AGENT;
use crate::tools::child;
use crate::trust_roots;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Where and how to serve a broker.
pub(crate) struct BrokerPlan {
    pub listen: SocketAddr,
    pub options: BrokerOptions,
}

/// How to reach what listens on an address, from this machine.
pub(crate) fn address_of(listen: SocketAddr) -> ServerAddress {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    ServerAddress::from(SocketAddr::new(ip, listen.port()))
}

impl Settings {
    /// The named NATS context, if there is one.
    pub(super) fn context(&self, environment: &HashMap<String, String>) -> Result<Option<Context>, ConfigError> {
        let Some(name) = self.text("context") else { return Ok(None) };
        match nats_context::load(&self.context_folder(environment), name, &self.home) {
            Ok(context) => Ok(Some(context)),
            // Whoever names it, what is wrong is a file.
            Err(e) => Err(ConfigError::Invalid(self.wrong("context", &e.to_string()).to_string())),
        }
    }

    pub(super) fn context_folder(&self, environment: &HashMap<String, String>) -> PathBuf {
        nats_context::config_dir(|name| environment.get(name).cloned(), &self.home)
    }

    /// The credentials that are set here, which replace those of a context.
    pub(super) fn auth(&self) -> Option<Auth> {
        let text = |key: &str| self.text(key).map(str::to_string);
        if let Some(file) = self.path("creds") {
            Some(Auth::CredsFile(file))
        } else if let Some(file) = self.path("nkey") {
            Some(Auth::NkeyFile(file))
        } else if let Some(user) = text("user") {
            Some(Auth::UserPassword { user, password: text("password").unwrap_or_default() })
        } else {
            text("token").map(Auth::Token)
        }
    }

    /// The embedded broker, unless a server is named or it is forbidden.
    pub(super) fn broker(&self) -> Result<Option<BrokerPlan>, ConfigError> {
        let named = ["server", "context"].into_iter().find(|key| self.text(key).is_some());
        let origin = self.values.get("listen").map(|s| &s.origin);
        if let (Some(named), Some(Origin::Flag(_) | Origin::File)) = (named, origin) {
            let why =
                format!("the embedded broker is not used when a server is named ({named}: {})", self.origin(named));
            return Err(self.wrong("listen", &why));
        }
        let listen = self.address("listen")?;
        if named.is_some() || self.text("noBroker") == Some("true") {
            return Ok(None);
        }
        let auth = match self.auth() {
            Some(Auth::UserPassword { user, password }) => BrokerAuth::UserPassword { user, password },
            Some(Auth::Token(token)) => BrokerAuth::Token(token),
            _ => BrokerAuth::None,
        };
        if !listen.ip().is_loopback() && auth == BrokerAuth::None {
            let why = format!(
                "{listen} can be reached from other machines, and whoever reaches it can run programs here; set user and \
                 password, or token"
            );
            return Err(self.wrong("listen", &why));
        }
        let options = BrokerOptions {
            auth,
            is_held_by_tool: child::descendant_holds_socket,
            is_unlimited: Owner::is_this_process,
            ..BrokerOptions::default()
        };
        Ok(Some(BrokerPlan { listen, options }))
    }

    /// What decides whether there is a broker.
    pub(super) fn broker_origin(&self) -> String {
        let decisive = ["server", "context", "noBroker"].into_iter().find(|key| self.text(key).is_some());
        self.origin(decisive.unwrap_or("listen"))
    }

    pub(super) fn address(&self, key: &str) -> Result<SocketAddr, ConfigError> {
        let text = self.text(key).unwrap_or_default();
        text.parse().map_err(|_| self.wrong(key, &format!("{text:?} is no IP address with a port")))
    }

    /// Where to connect and how; the second value says where the server's address came from.
    pub(super) fn nats(
        &self,
        context: Option<Context>,
        environment: &HashMap<String, String>,
    ) -> Result<(nats::Options, String), ConfigError> {
        let rank = |key: &str| self.values.get(key).map_or(0, |s| s.origin.rank());
        let context_names_server = context.as_ref().is_some_and(|c| !c.servers.is_empty());
        // A context that a stronger source names brings its own server.
        let own = self.text("server").filter(|_| !context_names_server || rank("server") >= rank("context"));
        let (servers, origin) = match own {
            Some(urls) => {
                let servers = ServerAddress::parse_list(urls).map_err(|e| self.wrong("server", &e.to_string()))?;
                (servers, self.origin("server"))
            }
            None if context_names_server => (Vec::new(), "context".to_string()),
            None => (vec![address_of(self.address("listen")?)], self.origin("listen")),
        };
        let mut options = match context {
            Some(context) => {
                let current = self.text("context").map(|name| {
                    let (folder, name, home) = (self.context_folder(environment), name.to_string(), self.home.clone());
                    // What cannot be read now may be in the middle of being written.
                    Arc::new(move || nats_context::load(&folder, &name, &home).ok().map(|context| context.auth)) as _
                });
                nats::Options { current_auth: current, ..context.into_options(servers) }
            }
            None => nats::Options::new(servers),
        };
        options.name = "nats-pi-bridge".to_string();
        if ["server", "context"].iter().all(|key| self.text(key).is_none()) {
            options.check_server = sockets::check_found_server;
        }
        options.authorities = || trust_roots::trusted().authorities.clone();
        options.read_file = nats_context::read;
        if let Some(auth) = self.auth() {
            options.auth = auth;
            options.current_auth = None;
        }
        let tls = &mut options.tls;
        tls.first = self.text("tlsFirst").map_or(tls.first, |on| on == "true");
        for (key, place) in [("tlsCa", &mut tls.ca), ("tlsCert", &mut tls.cert), ("tlsKey", &mut tls.key)] {
            if let Some(path) = self.path(key) {
                *place = Some(path);
            }
        }
        if let Some(prefix) = self.text("inboxPrefix") {
            if !nats::valid_subject(prefix) {
                return Err(self.wrong("inboxPrefix", &format!("{prefix:?} is no subject")));
            }
            options.inbox_prefix = prefix.to_string();
        }
        Ok((options, origin))
    }

    pub(super) fn reply_prefixes(&self) -> Result<Vec<String>, ConfigError> {
        let prefixes = self.list("replyPrefixes");
        match prefixes.iter().find(|prefix| !nats::valid_subject(prefix.trim_end_matches('.'))) {
            Some(prefix) => Err(self.wrong("replyPrefixes", &format!("{prefix:?} is not the beginning of a subject"))),
            None => Ok(prefixes),
        }
    }

    pub(super) fn agent_alias(&self) -> Result<Option<String>, ConfigError> {
        let Some(name) = self.text("agentAlias") else { return Ok(None) };
        let is_token = (1..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
        if is_token && name != AGENT {
            return Ok(Some(name.to_string()));
        }
        let why = format!("{name:?} is no other name than {AGENT} of 1 to 63 of the characters a-z 0-9 _ -");
        Err(self.wrong("agentAlias", &why))
    }
}
