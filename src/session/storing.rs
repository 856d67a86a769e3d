//! What waits until the session's log has everything that it rests on, where sessions outlive their host: see `fleet`.

use super::Session;
use super::auditing::Line;
use crate::cancel::Cancel;
use crate::contract::control::{Answer, Respond};
use crate::contract::denial::{Denial, DeniedBy};
use crate::contract::error::ReplyError;
use crate::contract::prompt::{Command, EndReason, Prompt};
use crate::contract::reply::{Layer, Reply};
use crate::contract::wire::Wire;
use crate::event_log::Envelope;
use crate::fleet::{InboxPrompt, Lease, SessionLog, Told};
use crate::turn::Verdict;
use crossbeam_channel::{Receiver, Sender, never, select};
use serde_json::json;
use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a session that ends with its host waits until what it wrote last is stored.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Between two looks whether the session is still this host's. Only then do events wait.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// The event of a question, which the wire tells in a way of its own.
const QUESTION: &str = "question";

/// The log of a session, and what waits for it.
pub(super) struct Storing {
    pub(super) log: SessionLog,
    lease: Lease,
    /// In the order in which it was written, each with the number that it waits for.
    waiting: VecDeque<(u64, Held)>,
    /// Why the session is not to be here: another host has it, or it cannot be stored.
    why: Option<ReplyError>,
    /// Nobody has it, and its next owner takes what is left to it.
    pub(super) takes: bool,
    /// What was left to this host, as long as the session does not take it in.
    pub(super) inbox: Vec<InboxPrompt>,
    /// The last event that was told on the wire, if others follow it that are not told there yet.
    told_until: Option<u64>,
}

/// What is done once everything that was written before is stored.
pub(super) enum Held {
    /// A prompt that is written down is accepted.
    Prompt(Box<Prompt>),
    /// A prompt that another host has accepted is taken in.
    Inbox(Box<Prompt>),
    /// The prompts that other hosts have accepted need not be kept for anybody any more, up to this one.
    Taken(u64),
    /// The turn goes on.
    Verdict(Sender<Verdict>, Verdict, Vec<Line>),
    /// A call that somebody allowed runs.
    Call { settle: Sender<Result<(), Denial>>, rule: Option<Arc<str>>, lines: Vec<Line> },
    /// Somebody gets an answer.
    Answer(Respond, Result<Answer, ReplyError>),
}

/// A turn's reply, which says nothing while it is not sure that the session is still this host's: another one may be saying it.
/// The turn waits meanwhile.
struct Leased {
    reply: Arc<dyn Reply>,
    lease: Lease,
    cancel: Cancel,
}

impl Layer for Leased {
    fn inner(&self) -> &dyn Reply {
        &*self.reply
    }

    fn may_speak(&self) -> bool {
        while !self.lease.is_current() {
            if self.cancel.sleep(LOOK) {
                return false;
            }
        }
        true
    }
}

impl Storing {
    pub(super) fn new(log: SessionLog) -> Storing {
        Storing {
            lease: log.lease(),
            log,
            waiting: VecDeque::new(),
            why: None,
            takes: false,
            inbox: Vec::new(),
            told_until: None,
        }
    }

    /// Takes out what waits: of the prompts that other hosts have accepted, or all else.
    pub(super) fn take_held(&mut self, of_inbox: bool) -> Vec<Held> {
        let is_meant = |(_, held): &(u64, Held)| matches!(held, Held::Inbox(_) | Held::Taken(_)) == of_inbox;
        let (taken, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting).into_iter().partition(is_meant);
        self.waiting = left.into();
        taken.into_iter().map(|(_, held)| held).collect()
    }
}

impl<W: Wire> Session<W> {
    /// What becomes of the log, if there is one.
    pub(super) fn told(&self) -> Receiver<Told> {
        self.storing.as_ref().map_or_else(never, |storing| storing.log.told().clone())
    }

    /// Whether it is sure that the session is still this host's. While it is not, nothing that the turn does is told.
    pub(super) fn is_current(&self) -> bool {
        self.storing.as_ref().is_none_or(|storing| storing.lease.is_current())
    }

    /// The reply of a turn, silent while that is not sure.
    pub(super) fn leased(&self, reply: Arc<dyn Reply>, cancel: &Cancel) -> Arc<dyn Reply> {
        match &self.storing {
            Some(storing) => Arc::new(Leased { reply, lease: storing.lease.clone(), cancel: cancel.clone() }),
            None => reply,
        }
    }

