//! Prompts for a session that has no owner at the moment, see `fleet`: left by the host that accepted them, taken in by the next
//! owner before anything else.

use super::memory::AcceptedData;
use super::recovery::Accepted;
use super::{Held, Session};
use crate::contract::error::ReplyError;
use crate::contract::prompt::{EndReason, Incoming, Prompt};
use crate::contract::reply::{Reply, SilentReply};
use crate::contract::sender::AgentSender;
use crate::contract::wire::Wire;
use crate::fleet::{InboxError, InboxPrompt};
use serde_json::Value;
use std::io;
use std::sync::Arc;
use std::time::Instant;

impl<W: Wire> Session<W> {
    /// Leaves the first prompt of a session that was to be made to the next owner of the one that there is. It is accepted then.
    ///
    /// # Errors
    /// Somebody has it, or it is not stored.
    pub(super) fn leave_to_next(&self, prompt: &Prompt, reason: EndReason) -> Result<(), ReplyError> {
        let storing = self.storing.as_ref().filter(|storing| storing.takes && !prompt.reply.ends_with_host());
        let Some(storing) = storing else { return Err(self.farewell(reason)) };
        let (from, sender) = (prompt.from.as_deref(), prompt.sender.as_ref());
        let data = AcceptedData::of(&prompt.message, from, sender, prompt.reply.address(), None);
        let data = serde_json::to_vec(&data).map_err(|e| ReplyError::storage(&e.into()))?;
        let stored = storing.log.put_into_inbox(&data, self.options.max_queue);
        stored.map_err(|why| match why {
            InboxError::Full(waiting) => ReplyError::queue_full(waiting),
            InboxError::Failed(why) => ReplyError::storage(&io::Error::other(why)),
        })
    }

    /// Takes in what had waited when the session became this host's.
    pub(super) fn take_inbox(&mut self) {
        let prompts = self.storing.as_mut().map(|storing| std::mem::take(&mut storing.inbox));
        self.take_in(prompts.unwrap_or_default());
    }

    /// Takes in prompts that were accepted by other hosts, without a look at whether there is room: each once, though it may have
    /// been taken in by a host that died before it could remove it.
    pub(super) fn take_in(&mut self, prompts: Vec<InboxPrompt>) {
        for InboxPrompt { sequence, prompt, is_late } in prompts {
            match self.read_left(&prompt) {
                Some(prompt) if is_late => self.refuse(&*prompt.reply, ReplyError::stopped()),
                Some(prompt) => {
                    self.tell_input(&prompt);
                    match self.keep(&prompt) {
                        Ok(()) => self.once_stored(Held::Inbox(Box::new(prompt))),
                        Err(e) => self.refuse(&*prompt.reply, ReplyError::storage(&e)),
                    }
                }
                None => {}
            }
            self.once_stored(Held::Taken(sequence));
        }
    }

    /// A prompt as it was stored, unless it was taken in before or its caller has sent it twice.
    fn read_left(&self, stored: &[u8]) -> Option<Prompt> {
        let data: Value = serde_json::from_slice(stored).unwrap_or_default();
        let accepted = Accepted::from_json(&data);
        if accepted.id.is_empty() {
            log::warn!("session {}: what is no prompt waited for it", self.identity.id);
            return None;
        }
        if self.memory.has_accepted(&accepted.id) {
            return None;
        }
        let wire = self.wire.as_ref().zip(accepted.reply.as_ref());
        if wire.is_some_and(|(wire, address)| wire.joins(address)) {
            return None;
        }
        let reply = wire.and_then(|(wire, address)| wire.reply_to(address));
        let Accepted { id, text, images, expanded, from, trace, .. } = accepted;
        let message = self.with_room(Incoming { id, text, images, expand: !expanded, trace, room: None });
        let reply = reply.unwrap_or_else(|| Arc::new(SilentReply) as Arc<dyn Reply>);
        let sender = AgentSender::read(&data["sender"]);
        Some(Prompt { message, from, sender, reply, received: Instant::now() })
    }

    /// The session ends here before what it was taking in is stored. If it goes on somewhere, that is taken in there; else `error`
    /// is why not.
    pub(super) fn end_inbox(&mut self, reason: EndReason, error: &ReplyError) {
        let goes_on = reason.is_by_host();
        let held = self.storing.as_mut().map(|storing| storing.take_held(true)).unwrap_or_default();
        for held in held {
            match held {
                Held::Inbox(prompt) if goes_on => drop(prompt.reply.leave()),
                Held::Inbox(prompt) => {
                    self.record_settled(std::slice::from_ref(&prompt.message.id), "refused");
                    self.refuse(&*prompt.reply, error.clone());
                }
                Held::Taken(sequence) if !goes_on => self.taken(sequence),
                Held::Taken(_) | Held::Prompt(_) | Held::Verdict(..) | Held::Call { .. } | Held::Answer(..) => {}
            }
        }
    }
}
