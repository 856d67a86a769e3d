//! The two subjects of a named session: prompts, and `.inspect`.

use crate::nats::documents::session_subject;
use crate::nats::intake;
use crate::nats::micro::{Counters, QUEUE_GROUP};
use crate::nats::replies::{TextStream, reply_to, send_document};
use crate::nats::{Connection, Message, PublishError, Subscription};
use crate::reply::{Reply, ReplyError};
use crate::session::Prompt;
use crate::turn::Incoming;
use crossbeam_channel::{Receiver, bounded};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Messages that may wait for a session's actor, which is never busy for long.
const WAITING: usize = 64;
/// How long the end of a session waits for what the server still has for it.
const LAST_CALL: Duration = Duration::from_millis(500);

/// What a message to a session asks for.
pub enum SessionRequest {
    Prompt(Prompt),
    Refused {
        reply: Arc<dyn Reply>,
        counters: Arc<Counters>,
        error: ReplyError,
    },
    Inspect {
        reply: String,
    },
    /// Nobody could read an answer.
    Unanswerable,
}

/// The subscriptions of one session. Dropping them ends them.
pub struct SessionSubjects {
    connection: Connection,
    requests: Receiver<Box<Message>>,
    prompt: Subscription,
    inspect: Subscription,
    reader: Reader,
}

/// Understands the messages to a session.
struct Reader {
    connection: Connection,
    inspect_subject: String,
    prompt_counters: Arc<Counters>,
    inspect_counters: Arc<Counters>,
}

impl SessionSubjects {
    /// Subscribes to a session's subjects.
    ///
    /// # Errors
    /// The connection takes no more.
    pub fn open(
        connection: &Connection,
        owner: &str,
        session_id: &str,
        prompt_counters: Arc<Counters>,
        inspect_counters: Arc<Counters>,
    ) -> Result<SessionSubjects, PublishError> {
        let (sender, requests) = bounded(WAITING);
        let prompt_subject = session_subject(owner, session_id);
        let inspect_subject = format!("{prompt_subject}.inspect");
        Ok(SessionSubjects {
            prompt: connection.subscribe(&prompt_subject, Some(QUEUE_GROUP), sender.clone())?,
            inspect: connection.subscribe(&inspect_subject, Some(QUEUE_GROUP), sender)?,
            connection: connection.clone(),
            requests,
            reader: Reader { connection: connection.clone(), inspect_subject, prompt_counters, inspect_counters },
        })
    }

    pub fn requests(&self) -> &Receiver<Box<Message>> {
        &self.requests
    }

    /// Understands one message.
    pub fn read(&self, message: Message) -> SessionRequest {
        self.reader.read(message)
    }

    /// Where the answer to a prompt of before a restart goes.
    pub fn reply_to(&self, address: &Value) -> Option<Arc<dyn Reply>> {
        reply_to(&self.connection, address)
    }

    /// Answers an inspection.
    pub fn answer_inspect(&self, reply: &str, document: &Value) {
        let begun = Instant::now();
        self.reader.inspect_counters.count_request();
        send_document(&self.connection, reply, document);
        self.reader.inspect_counters.add_time(begun.elapsed());
    }

    /// Ends the subscriptions; returns the prompts that were on their way, whose callers have to be told.
    pub fn close(self) -> Vec<Prompt> {
        let SessionSubjects { connection, requests, prompt, inspect, reader } = self;
        if connection.is_connected() {
            inspect.drain(LAST_CALL);
            prompt.drain(LAST_CALL);
        }
        let late: Vec<_> = requests.try_iter().collect();
        late.into_iter()
            .filter_map(|message| match reader.read(*message) {
                SessionRequest::Prompt(prompt) => Some(prompt),
                SessionRequest::Refused { reply, error, .. } => {
                    reply.finish(Err(error));
                    None
                }
                SessionRequest::Inspect { .. } | SessionRequest::Unanswerable => None,
            })
            .collect()
    }
}

impl Reader {
    fn read(&self, message: Message) -> SessionRequest {
        let Some(reply) = message.reply else { return SessionRequest::Unanswerable };
        if message.subject == self.inspect_subject {
            return SessionRequest::Inspect { reply };
        }
        let reply: Arc<dyn Reply> = Arc::new(TextStream::new(&self.connection, reply));
        let counters = self.prompt_counters.clone();
        counters.count_request();
        match intake::parse_prompt(&message.payload) {
            Ok(request) => SessionRequest::Prompt(Prompt {
                message: Incoming::new(request.text),
                from: request.from,
                reply,
                counters,
                received: Instant::now(),
            }),
            Err(why) => SessionRequest::Refused { reply, counters, error: ReplyError::empty_prompt(why) },
        }
    }
}