    /// Whether an event is not to be told on the wire now: while it is not sure that the session is still this host's, another
    /// one may be telling its own there. It is told later, see [`Session::tell_late`].
    pub(super) fn is_silent(&mut self, event: &Envelope) -> bool {
        let Some(storing) = &mut self.storing else { return false };
        let silent = storing.told_until.is_some() || !storing.lease.is_current();
        if silent {
            storing.told_until.get_or_insert(event.seq - 1);
        }
        silent
    }

    /// Tells on the wire what could not be told there before, now that the session is sure to be this host's, or is no other's
    /// as far as it is known.
    pub(super) fn tell_late(&mut self, anyway: bool) {
        let Some(storing) = self.storing.as_mut().filter(|storing| storing.told_until.is_some()) else { return };
        if !anyway && !storing.lease.is_current() {
            return;
        }
        let since = storing.told_until.take().unwrap_or_default();
        for envelope in self.log.replay(since) {
            match &mut self.wire {
                Some(wire) if envelope.event == QUESTION => drop(wire.call_for(&envelope)),
                Some(wire) => drop(wire.listener().map(|listener| listener.event(&envelope))),
                None => {}
            }
        }
    }

    /// Prompts wait to be accepted.
    pub(super) fn has_held_prompts(&self) -> bool {
        let is_prompt = |(_, held): &(u64, Held)| matches!(held, Held::Prompt(_) | Held::Inbox(_));
        self.storing.as_ref().is_some_and(|storing| storing.waiting.iter().any(is_prompt))
    }

    /// Waits until the session is this host's; returns why it never is. A new one whose first prompt somebody `waits` for does
    /// not begin where it cannot be stored.
    pub(super) fn wait_owned(&mut self, waits: bool) -> Option<EndReason> {
        self.storing.as_ref()?.log.claim();
        let told = self.told();
        loop {
            select! {
                recv(told) -> told => match told {
                    Ok(Told::Owned(inbox)) => {
                        if let Some(storing) = &mut self.storing {
                            storing.inbox = inbox;
                        }
                        return None;
                    }
                    Ok(Told::Moved { host, is_there, takes }) => {
                        self.storing.iter_mut().for_each(|storing| storing.takes = takes);
                        return Some(self.moved(host, is_there));
                    }
                    Ok(Told::Failed(why)) => {
                        log::warn!("session {}: it is not known whose it is: {why}", self.identity.id);
                        if let Some(storing) = self.storing.as_mut().filter(|_| waits) {
                            storing.why = Some(ReplyError::storage(&io::Error::other(why)));
                            return Some(EndReason::Stopped);
                        }
                    }
                    Ok(Told::Stored(_) | Told::Given | Told::Inbox(_)) => {}
                    Err(_) => return Some(EndReason::ShutDown),
                },
                recv(self.commands) -> command => {
                    let why = "the session waits until it is known that it is this host's";
                    if let Some(reason) = self.is_too_early(command.ok(), why) {
                        return Some(reason);
                    }
                }
            }
        }
    }

    /// Deals with a command that comes before the session has begun; returns why it ends, if that is what is wanted.
    pub(super) fn is_too_early(&self, command: Option<Command>, why: &str) -> Option<EndReason> {
        match command {
            Some(Command::End(reason)) => Some(reason),
            Some(Command::Control(request)) => {
                (request.respond)(Err(ReplyError::busy(why)));
                None
            }
            Some(Command::Drain | Command::HandOver(_) | Command::Stay) => None,
            // The daemon is gone.
            None => Some(EndReason::ShutDown),
        }
    }

    /// The session is not begun here, and other hosts may have it.
    pub(super) fn leave_to_others(&mut self, why: ReplyError) {
        if let Some(storing) = &mut self.storing {
            storing.log.pass();
            storing.why = Some(why);
        }
    }

    fn moved(&mut self, host: String, is_there: bool) -> EndReason {
        if let Some(storing) = &mut self.storing {
            log::info!("session {}: it is the host {host}'s now", self.identity.id);
            storing.why = Some(if is_there { ReplyError::moved(&host) } else { ReplyError::host_down(&host) });
        }
        EndReason::Moved
    }

    /// Why the session is not to be here, if it is not.
    pub(super) fn is_elsewhere(&self) -> Option<ReplyError> {
        self.storing.as_ref().and_then(|storing| storing.why.clone())
    }

    /// Has another host know how to go on with the session.
    pub(super) fn store_state(&mut self) {
        let starts = self.state.as_ref().map(|state| state.starts());
        let (Some(_), Some(file), Some(starts)) = (&self.storing, self.memory.path(), starts) else { return };
        let file = file.to_path_buf();
        let state = json!({"session": self.saved(file.clone()), "starts": starts}).to_string();
        if let Some(storing) = &mut self.storing {
            storing.log.state(&file, state.into_bytes());
        }
    }

