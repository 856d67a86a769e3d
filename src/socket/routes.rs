//! Which sessions there are, for requests that name one, for the listeners and for the registry.

use super::link::Link;
use crate::contract::identity::SessionIdentity;
use crate::contract::prompt::Command;
use crate::contract::session::SessionStats;
use crate::sync::lock;
use crossbeam_channel::Sender;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// The way to one session.
pub(super) struct Route {
    /// Never used twice, so that what belongs to a session cannot be taken for that of its successor of the same name.
    pub token: u64,
    pub identity: Arc<SessionIdentity>,
    pub stats: Arc<SessionStats>,
    pub commands: Sender<Command>,
    /// Its own socket; ephemeral runs have none.
    pub socket: Option<PathBuf>,
    /// The instructions of skills that were sent to the model, so that they are not sent again.
    skills_sent: Mutex<BTreeSet<u64>>,
}

impl Route {
    pub(super) fn new(
        token: u64,
        identity: Arc<SessionIdentity>,
        stats: Arc<SessionStats>,
        commands: Sender<Command>,
        socket: Option<PathBuf>,
    ) -> Route {
        Route { token, identity, stats, commands, socket, skills_sent: Mutex::default() }
    }

    /// Takes note of a skill's instructions; true if they were not sent before.
    pub(super) fn first_time(&self, skill: u64) -> bool {
        lock(&self.skills_sent).insert(skill)
    }
}

/// Everything that the threads of the side channel look up.
#[derive(Default)]
pub(super) struct Table {
    /// By token, which is in the order of creation.
    pub routes: BTreeMap<u64, Arc<Route>>,
    /// The sessions' listening sockets, by token.
    pub listeners: BTreeMap<u64, OwnedFd>,
    pub clients: BTreeMap<u64, Arc<Link>>,
}

/// Why a request has no session.
#[derive(Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// Nobody has this id.
    Unknown(String),
    /// None was named, and there is not exactly one. The ids of those that there are.
    Unclear(Vec<String>),
}

impl Table {
    /// The named sessions, oldest first.
    pub(super) fn named(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.values().filter(|route| route.identity.named)
    }

    /// The only named session, if there is exactly one.
    pub(super) fn only(&self) -> Option<&Arc<Route>> {
        let mut named = self.named();
        named.next().filter(|_| named.next().is_none())
    }

    /// The session of that id, or the only one.
    ///
    /// # Errors
    /// There is no such session.
    pub(super) fn find(&self, id: Option<&str>) -> Result<Arc<Route>, NoRoute> {
        let found = match id {
            Some(id) => self.routes.values().rev().find(|route| *route.identity.id == *id),
            None => self.only(),
        };
        found.cloned().ok_or_else(|| match id {
            Some(id) => NoRoute::Unknown(id.to_string()),
            None => NoRoute::Unclear(self.named().map(|route| route.identity.id.to_string()).collect()),
        })
    }
}

impl std::fmt::Display for NoRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoRoute::Unknown(id) => write!(f, "no session {id:?}"),
            NoRoute::Unclear(ids) if ids.is_empty() => f.write_str("there is no session"),
            NoRoute::Unclear(ids) => {
                write!(f, "there are {} sessions; say which with \"session\": {}", ids.len(), ids.join(", "))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::contract::session::SessionSettings;
    use crate::model::{ThinkingLevel, offline};
    use crossbeam_channel::{Receiver, bounded};
    use std::time::Duration;

    /// A route, and what is sent along it.
    pub(crate) fn route(token: u64, id: &str, named: bool) -> (Arc<Route>, Receiver<Command>) {
        let identity = SessionIdentity {
            id: id.to_owned().try_into().expect("an id"),
            subject: None,
            instance_id: format!("i{token}").try_into().expect("an id"),
            named,
            cwd: "/project".into(),
            from: None,
            host: None,
            workspace: crate::contract::identity::Workspace::Local,
            on_restart: crate::contract::identity::OnRestart::Continue,
            project_trusted: false,
            tools: Vec::new(),
            rules: Arc::default(),
            parent: None,
            environment: crate::contract::environment::SessionEnvironment::default(),
            created_at_start: 0,
            created_ms: 1_700_000_000_000,
        };
        let settings = SessionSettings {
            model: Arc::new(offline::model()),
            thinking: ThinkingLevel::Off,
            name: None,
            max_lifetime: Duration::ZERO,
            deadline: None,
            sandbox: Arc::new(crate::tools::runner::Sandbox::off()),
            file: None,
        };
        let (commands, receiver) = bounded(8);
        let stats = Arc::new(SessionStats::new(settings));
        (Arc::new(Route::new(token, Arc::new(identity), stats, commands, None)), receiver)
    }

    fn table(routes: &[(&str, bool)]) -> Table {
        let mut table = Table::default();
        for (token, (id, named)) in (1..).zip(routes) {
            table.routes.insert(token, route(token, id, *named).0);
        }
        table
    }

    #[test]
    fn a_session_is_found_by_id_or_by_being_the_only_one() {
        let found = |routes: &[(&str, bool)], id| match table(routes).find(id) {
            Ok(route) => route.identity.id.to_string(),
            Err(why) => why.to_string(),
        };
        let (a, b, run) = (("a", true), ("b", true), ("run-1", false));
        for (routes, id, expected) in [
            (&[][..], None, "there is no session"),
            (&[], Some("a"), "no session \"a\""),
            (&[a], None, "a"),
            (&[a, run], None, "a"),
            (&[run], None, "there is no session"),
            (&[run], Some("run-1"), "run-1"),
            (&[a, b], None, "there are 2 sessions; say which with \"session\": a, b"),
            (&[a, b], Some("b"), "b"),
        ] {
            assert_eq!(found(routes, id), expected, "{routes:?} {id:?}");
        }
    }
}
