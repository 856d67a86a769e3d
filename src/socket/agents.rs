//! What programs that an agent has started may ask: nothing, or, where the operator grants it, what concerns other sessions.

use super::Shared;
use super::client::Client;
use super::requests::{Failure, Head, Kind};
use super::routes::Route;
use crate::contract::error::DaemonError;
use crate::contract::request;
use crate::tools::child::{self, Descent};
use std::sync::Arc;

/// What the operator lets agents do here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AgentControl {
    None,
    /// Everything but their own session, questions and approvals, and the daemon itself.
    Others,
}

impl AgentControl {
    pub(crate) fn parse(text: &str) -> Option<AgentControl> {
        match text {
            "none" => Some(AgentControl::None),
            "others" => Some(AgentControl::Others),
            _ => None,
        }
    }
}

const REFUSED: &str = "programs that an agent has started may not use this socket";
const NOBODY: &str = "the process that opened this connection has ended, so that nobody can tell whose it was";

/// The session of whose tools a client is one; `None` = it is nobody's tool.
///
/// # Errors
/// Why it is sent away.
pub(super) fn caller(shared: &Shared, pid: i32) -> Result<Option<Arc<Route>>, &'static str> {
    let child = match child::descent(pid) {
        Descent::Foreign => return Ok(None),
        Descent::Unknown => return Err(NOBODY),
        Descent::Own(child) => child,
    };
    if shared.agent_control == AgentControl::None {
        return Err(REFUSED);
    }
    // What has lost its parents is the daemon's child, and nobody's in particular.
    let session = child::session_of(child).ok_or(REFUSED)?;
    let table = shared.table();
    let route = table.routes.values().find(|route| *route.identity.instance_id == *session);
    route.cloned().map(Some).ok_or(REFUSED)
}

impl Client<'_> {
    pub(super) fn is_own_session(&self, route: &Route) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.token == route.token)
    }

    /// Makes a request what the client may ask for, if it may: it names its session as the source.
    ///
    /// # Errors
    /// It may not.
    pub(super) fn permit(&self, head: &Head, kind: &mut Kind) -> Result<(), Failure> {
        let Some(agent) = &self.agent else { return Ok(()) };
        let refused =
            |what: &str| Failure::Daemon(DaemonError::Forbidden { message: format!("an agent may not {what}") });
        if let Kind::Intake(asked, _) = kind {
            match &mut **asked {
                request::Request::List(_) => {}
                request::Request::Stop { session_id } if **session_id == *agent.identity.id => {
                    return Err(refused("stop its own session"));
                }
                request::Request::Stop { .. } => {}
                request::Request::Drain(_) => return Err(refused("drain the host")),
                request::Request::Create(create) => create.parent = Some(agent.identity.instance_id.clone()),
            }
            return Ok(());
        }
        if matches!(kind, Kind::Ping) && self.own.is_none() && head.session.is_none() {
            return Ok(());
        }
        if let Kind::Prompt(fields) = kind {
            fields.from = Some(format!("session:{}", agent.identity.id));
        }
        // Whatever is not named here is not an agent's to ask.
        let is_granted = matches!(
            kind,
            Kind::Ping
                | Kind::State
                | Kind::Subscribe { .. }
                | Kind::Commands
                | Kind::Prompt(_)
                | Kind::History(_)
                | Kind::Abort
                | Kind::Compact { .. }
                | Kind::Inspect
        );
        if !is_granted {
            return Err(refused("answer questions, or change sessions or the daemon"));
        }
        let route = self.route(head)?;
        if self.is_own_session(&route) {
            return Err(refused("control its own session"));
        }
        if matches!(kind, Kind::Prompt(_)) && !is_no_wider(&route, agent) {
            return Err(refused("prompt a session that may do more than its own"));
        }
        Ok(())
    }
}

/// Whether a session may do nothing that the agent's own may not, as it is with those that an agent has started.
fn is_no_wider(route: &Route, agent: &Route) -> bool {
    let sandbox = agent.stats.settings().sandbox;
    let is_within = sandbox.is_off() || route.identity.cwd.starts_with(&agent.identity.cwd);
    let secrets = &agent.identity.environment.secrets;
    let rules = route.identity.rules.narrowing();
    let budgets = route.stats.budgets();
    is_within
        && sandbox.covers(&route.stats.settings().sandbox)
        && route.identity.environment.secrets.iter().all(|secret| secrets.contains(secret))
        && agent.identity.rules.narrowing().iter().all(|rule| rules.contains(rule))
        && agent.stats.budgets().at_most(budgets) == budgets
}