    /// The conversation was summed up.
    pub(super) fn tell_compacted(&mut self) {
        self.storing.iter_mut().for_each(|storing| storing.log.compacted());
    }

    /// The prompts that other hosts have accepted are taken in, up to this one.
    pub(super) fn taken(&mut self, sequence: u64) {
        self.storing.iter_mut().for_each(|storing| storing.log.taken(sequence));
    }

    /// Has what was written so far stored, without waiting for that.
    pub(super) fn store(&mut self) {
        if let Some(storing) = &mut self.storing {
            storing.log.store();
        }
    }

    /// Does this once what was written so far is stored: at once where nothing is.
    pub(super) fn once_stored(&mut self, held: Held) {
        match &mut self.storing {
            Some(storing) => {
                let number = storing.log.store();
                storing.waiting.push_back((number, held));
            }
            None => self.release(held),
        }
    }

    fn release(&mut self, held: Held) {
        match held {
            Held::Prompt(prompt) | Held::Inbox(prompt) => self.accept_kept(*prompt),
            Held::Taken(sequence) => self.taken(sequence),
            Held::Verdict(to, verdict, lines) => self.give_now(&to, verdict, lines),
            Held::Call { settle, rule, lines } => self.run_allowed(settle, rule, lines),
            Held::Answer(respond, answer) => respond(answer),
        }
    }

    /// The log tells something; returns a reason to end.
    pub(super) fn stored(&mut self, told: Told) -> ControlFlow<EndReason> {
        match told {
            Told::Owned(_) | Told::Given => {}
            Told::Inbox(prompts) => self.take_in(prompts),
            Told::Stored(number) => {
                while let Some(storing) = &mut self.storing
                    && storing.waiting.front().is_some_and(|(waits_for, _)| *waits_for <= number)
                    && let Some((_, held)) = storing.waiting.pop_front()
                {
                    self.release(held);
                }
            }
            Told::Failed(why) => {
                let error = io::Error::other(why);
                self.give_up_held(&ReplyError::storage(&error));
                if self.running.is_some() {
                    self.check_written(Err(error));
                } else {
                    log::debug!("session {}: {error}", self.identity.id);
                }
            }
            Told::Moved { host, is_there, .. } => return ControlFlow::Break(self.moved(host, is_there)),
        }
        ControlFlow::Continue(())
    }

    /// What waits does not come about, but for what was accepted before: that waits on.
    fn give_up_held(&mut self, error: &ReplyError) {
        let waiting = self.storing.as_mut().map(|storing| storing.take_held(false)).unwrap_or_default();
        for held in waiting {
            match held {
                Held::Inbox(_) | Held::Taken(_) => {}
                Held::Prompt(prompt) => {
                    self.record_settled(std::slice::from_ref(&prompt.message.id), "refused");
                    self.refuse(&*prompt.reply, error.clone());
                }
                Held::Verdict(to, ..) => drop(to.try_send(Verdict::Refused(error.clone()))),
                Held::Call { settle, rule, .. } => drop(settle.try_send(Err(Denial { by: DeniedBy::End, rule }))),
                Held::Answer(respond, answer) => respond(answer.and(Err(error.clone()))),
            }
        }
    }

    /// The session ends here. What is not stored by now was never said to anybody.
    pub(super) fn end_storing(&mut self, reason: EndReason) {
        if self.storing.is_none() {
            return;
        }
        if reason != EndReason::Moved {
            let deadline = Instant::now() + LAST_WORDS;
            let number = self.storing.as_mut().map_or(0, |storing| storing.log.store());
            let told = self.told();
            while let Ok(told) = told.recv_deadline(deadline) {
                let done = matches!(told, Told::Stored(stored) if stored >= number);
                if self.stored(told).is_break() || done {
                    break;
                }
            }
        }
        let error = self.farewell(reason);
        self.end_inbox(reason, &error);
        self.give_up_held(&error);
    }

    /// Gives the session to another host, with everything that was written. False if it may not have it.
    pub(super) fn give_log(&mut self, host: &str) -> bool {
        let given = self.storing.take().is_some_and(|storing| storing.log.give(host));
        if given {
            log::info!("session {}: it goes on at the host {host}", self.identity.id);
        } else {
            log::warn!("session {}: it is not known that the host {host} has it", self.identity.id);
        }
        given
    }

    /// Nothing of the session is left to anybody, or all of it is left to whoever has it from now on.
    pub(super) fn close_log(&mut self, is_over: bool) {
        if let Some(storing) = self.storing.take()
            && is_over
        {
            storing.log.end();
        }
    }
}
