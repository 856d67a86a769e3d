//! The answer to a prompt as records on a client's connection: `chunk` for each piece of text, then one `end`.

use super::link::Link;
use crate::cancel::Cancel;
use crate::contract::error::ReplyError;
use crate::contract::reply::{Reply, Restart};
use crate::sync::lock;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What may wait for a client before the model of its prompt has to, bytes. Far below what costs it the connection.
const MAX_HELD: usize = 1 << 20;
/// Between two looks whether the client has read on.
const RETRY: Duration = Duration::from_millis(20);
/// A client that reads nothing for so long is dropped: others may have an interest in its session.
const PATIENCE: Duration = Duration::from_secs(5);

/// One stream. Nothing goes out before it is opened, so that the response to the request comes first.
pub(super) struct ChunkStream {
    link: Arc<Link>,
    /// The request's id as JSON, or nothing.
    id: Option<Value>,
    phase: Mutex<Phase>,
}

enum Phase {
    /// The response is not out yet: the text so far, and how the stream ended if it did.
    Waiting(String, Option<Result<(), ReplyError>>),
    Open,
    Ended,
}

impl ChunkStream {
    pub(super) fn new(link: Arc<Link>, id: Option<Value>) -> ChunkStream {
        link.stream_begins();
        ChunkStream { link, id, phase: Mutex::new(Phase::Waiting(String::new(), None)) }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        lock(&self.phase)
    }

    /// The response is out.
    pub(super) fn open(&self) {
        let mut phase = self.phase();
        let Phase::Waiting(text, end) = std::mem::replace(&mut *phase, Phase::Open) else { return };
        if !text.is_empty() {
            self.chunk(&text);
        }
        if let Some(result) = end {
            *phase = Phase::Ended;
            self.end(result);
        }
    }

    /// The request failed, which its response says.
    pub(super) fn discard(&self) {
        *self.phase() = Phase::Ended;
    }

    /// Waits while too much waits for the client, but not for one that does not read at all.
    fn wait_for_room(&self, cancel: &Cancel) {
        let (mut least, mut since) = (usize::MAX, Instant::now());
        while self.link.is_open() {
            let unwritten = self.link.unwritten();
            if unwritten <= MAX_HELD {
                return;
            }
            if unwritten < least {
                (least, since) = (unwritten, Instant::now());
            } else if since.elapsed() > PATIENCE {
                return self.link.give_up();
            }
            if cancel.sleep(RETRY) {
                return;
            }
        }
    }

    fn record(&self, kind: &str) -> Value {
        match &self.id {
            Some(id) => json!({"type": kind, "id": id}),
            None => json!({"type": kind}),
        }
    }

    fn chunk(&self, text: &str) {
        let mut record = self.record("chunk");
        record["data"] = json!(text);
        self.link.send(record.to_string());
    }

    fn end(&self, result: Result<(), ReplyError>) {
        let mut record = self.record("end");
        record["success"] = json!(result.is_ok());
        if let Err(error) = result {
            record["error"] = json!(error.message);
            record["code"] = json!(error.code());
            record["status"] = json!(error.status());
        }
        self.link.send(record.to_string());
    }
}

impl Reply for ChunkStream {
    fn text(&self, text: &str, cancel: &Cancel) {
        self.wait_for_room(cancel);
        loop {
            let mut phase = self.phase();
            match &mut *phase {
                Phase::Ended => return,
                Phase::Open => return self.chunk(text),
                Phase::Waiting(held, _) if held.len() < MAX_HELD || cancel.is_cancelled() => {
                    return held.push_str(text);
                }
                Phase::Waiting(..) => {}
            }
            drop(phase);
            cancel.sleep(RETRY);
        }
    }

    fn restart(&self, restart: Restart) {
        match &mut *self.phase() {
            // The client has not seen what is void.
            Phase::Waiting(held, _) => {
                held.truncate(restart.void_bytes.map_or(0, |bytes| held.len().saturating_sub(bytes)));
            }
            Phase::Open => {
                let mut record = self.record("restart");
                if let (Value::Object(record), Value::Object(fields)) = (&mut record, restart.document()) {
                    record.extend(fields);
                }
                self.link.send(record.to_string());
            }
            Phase::Ended => {}
        }
    }

