//! How a session answers what clients ask of it.

use super::{Held, Session};
use crate::contract::control::{Answer, Changes, Control, Deliver, Input, Respond};
use crate::contract::error::{ErrorKind, ReplyError};
use crate::contract::event::AgentEvent;
use crate::contract::identity::ModelFacts;
use crate::contract::prompt::{Incoming, Origin, Prompt};
use crate::contract::reply::SilentReply;
use crate::contract::wire::Wire;
use crate::model::ThinkingLevel;
use crate::threads::{self, Thread};
use crate::tools::runner::Sandbox;
use crate::turn::{Work, kill_leftovers};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl<W: Wire> Session<W> {
    pub(super) fn control(&mut self, control: Control, respond: Respond) {
        // Whoever hears that a message is taken or a question settled finds it so, whichever host has the session then.
        let is_promise = matches!(
            control,
            Control::Prompt(_) | Control::Approve(_) | Control::Answer { .. } | Control::Reject { .. }
        );
        let answer = match control {
            Control::Abort => return self.abort(respond),
            Control::Compact { instructions } => return self.compact(instructions, respond),
            Control::State => Ok(self.state_answer("get_state")),
            Control::Inspect => Ok(Answer::Document(self.inspection())),
            Control::Prompt(input) => self.input(input),
            Control::Clear => Ok(self.clear()),
            Control::History(query) => Ok(Answer::History(self.log.history(&query))),
            Control::Subscribe { sink, since } => {
                // Whoever subscribes again wants to hear what was missed, not everything twice from now on.
                self.thin_out_listeners(|listener| !Arc::ptr_eq(listener, &sink));
                if let Some(since) = since {
                    self.log.replay(since).iter().all(|envelope| sink.event(envelope));
                }
                self.listeners.push(sink);
                self.stats.set_listeners(self.listeners.len());
                Ok(Answer::Document(json!({"enabled": true, "lastSeq": self.log.last_seq()})))
            }
            Control::Unsubscribe { sink } => {
                self.thin_out_listeners(|listener| !Arc::ptr_eq(listener, &sink));
                Ok(Answer::Document(json!({"enabled": false})))
            }
            Control::Emit { event, data } => {
                self.publish(AgentEvent::Bridge { name: event, data: data.clone() });
                Ok(Answer::Document(data))
            }
            Control::Questions => Ok(Answer::Document(self.list_questions())),
            Control::Approve(settlement) => self.approve(&settlement),
            Control::Unattended { seq } => {
                self.nobody_heard(seq);
                Ok(Answer::Document(json!({})))
            }
            Control::Answer { id, answers, source } => self.answer_question(&id, &answers, source),
            Control::Reject { id, source } => self.reject_question(&id, source),
            Control::Configure(changes) => self.configure(&changes),
            Control::Extend { seconds } => Ok(self.extend(seconds)),
            Control::Cancel { id } => self.cancel(&id),
        };
        if is_promise {
            return self.once_stored(Held::Answer(respond, answer));
        }
        respond(answer);
    }

    pub(super) fn state_answer(&self, reason: &str) -> Answer {
        let mut state = json!(self.stats.state(&self.identity, self.stats.running()));
        state["lastSeq"] = json!(self.log.last_seq());
        state["lastReason"] = json!(reason);
        Answer::Document(state)
    }

    /// A message for the model, in whatever way it shall be brought there.
    fn input(&mut self, input: Input) -> Result<Answer, ReplyError> {
        let idle = !self.has_work();
        if self.draining {
            return Err(ReplyError::shutting_down());
        }
        let deliver = match input.deliver {
            Deliver::Auto if idle => Deliver::Now,
            Deliver::Auto if input.reply.is_some() => Deliver::Queue,
            Deliver::Auto => Deliver::Steer,
            other @ (Deliver::Now | Deliver::Steer | Deliver::FollowUp | Deliver::Queue) => other,
        };
        if deliver == Deliver::Now && !idle {
            return Err(ReplyError::coded(
                ErrorKind::Working,
                "a prompt is being worked on; steer it, queue behind it or abort it",
            ));
        }
        // What belongs to work that goes on helps it to its end.
        if self.slots.is_paused() && (idle || deliver != Deliver::Steer) {
            return Err(ReplyError::draining());
        }
        if self.queue.is_full() || self.steering.len() + self.follow_up.len() >= self.options.max_queue {
            return Err(ReplyError::queue_full(self.queue.len().max(self.steering.len() + self.follow_up.len())));
        }
        let settings = self.stats.settings();
        self.services.check_credentials(&settings.model).map_err(|e| ReplyError::model(e.to_string()))?;
        let behavior = match deliver {
            Deliver::Steer => Some("steer"),
            Deliver::FollowUp => Some("followUp"),
            Deliver::Auto | Deliver::Now | Deliver::Queue => None,
        };
        let (images, expand, trace) = (input.images, input.expand, input.trace);
        let mut message = Incoming { images, expand, trace, ..Incoming::new(input.text) };
        self.make_room(&mut message)?;
        let event = AgentEvent::Input {
            text: message.text.clone(),
            images: message.images.len(),
            source: input.source,
            behavior: behavior.filter(|_| !idle),
            from: input.from.clone(),
            sender: input.sender.clone().map(Box::new),
        };
        self.in_trace(message.trace.clone(), |session| session.publish(event));
        if behavior.is_some() && !idle {
            let (from, sender) = (input.from.as_deref(), input.sender.as_ref());
            self.memory.accepted(&message, from, sender, None, Some(deliver)).map_err(|e| ReplyError::storage(&e))?;
            self.audit_prompt(&message, from, sender, deliver);
            let queue = if deliver == Deliver::Steer { &mut self.steering } else { &mut self.follow_up };
            queue.push(message);
            self.memory.sync();
        } else {
            self.accept(Prompt {
                message,
                from: input.from,
                sender: input.sender,
                reply: input.reply.unwrap_or_else(|| Arc::new(SilentReply)),
                received: Instant::now(),
            })?;
        }
        if behavior.is_some() && !idle {
            self.queues_changed();
        }
        Ok(Answer::Document(json!({"deliveredAs": deliver.as_str(), "idleBeforeSend": idle})))
    }

    fn abort(&mut self, respond: Respond) {
        match &mut self.running {
            None => respond(Ok(self.state_answer("abort"))),
            Some(running) => {
                running.cancel.cancel();
                running.aborters.push(respond);
                self.reject_questions("tool");
                self.withdraw_approvals();
            }
        }
    }

    /// Makes the context smaller, which takes a while and so is a turn of its own.
    fn compact(&mut self, instructions: Option<String>, respond: Respond) {
        if self.running.is_some() {
            let why = "a prompt is being worked on; abort it first";
            return respond(Err(ReplyError::coded(ErrorKind::Working, why)));
        }
        if let Err(e) = self.memory.wake() {
            return respond(Err(ReplyError::storage(&e)));
        }
        let reply = Arc::new(SilentReply);
        self.begin(Work::Compact(instructions), Vec::new(), Origin::default(), reply);
        self.stats.set_running(self.running.is_some());
        match &mut self.running {
            Some(running) => running.compaction = Some(respond),
            None => respond(Err(ReplyError::busy("no thread for the compaction"))),
        }
    }

    fn clear(&mut self) -> Answer {
        let texts = |messages: Vec<Incoming>| -> Vec<String> { messages.into_iter().map(|m| m.text).collect() };
        let (steering, follow_up) = (self.steering.take_all(), self.follow_up.take_all());
        if !(steering.is_empty() && follow_up.is_empty()) {
            let ids: Vec<String> = steering.iter().chain(&follow_up).map(|message| message.id.clone()).collect();
            self.record_settled(&ids, "cleared");
            self.queues_changed();
        }
        let (steering, follow_up) = (texts(steering), texts(follow_up));
        Answer::Document(json!({"steering": steering, "followUp": follow_up}))
    }

    /// Tells what waits now.
    pub(super) fn queues_changed(&mut self) {
        self.stats.set_pending(self.steering.len() + self.follow_up.len());
        let (steering, follow_up) = (self.steering.texts(), self.follow_up.texts());
        self.publish(AgentEvent::QueueUpdate { steering, follow_up });
    }

    fn configure(&mut self, changes: &Changes) -> Result<Answer, ReplyError> {
        let invalid = |text: String| ReplyError::new(ErrorKind::BadRequest, text);
        let before = self.stats.settings();
        let (model, level) = match &changes.model {
            Some(spec) => self.services.resolve(spec).map_err(|e| invalid(e.to_string()))?,
            None => (before.model.clone(), None),
        };
        self.services.check_credentials(&model).map_err(|e| invalid(e.to_string()))?;
        let asked = match &changes.thinking {
            Some(text) => {
                Some(ThinkingLevel::parse(text).ok_or_else(|| invalid(format!("no thinking level: {text}")))?)
            }
            None => level,
        };
        let thinking = model.clamp(asked.unwrap_or(before.thinking));
        let name = match &changes.name {
            Some(name) => Some(name.trim().replace(['\n', '\r'], " ")).filter(|name| !name.is_empty()),
            None => before.name.clone(),
        };
        let sandbox = before.sandbox.narrowed(changes.sandbox).map_err(invalid)?;
        if !Arc::ptr_eq(&sandbox, &before.sandbox) {
            if self.running.is_some() {
                let why = "sandbox and network are not narrowed while a prompt is being worked on; abort it first";
                return Err(ReplyError::coded(ErrorKind::Working, why));
            }
            self.memory.wake().map_err(|e| ReplyError::storage(&e))?;
            self.memory.confined(sandbox.narrowing()).map_err(|e| ReplyError::storage(&e))?;
            self.memory.sync();
            self.confine(sandbox);
        }
        self.narrow_budgets(changes.budgets)?;
        self.stats.change(|settings| {
            settings.model = model.clone();
            settings.thinking = thinking;
            settings.name.clone_from(&name);
        });
        self.save();
        if (&model.provider, &model.id) != (&before.model.provider, &before.model.id) {
            self.record("model_change", json!({"provider": model.provider, "modelId": model.id}));
            let (model, previous) = (json!(ModelFacts::of(&model)), json!(ModelFacts::of(&before.model)));
            self.publish(AgentEvent::ModelSelect { model, previous });
        }
        if thinking != before.thinking {
            self.record("thinking_level_change", json!({"thinkingLevel": thinking.as_str()}));
            self.publish(AgentEvent::ThinkingLevelSelect { level: thinking, previous: before.thinking });
        }
        if name != before.name {
            self.record("session_info", json!({"name": name.clone().unwrap_or_default()}));
            self.publish(AgentEvent::SessionInfoChanged { name });
        }
        let settings = json!({"model": model.spec(), "thinkingLevel": thinking.as_str(),
            "budgets": self.stats.budgets().document()});
        self.audit("session_configured", || settings);
        Ok(self.state_answer("configure"))
    }

    /// Has tools confined to this from now on. What they have started before ends, as it may do more.
    pub(super) fn confine(&mut self, sandbox: Arc<Sandbox>) {
        if Arc::ptr_eq(&sandbox, &self.stats.settings().sandbox) {
            return;
        }
        let before = self.runner.sandbox();
        self.stats.change(|settings| settings.sandbox = sandbox.clone());
        let end = self.runner.confine(sandbox);
        if before.is_off() && self.used_tools {
            // They have no runner that could end them, and must not be taken for those that follow. It is a matter of
            // milliseconds, and of a second at most.
            kill_leftovers(&self.identity);
        }
        // It may take a second, and nothing waits for it: the next call finds no runner, and starts another one.
        if let Err(e) = threads::spawn("confine", threads::SMALL_STACK, end).map(Thread::abandon) {
            log::warn!("session {}: programs of before it was confined may still run: {e}", self.identity.id);
        }
    }

    fn extend(&mut self, seconds: f64) -> Answer {
        let lifetime = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        self.stats.change(|settings| {
            settings.max_lifetime = lifetime;
            settings.deadline = if lifetime.is_zero() { None } else { Instant::now().checked_add(lifetime) };
        });
        self.save();
        Answer::Document(
            json!({"maxLifetime": seconds, "remainingLifetime": if seconds > 0.0 { json!(seconds) } else { Value::Null }}),
        )
    }
}
