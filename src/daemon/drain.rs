//! Draining: on the operator's word nothing new begins, and what is worked on ends; until the operator says otherwise.

use super::requests::Work;
use super::{Daemon, LAST_CALL, Phase, starting};
use crate::contract::error::DaemonError;
use crate::contract::prompt::Command;
use crate::contract::request::{Drain, Request};
use serde_json::{Value, json};
use std::collections::BTreeSet;

impl Daemon {
    /// Begins with a request that is about one daemon, of several maybe.
    pub(super) fn begin_drain(&mut self, work: Work, others: &BTreeSet<String>) {
        let Request::Drain(Drain { host, .. }) = &work.request else { return self.perform(work) };
        let is_meant =
            |other: &&String| host.as_ref().is_some_and(|host| host == *other || host == self.peers.name(other));
        let meant = others.iter().find(is_meant);
        match (host, meant) {
            (Some(host), Some(other)) if !self.peers.is_me(host) => self.hand_on(&work, other),
            (None, _) if !others.is_empty() => {
                let hosts: Vec<&str> =
                    others.iter().map(|other| self.peers.name(other)).chain([self.peers.me()]).collect();
                let message = format!("several daemons serve this owner; name one as host: {}", hosts.join(", "));
                self.refuse(work.wire, &work.message, &DaemonError::InvalidRequest { message });
            }
            (Some(_) | None, _) => self.perform(work),
        }
    }

    /// Lets nothing new begin, or lets it again.
    ///
    /// # Errors
    /// Another daemon is meant.
    pub(super) fn drain(&mut self, drain: &Drain) -> Result<Value, DaemonError> {
        if let Some(host) = drain.host.as_deref().filter(|host| !self.peers.is_me(host)) {
            let message = format!("no daemon of this owner is called {:?}", crate::contract::error::echo(host));
            return Err(DaemonError::InvalidRequest { message });
        }
        if self.slots.is_paused() != drain.on {
            log::info!("{}", if drain.on { "draining: nothing new begins" } else { "new work begins again" });
        }
        let goes_on = self.slots.is_paused() && !drain.on && matches!(self.phase, Phase::Serving);
        self.slots.pause(drain.on);
        // Those that other hosts can go on with go there, and those that have not gone stay after all.
        self.send_all_elsewhere();
        if goes_on {
            self.tell_all(|| Command::Stay);
        }
        self.share_intake();
        self.tell_status();
        let queued: usize = self.sessions.values().map(|entry| entry.stats.queued()).sum();
        let (me, running) = (self.peers.me(), self.slots.used());
        Ok(json!({"ok": true, "host": me, "draining": drain.on, "running": running, "queued": queued}))
    }

    /// While it drains, a daemon leaves requests to the others, if there are any; alone it refuses them itself.
    pub(super) fn share_intake(&mut self) {
        if !matches!(self.phase, Phase::Serving) {
            return;
        }
        let leaves = self.slots.is_paused() && self.peers.are_there();
        match (leaves, self.intake_subscriptions.is_empty()) {
            (true, false) => self.intake_subscriptions.drain(..).for_each(|subscription| {
                subscription.drain(LAST_CALL);
            }),
            (false, true) => match starting::subscribe_to_intake(&self.host, &self.intake.subject, &self.intake_room) {
                Ok(subscriptions) => self.intake_subscriptions = subscriptions,
                Err(why) => log::warn!("requests are not taken: {why}"),
            },
            (true, true) | (false, false) => {}
        }
    }
}