    fn flush(&self) {}

    fn finish(&self, result: Result<(), ReplyError>) {
        let mut phase = self.phase();
        match &mut *phase {
            Phase::Waiting(_, end) => {
                end.get_or_insert(result);
            }
            Phase::Open => {
                *phase = Phase::Ended;
                self.end(result);
            }
            Phase::Ended => {}
        }
    }

    fn leave(&self) -> bool {
        self.finish(Err(ReplyError::shutting_down()));
        true
    }

    fn ends_with_host(&self) -> bool {
        true
    }

    /// Somebody waits, but cannot be reached over a restart.
    fn address(&self) -> Option<Value> {
        Some(json!({"socket": null}))
    }
}

impl Drop for ChunkStream {
    fn drop(&mut self) {
        // Nobody ended the stream, so something broke; the client shall not wait for it.
        self.finish(Err(ReplyError::internal("the answer was given up")));
        self.link.stream_ends();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    /// What a client reads of a stream.
    fn read(id: Option<Value>, work: impl FnOnce(ChunkStream)) -> Vec<Value> {
        let (near, mut far) = UnixStream::pair().expect("a pair");
        far.set_read_timeout(Some(Duration::from_secs(20))).expect("a deadline");
        let link = Arc::new(Link::new(1, None, near).expect("a link"));
        work(ChunkStream::new(link.clone(), id));
        link.read_to_end();
        link.write_lines();
        let mut text = String::new();
        far.read_to_string(&mut text).expect("it reads");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[test]
    fn a_stream_is_its_pieces_and_one_end() {
        let cancel = Cancel::new();
        let found = read(Some(json!({"a": 1})), |stream| {
            stream.text("early ", &cancel);
            stream.text("void", &cancel);
            stream.restart(Restart { attempt: 2, void_bytes: Some(4) });
            stream.text("text", &cancel);
            stream.open();
            stream.restart(Restart { attempt: 3, void_bytes: Some(4) });
            stream.text("late", &cancel);
            stream.finish(Ok(()));
            stream.finish(Err(ReplyError::stopped()));
            stream.text("too late", &cancel);
        });
        let id = json!({"a": 1});
        let expected = json!([
            {"type": "chunk", "id": id, "data": "early text"},
            {"type": "restart", "id": id, "attempt": 3, "voidBytes": 4},
            {"type": "chunk", "id": id, "data": "late"},
            {"type": "end", "id": id, "success": true},
        ]);
        assert_eq!(Value::Array(found), expected);
    }

    #[test]
    fn what_ended_before_the_response_is_told_behind_it() {
        let found = read(None, |stream| {
            stream.finish(Err(ReplyError::queue_full(3)));
            stream.open();
        });
        let error = "queue_full: 3 prompts are waiting already";
        let end = json!({"type": "end", "success": false, "error": error, "code": "queue_full", "status": 429});
        assert_eq!(found, [end]);
    }

    #[test]
    fn a_stream_that_nobody_ends_fails_and_a_discarded_one_is_silent() {
        let found = read(Some(json!(1)), |stream| stream.open());
        assert_eq!((found.len(), &found[0]["success"]), (1, &json!(false)));
        assert!(read(Some(json!(1)), |stream| stream.discard()).is_empty());
    }

    #[test]
    fn a_client_that_does_not_read_holds_up_its_prompt_until_it_is_cancelled() {
        let (near, _far) = UnixStream::pair().expect("a pair");
        let link = Arc::new(Link::new(1, None, near).expect("a link"));
        let stream = ChunkStream::new(link.clone(), None);
        stream.open();
        let cancel = Cancel::new();
        // Nobody writes, so what was sent waits.
        stream.text(&"x".repeat(MAX_HELD), &cancel);
        let canceller = cancel.clone();
        let later = std::thread::spawn(move || canceller.cancel());
        stream.text("more", &cancel);
        later.join().expect("it cancelled");
        assert!(cancel.is_cancelled() && link.is_open());
    }
}
