//! The way to one client: lines that wait to be written, and how a connection ends.
//!
//! Any thread may add a line and none ever waits for the client: a client that reads too slowly loses its connection, and
//! nobody else notices.

use super::framing::escape_separators;
use crate::event_log::{Envelope, EventSink};
use crate::metrics::{Count, METRICS};
use crate::sync::{lock, wait_timeout};
use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What may wait to be written when the next line is due, bytes (the reference's bound). One line is always taken on top,
/// however long.
const MAX_UNWRITTEN: usize = 8 << 20;
/// How long a client may take for the last lines, and then to close its side (the reference's grace).
const GRACE: Duration = Duration::from_secs(1);
/// How long a client that closed its side may take to read the answers that it waits for.
const LAST_ANSWERS: Duration = Duration::from_secs(30);
/// One attempt to write lasts at most this long, so that the end of a connection is noticed while a client does not read.
const WRITE_ROUND: Duration = Duration::from_millis(250);
/// With nothing to write the writer looks around this often, which costs nothing and hides no wake-up that got lost.
const LOOK_AROUND: Duration = Duration::from_secs(3600);
/// While an answer is streamed to a client that sends nothing more, it is looked this often whether it still reads.
const HALF_CLOSED_ROUND: Duration = Duration::from_millis(200);
/// Short lines are written together, up to this many bytes.
const BATCH: usize = 16 << 10;

/// The connection of one client.
pub(super) struct Link {
    pub id: u64,
    /// The session whose socket this is, by its token; absent on the daemon's.
    pub session: Option<u64>,
    socket: UnixStream,
    state: Mutex<State>,
    changed: Condvar,
    /// The client wants no events.
    muted: AtomicBool,
    /// Disconnected once nobody reads answers any more.
    gone: Receiver<()>,
}

struct State {
    lines: VecDeque<Arc<str>>,
    /// Bytes that wait, those that are being written included.
    bytes: usize,
    phase: Phase,
    /// Dropped with the end of the connection.
    open: Option<Sender<()>>,
    /// Answers that are still being streamed.
    streams: usize,
    /// The client's side is closed, or given up.
    reader_done: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// No further lines are taken; those that wait may be written until then.
    Finishing(Instant),
    Closed,
}

impl Link {
    /// # Errors
    /// The system refuses the time limit of writing.
    pub(super) fn new(id: u64, session: Option<u64>, socket: UnixStream) -> std::io::Result<Link> {
        socket.set_write_timeout(Some(WRITE_ROUND))?;
        let (open, gone) = bounded(0);
        let state = State {
            lines: VecDeque::new(),
            bytes: 0,
            phase: Phase::Open,
            open: Some(open),
            streams: 0,
            reader_done: false,
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Ok(Link { id, session, socket, state, changed, muted: AtomicBool::new(false), gone })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// For reading; the reader is the only one.
    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Disconnected once nobody reads answers any more.
    pub(super) fn gone(&self) -> &Receiver<()> {
        &self.gone
    }

    /// Adds a line, given without its end. False if the connection takes no more.
    pub(super) fn send(&self, line: impl Into<Arc<str>>) -> bool {
        let mut state = self.state();
        if state.phase != Phase::Open {
            return false;
        }
        if state.bytes > MAX_UNWRITTEN {
            self.drop_client(&mut state);
            return false;
        }
        let line = line.into();
        let line = match escape_separators(&line) {
            Cow::Borrowed(_) => line,
            Cow::Owned(escaped) => escaped.into(),
        };
        state.bytes += line.len() + 1;
        state.lines.push_back(line);
        drop(state);
        self.changed.notify_all();
        true
    }

    /// Ends the connection of a client that others would have to wait for.
    pub(super) fn give_up(&self) {
        let mut state = self.state();
        if state.phase == Phase::Open {
            self.drop_client(&mut state);
        }
    }

    fn drop_client(&self, state: &mut State) {
        METRICS.count(Count::DroppedClient);
        let why = format!("the client does not read: {} bytes wait", state.bytes);
        log::warn!("side channel: client {} is dropped: {why}", self.id);
        // What waits is given up, so that the reason has a chance to be the next that is read.
        state.lines.clear();
        state.bytes = 0;
        self.finish(state, &error_line(&why, "client"), GRACE);
    }

    /// Bytes that wait to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.state().bytes
    }

    pub(super) fn is_open(&self) -> bool {
        self.state().phase == Phase::Open
    }

    pub(super) fn mute(&self, muted: bool) {
        self.muted.store(muted, Ordering::Relaxed);
    }

    /// Tells of a fault of ours, unless the client wants no events.
    pub(super) fn report(&self, error: &str, place: &str) {
        if !self.muted.load(Ordering::Relaxed) {
            self.send(error_line(error, place));
        }
    }

    /// Ends the connection with a last line, in good order if the client goes on reading.
    pub(super) fn stop(&self, last: &str) {
        let mut state = self.state();
        if state.phase == Phase::Open {
            self.finish(&mut state, last, GRACE);
        }
    }

    fn finish(&self, state: &mut State, last: &str, time: Duration) {
        if !last.is_empty() {
            state.bytes += last.len() + 1;
            state.lines.push_back(last.into());
        }
        state.phase = Phase::Finishing(Instant::now() + time);
        state.open = None;
        self.changed.notify_all();
    }

    /// The client closed its side: what it still waits for is written, then the connection ends. False if it closed the other
    /// side too while answers were still being streamed.
    pub(super) fn read_to_end(&self) -> bool {
        let mut state = self.state();
        state.reader_done = true;
        self.changed.notify_all();
        while state.phase == Phase::Open && state.streams > 0 {
            if self.is_hung_up() {
                self.finish(&mut state, "", Duration::ZERO);
                return false;
            }
            state = self.wait(state, HALF_CLOSED_ROUND);
        }
        let served = state.streams == 0;
        if state.phase == Phase::Open {
            self.finish(&mut state, "", LAST_ANSWERS);
        }
        served
    }

    /// The client has closed both sides.
    fn is_hung_up(&self) -> bool {
        let mut wait = [PollFd::new(&self.socket, PollFlags::empty())];
        poll(&mut wait, Some(&Timespec::default())).is_ok() && wait[0].revents().contains(PollFlags::HUP)
    }

    /// The connection stays for an answer that is being streamed, even if the client closes its side meanwhile.
    pub(super) fn stream_begins(&self) {
        self.state().streams += 1;
    }

    pub(super) fn stream_ends(&self) {
        let mut state = self.state();
        state.streams = state.streams.saturating_sub(1);
        drop(state);
        self.changed.notify_all();
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        wait_timeout(&self.changed, state, time)
    }

    /// Writes lines until the connection ends. The work of a thread of its own.
    pub(super) fn write_lines(&self) {
        let mut batch = Vec::new();
        while let Some(line) = self.next_batch(&mut batch) {
            if !(self.write(&batch) && line.is_none_or(|line| self.write(line.as_bytes()) && self.write(b"\n"))) {
                break;
            }
        }
        // The client is told that nothing more comes, and gets a moment to close its side too.
        let _ = self.socket.shutdown(Shutdown::Write);
        let mut state = self.state();
        let end = Instant::now() + GRACE;
        while state.phase != Phase::Closed && !state.reader_done && Instant::now() < end {
            state = self.wait(state, end.saturating_duration_since(Instant::now()));
        }
        state.phase = Phase::Closed;
        state.open = None;
        state.lines = VecDeque::new();
        drop(state);
        self.changed.notify_all();
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Waits for lines and puts the next ones into `batch`, with their ends; one that is too long to be copied is returned
    /// to be written behind them. `None`: there are none and there will be none.
    fn next_batch(&self, batch: &mut Vec<u8>) -> Option<Option<Arc<str>>> {
        batch.clear();
        let mut state = self.state();
        while state.lines.is_empty() {
            if state.phase != Phase::Open {
                return None;
            }
            // A burst should not be remembered by a client that then is quiet for hours.
            state.lines = VecDeque::new();
            *batch = Vec::new();
            state = self.wait(state, LOOK_AROUND);
        }
        while batch.len() < BATCH
            && let Some(line) = state.lines.pop_front()
        {
            if line.len() > BATCH {
                return Some(Some(line));
            }
            batch.extend_from_slice(line.as_bytes());
            batch.push(b'\n');
        }
        Some(None)
    }

    /// True when all of it was written.
    fn write(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match (&self.socket).write(bytes) {
                Ok(0) => return false,
                Ok(count) => {
                    bytes = &bytes[count..];
                    let mut state = self.state();
                    state.bytes = state.bytes.saturating_sub(count);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => match self.state().phase {
                    Phase::Open => {}
                    Phase::Finishing(end) if Instant::now() < end => {}
                    Phase::Finishing(_) | Phase::Closed => return false,
                },
                Err(e) => {
                    log::debug!("side channel: client {}: {e}", self.id);
                    return false;
                }
            }
        }
        true
    }
}

impl EventSink for Link {
    fn event(&self, envelope: &Arc<Envelope>) -> bool {
        self.send(envelope.line.clone())
    }
}

/// The record that tells a client of a fault of ours; `place` is what failed, in the protocol's words.
pub(super) fn error_line(error: &str, place: &str) -> String {
    json!({"type": "bridge_error", "error": error, "where": place}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read};

    const DEADLINE: Duration = Duration::from_secs(20);

    /// A link with its writer, and the client's end.
    fn connected() -> (Arc<Link>, std::thread::JoinHandle<()>, UnixStream) {
        let (near, far) = UnixStream::pair().expect("a pair");
        far.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let link = Arc::new(Link::new(1, None, near).expect("a link"));
        let writer = link.clone();
        (link, std::thread::spawn(move || writer.write_lines()), far)
    }

    #[test]
    fn lines_arrive_in_order_whatever_their_size() {
        let (link, writer, far) = connected();
        let lines: Vec<String> =
            (0..2000).map(|n| format!("{n}{}", "x".repeat(if n % 500 == 7 { 100_000 } else { 10 }))).collect();
        let expected = lines.clone();
        let reader = std::thread::spawn(move || {
            let found: Vec<String> = BufReader::new(&far).lines().map_while(Result::ok).collect();
            assert_eq!(found.len(), expected.len() + 1);
            assert!(found.starts_with(&expected));
            assert_eq!(found.last().map(String::as_str), Some("the end"));
        });
        assert!(lines.into_iter().all(|line| link.send(line)));
        link.stop("the end");
        assert!(!link.send("too late"));
        reader.join().expect("it got all");
        // The reader never said that it saw the end, so the writer gave it its time.
        writer.join().expect("it ends");
        assert!(link.gone().try_recv().is_err_and(|e| e.is_disconnected()));
    }

    #[test]
    fn a_client_that_does_not_read_is_dropped_and_told_why() {
        let (link, writer, mut far) = connected();
        let line: Arc<str> = "x".repeat(1 << 20).into();
        let sent = (0..1000).take_while(|_| link.send(line.clone())).count();
        // The queue, the line on top, and what the kernel took.
        assert!((8..=12).contains(&sent), "{sent}");
        let mut text = String::new();
        far.read_to_string(&mut text).expect("it reads at last");
        writer.join().expect("it ends");
        let last = text.lines().last().expect("a line");
        assert!(last.contains("bridge_error") && last.contains("does not read"), "{last}");
        assert!(!link.is_open());
    }

    #[test]
    fn a_client_that_never_reads_holds_up_nothing() {
        let (link, writer, _far) = connected();
        while link.send("x".repeat(100_000)) {}
        let begun = Instant::now();
        writer.join().expect("it ends");
        assert!(begun.elapsed() < GRACE * 2 + DEADLINE / 4, "{:?}", begun.elapsed());
    }

    #[test]
    fn one_line_is_always_taken_on_top() {
        let (link, writer, mut far) = connected();
        assert!(link.send("x".repeat(3 * MAX_UNWRITTEN)));
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            far.read_to_end(&mut text).map(|_| text.len())
        });
        link.read_to_end();
        assert_eq!(reader.join().expect("it reads").expect("all of it"), 3 * MAX_UNWRITTEN + 1);
        writer.join().expect("it ends");
    }

    #[test]
    fn a_half_closed_client_gets_the_stream_that_it_waits_for() {
        let (link, writer, mut far) = connected();
        link.stream_begins();
        let reading = link.clone();
        let end = std::thread::spawn(move || reading.read_to_end());
        assert!(link.send("late"));
        link.stream_ends();
        end.join().expect("it ends");
        writer.join().expect("it ends");
        let mut text = String::new();
        far.read_to_string(&mut text).expect("it reads");
        assert_eq!(text, "late\n");
    }

    #[test]
    fn only_those_who_want_events_hear_of_faults() {
        let (link, writer, mut far) = connected();
        link.mute(true);
        link.report("not heard", "server");
        link.mute(false);
        link.report("heard", "server");
        link.read_to_end();
        let mut text = String::new();
        far.read_to_string(&mut text).expect("it reads");
        assert_eq!(text, format!("{}\n", error_line("heard", "server")));
        writer.join().expect("it ends");
    }
}
