//! The daemon's side of the agent protocol: discovery and signs of life of all agents.

use super::{Daemon, Entry};
use crate::clock::now_ms;
use crate::nats::Message;
use crate::service::micro;
use crate::service::replies::send_document;

impl Daemon {
    /// Answers a discovery request for all instances that it asks.
    pub(super) fn discovery(&self, message: &Message) {
        let (Some(reply), Some(query)) = (&message.reply, micro::parse_subject(&message.subject)) else { return };
        if let Some(document) = self.intake.answer(query, || self.statistics()) {
            send_document(&self.connection, reply, &document);
        }
        for agent in self.host.agents(None) {
            let id = agent.instance_id();
            let controller = self.controller.instance(&id, agent, &self.host);
            if query.asks(controller.service, controller.id) {
                send_document(&self.connection, reply, &controller.document(query.verb));
            }
        }
        for entry in self.sessions.values() {
            let Some(service) = &entry.service else { continue };
            for document in service.answer(query, &self.host, &entry.identity, &entry.stats) {
                send_document(&self.connection, reply, &document);
            }
        }
    }

    /// A sign of life of every agent.
    pub(super) fn heartbeats(&self) {
        self.host.agents(None).for_each(|agent| self.host.heartbeat(agent, now_ms()));
        for entry in self.sessions.values() {
            self.beat(entry);
        }
        self.connection.flush();
    }

    /// A sign of life of one session, which callers have to hear of before it can be prompted.
    pub(super) fn heartbeat(&self, entry: &Entry) {
        self.beat(entry);
        self.connection.flush();
    }

    /// Goes out with the next flush, so that a thousand of them take few system calls.
    fn beat(&self, entry: &Entry) {
        if entry.service.is_none() {
            return;
        }
        self.host.agents(Some(&entry.identity)).for_each(|agent| self.host.heartbeat(agent, now_ms()));
    }
}
