//! The thread that stores what one session writes, and finds out when the session has another owner.

mod basis;
mod reading;

use super::inbox::{InboxError, InboxPrompt};
use super::record::{Head, Kind, decode, encode, room_of, stored_until};
use super::{ASK_TIME, Fleet, HEAD_ROOM, LOGS};
use crate::files;
use crate::ids;
use crate::nats::RequestError;
use crate::nats::jetstream::{Appended, JetStreamError};
use crate::sync::lock;
use crate::threads::{self, Thread};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
pub(super) use reading::read;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The largest part of a file in one record, bytes. The last record of every session is read when a host goes.
const PART: usize = 64 << 10;
/// One try to store a record; in between the thread looks whether it is to end.
pub(super) const TRY: Duration = Duration::from_secs(1);
/// What could not be stored is tried again this often, if nobody asks for it before.
const RETRY: Duration = Duration::from_secs(5);
/// With nothing to do the thread looks around this often, which hides no wake-up that got lost.
const LOOK_AROUND: Duration = Duration::from_secs(3600);
/// What another host has just put into a session's inbox is looked for so often, since a server that has not got it yet may
/// answer; and once more after the session has become this host's.
const LOOKS: u32 = 4;
/// Between two of those looks.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Between two looks whether the connection is back.
const PAUSE: Duration = Duration::from_millis(20);
/// How many records are read at a time.
const BATCH: usize = 256;
/// How long it may take to give a session to another host.
const GIVE_TIME: Duration = Duration::from_secs(3);
/// How long the end of a session may take to be stored.
const END_TIME: Duration = Duration::from_secs(2);

/// Who may have the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is new: nobody has it.
    New,
    /// This host had it before a restart.
    Ours,
    /// It had another owner, whose last record this is.
    Theirs(u64),
}

/// What becomes of a session's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The session is this host's, and these prompts have waited for that.
    Owned(Vec<InboxPrompt>),
    /// These prompts were for a session without an owner, whose owner is this host after all.
    Inbox(Vec<InboxPrompt>),
    /// Everything that was written before this number was asked for is stored.
    Stored(u64),
    /// What was written cannot be stored for now, and why.
    Failed(String),
    /// The session is the host's that it was to be given to, with all that was written. Nothing more is told.
    Given,
    /// The session is another host's, if it is known whose, and whether that is there; or nobody has it now, so that its next
    /// owner `takes` what is put into its inbox. Nothing more is told.
    Moved { host: String, is_there: bool, takes: bool },
}

/// The session's end of its log.
pub(crate) struct SessionLog {
    session: String,
    fleet: Arc<Fleet>,
    shared: Arc<Shared>,
    wake: Sender<()>,
    told: Receiver<Told>,
    asked: u64,
    thread: Option<Thread>,
}

/// See [`SessionLog::lease`].
#[derive(Clone)]
pub(crate) struct Lease {
    fleet: Arc<Fleet>,
    shared: Arc<Shared>,
}

impl Lease {
    pub(crate) fn is_current(&self) -> bool {
        self.fleet.is_current() && !self.shared.verify.load(Ordering::Acquire)
    }
}

#[derive(Default)]
pub(super) struct Shared {
    /// The largest number that was asked for.
    asked: AtomicU64,
    /// What a host needs to go on with the session, if it has changed.
    state: Mutex<Option<Vec<u8>>>,
    file: Mutex<Option<PathBuf>>,
    /// The host that the session is to be given to.
    give: Mutex<Option<String>>,
    /// Look whether the session is still ours.
    verify: AtomicBool,
    /// Look into the inbox.
    look: AtomicBool,
    /// The last prompt of the inbox that the log has, or that is not needed any more.
    taken: AtomicU64,
    /// What was said was summed up.
    compacted: AtomicBool,
    /// The session is over for good.
    ended: AtomicBool,
    stop: AtomicBool,
    /// The session may be made ours.
    may_claim: AtomicBool,
}

struct Writer {
    fleet: Arc<Fleet>,
    session: String,
    subject: String,
    is_shared: bool,
    shared: Arc<Shared>,
    told: Sender<Told>,
    /// The sequence of our last record.
    last: u64,
    /// How much of the file is stored, and of which file.
    stored: u64,
    inode: Option<(u64, u64)>,
    /// What was stored last beside the file.
    state: Option<Vec<u8>>,
    /// Files that came with prompts, which other hosts do not have.
    attachments: PathBuf,
    /// What our records take in the stream, bytes.
    logged: u64,
    /// No basis is tried before.
    rests_until: Option<Instant>,
    /// How often the inbox is still looked into, the last prompt of it that the session was told of, and up to which it was cleared.
    looks: u32,
    told_until: u64,
    cleared: u64,
}

/// Why a record was not stored.
enum Stop {
    /// Another host has appended.
    Lost,
    Failed(String),
    /// The session is over here.
    Told,
}

impl SessionLog {
    /// Starts what stores what a session writes, once it has [claimed](SessionLog::claim) the session. `file` is there unless
    /// that is new; while there is something in `attachments` no other host can go on with the session.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub(crate) fn start(
        fleet: &Arc<Fleet>,
        session: &str,
        is_shared: bool,
        claim: Claim,
        file: Option<PathBuf>,
        attachments: PathBuf,
    ) -> io::Result<SessionLog> {
        let (wake, woken) = bounded(1);
        let (told, receiver) = bounded(16);
        let shared = Arc::new(Shared { file: Mutex::new(file), ..Shared::default() });
        let mut writer = Writer {
            subject: fleet.options.log_subject(session),
            fleet: fleet.clone(),
            session: session.to_owned(),
            is_shared,
            shared: shared.clone(),
            told,
            last: 0,
            stored: 0,
            inode: None,
            state: None,
            attachments,
            logged: 0,
            rests_until: None,
            looks: 0,
            told_until: 0,
            cleared: 0,
        };
        let work = move || writer.run(claim, &woken);
        let thread = threads::spawn(&format!("l-{session}"), threads::SMALL_STACK, work)?;
        fleet.watch(session, &shared, &wake);
        let (session, fleet) = (session.to_owned(), fleet.clone());
        Ok(SessionLog { session, fleet, shared, wake, told: receiver, asked: 0, thread: Some(thread) })
    }

    /// Makes the session this host's, if nobody else has it by now. Nothing is stored before.
    pub(crate) fn claim(&self) {
        self.shared.may_claim.store(true, Ordering::Release);
        let _ = self.wake.try_send(());
    }

    /// The session, which is not this host's yet, is left to the others for a while.
    pub(crate) fn pass(&self) {
        self.fleet.pass(&self.session);
    }

    /// What becomes of it. The channel ends when the session is another host's.
    pub(crate) fn told(&self) -> &Receiver<Told> {
        &self.told
    }

    /// Asks for everything that was written so far to be stored; returns the number by which [`Told::Stored`] says so.
    pub(crate) fn store(&mut self) -> u64 {
        self.asked += 1;
        self.shared.asked.store(self.asked, Ordering::Release);
        let _ = self.wake.try_send(());
        self.asked
    }

    /// Where the session is written to, and what a host needs beside that file to go on with the session.
    pub(crate) fn state(&mut self, file: &Path, state: Vec<u8>) {
        *lock(&self.shared.file) = Some(file.to_path_buf());
        *lock(&self.shared.state) = Some(state);
        self.store();
    }

    /// What was said was summed up, so that much of what is stored is not needed any more.
    pub(crate) fn compacted(&mut self) {
        self.shared.compacted.store(true, Ordering::Release);
        self.store();
    }

    /// The prompts of the inbox up to this one need not wait there any more.
    pub(crate) fn taken(&mut self, sequence: u64) {
        self.shared.taken.fetch_max(sequence, Ordering::AcqRel);
        let _ = self.wake.try_send(());
    }

    /// Stores a prompt for whoever has the session next; at most `most` may wait.
    ///
    /// # Errors
    /// It is not stored, and why.
    pub(crate) fn put_into_inbox(&self, prompt: &[u8], most: usize) -> Result<(), InboxError> {
        self.fleet.put_into_inbox(&self.session, prompt, most)
    }

    /// Tells, from any thread, whether it is sure that the session is still this host's, as far as the others go by the clock.
    pub(crate) fn lease(&self) -> Lease {
        Lease { fleet: self.fleet.clone(), shared: self.shared.clone() }
    }

    /// Gives the session to another host, behind everything that was written. False if it is not known in time that this host
    /// has it: the log tells later whose it is.
    pub(crate) fn give(mut self, host: &str) -> bool {
        *lock(&self.shared.give) = Some(host.to_owned());
        self.store();
        let deadline = Instant::now() + GIVE_TIME;
        while let Ok(told) = self.told.recv_deadline(deadline) {
            match told {
                Told::Given => return true,
                Told::Owned(_) | Told::Inbox(_) | Told::Stored(_) => {}
                Told::Failed(_) | Told::Moved { .. } => return false,
            }
        }
        false
    }

    /// The session is over for good, and nothing of it is kept.
    pub(crate) fn end(self) {
        self.shared.ended.store(true, Ordering::Release);
    }
}

impl Drop for SessionLog {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let _ = self.wake.try_send(());
        // A thread that is about to tell something must not wait for somebody to hear it.
        self.told = crossbeam_channel::never();
        drop(self.thread.take());
    }
}

impl Shared {
    /// Has the thread look whether the session is still this host's.
    pub(super) fn verify(&self) {
        self.verify.store(true, Ordering::Release);
    }

    /// Has the thread look into the session's inbox.
    pub(super) fn look(&self) {
        self.look.store(true, Ordering::Release);
    }
}

impl Writer {
    fn run(&mut self, claim: Claim, woken: &Receiver<()>) {
        while !self.shared.may_claim.load(Ordering::Acquire) {
            if woken.recv().is_err() || self.is_over() {
                return;
            }
        }
        let mut told = self.own(claim);
        let mut is_owned = false;
        loop {
            is_owned |= told.is_ok();
            let next = match told {
                Ok(told) => told,
                Err(Stop::Lost) => {
                    // From here on nothing is said any more of what another host goes on with.
                    self.shared.verify();
                    let _ = self.told.send(self.moved());
                    return;
                }
                Err(Stop::Failed(why)) => Told::Failed(why),
                Err(Stop::Told) => break,
            };
            let (failed, given) = (matches!(next, Told::Failed(_)), next == Told::Given);
            if self.told.send(next).is_err() {
                break;
            }
            if given {
                let host = lock(&self.shared.give).take().unwrap_or_default();
                return self.fleet.tell_given(&self.session, &host);
            }
            if is_owned
                && !failed
                && let Err(stop) = self.tidy()
            {
                told = Err(stop);
                continue;
            }
            let pause = match (failed, self.looks) {
                (true, _) => RETRY,
                (false, 0) => LOOK_AROUND,
                (false, _) => LOOK_AGAIN,
            };
            match woken.recv_timeout(pause) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.is_over() {
                break;
            }
            told = if is_owned { self.ship() } else { self.own(claim) };
        }
        let taken = self.shared.taken.load(Ordering::Acquire);
        if self.shared.ended.load(Ordering::Acquire)
            && self.last > 0
            && let Err(e) = end(&self.fleet, &self.session, self.last, taken)
        {
            log::warn!("session {}: its log is left to a later look: {e}", self.session);
        }
    }

    fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    fn head(&self, kind: Kind) -> Head {
        let shared = self.is_shared && !files::has_entries(&self.attachments);
        Head { shared, offset: self.stored, after: self.last, logged: self.logged, ..self.fleet.head(kind) }
    }

    /// Waits for the connection.
    fn wait_connected(&self) -> Result<(), Stop> {
        while !self.fleet.connection.is_connected() {
            if self.is_over() {
                return Err(Stop::Told);
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Asks until there is an answer.
    fn ask<T>(&self, ask: impl Fn() -> Result<T, JetStreamError>) -> Result<T, Stop> {
        loop {
            self.wait_connected()?;
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(e) if e.may_pass() => std::thread::sleep(PAUSE),
                Err(e) => return Err(Stop::Failed(e.to_string())),
            }
            if self.is_over() {
                return Err(Stop::Told);
            }
        }
    }

    /// Makes the session ours, and takes what has waited for that.
    fn own(&mut self, claim: Claim) -> Result<Told, Stop> {
        let is_new = self.claim(claim)? == Kind::New;
        let mut prompts = self.inbox()?;
        prompts.iter_mut().for_each(|prompt| prompt.is_late = is_new);
        self.looks = u32::from(!is_new);
        Ok(Told::Owned(prompts))
    }

    /// Makes the session ours; returns the record that says so.
    fn claim(&mut self, claim: Claim) -> Result<Kind, Stop> {
        loop {
            let last = self.ask(|| self.fleet.jetstream.last(LOGS, &self.subject, ASK_TIME))?;
            let found = last.as_ref().and_then(|last| Some((last.sequence, decode(&last.payload)?)));
            let is_ours = |head: &Head| head.host == self.fleet.options.host;
            let (expected, kind, stored) = match (&found, claim) {
                (None, Claim::Theirs(_)) => return Err(Stop::Lost),
                (None, _) => (0, Kind::New, 0),
                (Some((sequence, (head, _))), Claim::New)
                    if is_ours(head) && head.kind != Kind::Give || head.kind == Kind::End =>
                {
                    (*sequence, Kind::New, 0)
                }
                (Some((sequence, (head, bytes))), Claim::Ours) if is_ours(head) && head.kind != Kind::End => {
                    (*sequence, Kind::Own, stored_until(head, bytes))
                }
                (Some((sequence, (head, bytes))), Claim::Theirs(theirs)) if *sequence == theirs => {
                    (*sequence, Kind::Own, stored_until(head, bytes))
                }
                (Some(_), _) => return Err(Stop::Lost),
            };
            if claim == Claim::Ours {
                self.restore_file(stored)?;
            }
            (self.last, self.stored) = (expected, stored);
            self.logged = found.map_or(0, |(_, (head, bytes))| head.logged + room_of(bytes));
            let head = self.head(kind);
            match self.append(&head, &[]) {
                // What was read was not the last.
                Err(Stop::Lost) if claim == Claim::Ours => std::thread::sleep(PAUSE),
                done => return done.map(|()| kind),
            }
        }
    }

    /// Stores what was written since the last time, and gives the session to another host if it is to.
    fn ship(&mut self) -> Result<Told, Stop> {
        let asked = self.shared.asked.load(Ordering::Acquire);
        if self.shared.verify.load(Ordering::Acquire) {
            let last = self.ask(|| self.fleet.jetstream.last(LOGS, &self.subject, ASK_TIME))?;
            if last.is_some_and(|last| last.sequence > self.last) {
                return Err(Stop::Lost);
            }
            self.shared.verify.store(false, Ordering::Release);
            // While this host was away others may have taken it for gone.
            self.looks = self.looks.max(1);
        }
        let state = lock(&self.shared.state).take();
        if let Some(state) = state {
            let head = self.head(Kind::State);
            if let Err(e) = self.append(&head, &state) {
                lock(&self.shared.state).get_or_insert(state);
                return Err(e);
            }
            self.state = Some(state);
        }
        let path = lock(&self.shared.file).clone();
        if let Some(path) = path {
            self.ship_file(&path)?;
        }
        let to = lock(&self.shared.give).clone();
        let Some(host) = to else { return Ok(Told::Stored(asked)) };
        let head = Head { host, ..self.head(Kind::Give) };
        self.append(&head, &[]).map(|()| Told::Given)
    }

    /// Does what nobody waits for.
    fn tidy(&mut self) -> Result<(), Stop> {
        self.shorten()?;
        let taken = self.shared.taken.load(Ordering::Acquire);
        if taken > self.cleared {
            match self.fleet.clear_inbox(&self.session, taken) {
                Ok(_) => self.cleared = taken,
                // Who takes them once more knows them.
                Err(e) => log::debug!("session {}: its inbox is cleared later: {e}", self.session),
            }
        }
        if self.shared.look.swap(false, Ordering::AcqRel) {
            self.looks = LOOKS;
        }
        if self.looks > 0 {
            self.looks -= 1;
            let prompts = self.inbox()?;
            if !prompts.is_empty() {
                self.looks = 0;
                self.told.send(Told::Inbox(prompts)).map_err(|_| Stop::Told)?;
            }
        }
        Ok(())
    }

    /// What has come into the inbox since the last time.
    fn inbox(&mut self) -> Result<Vec<InboxPrompt>, Stop> {
        let prompts = match self.ask(|| self.fleet.inbox(&self.session, self.told_until)) {
            // What is in there stays there.
            Err(Stop::Failed(why)) => {
                log::warn!("session {}: its inbox cannot be read: {why}", self.session);
                Vec::new()
            }
            prompts => prompts?,
        };
        self.told_until = prompts.last().map_or(self.told_until, |last| last.sequence);
        Ok(prompts)
    }

    fn ship_file(&mut self, path: &Path) -> Result<(), Stop> {
        let failed = |e: io::Error| Stop::Failed(format!("{}: {e}", path.display()));
        let (file, metadata) = files::open_regular(path).map_err(failed)?;
        let inode = Some((metadata.dev(), metadata.ino()));
        // One that was written anew is shipped anew. The first time it is the one that was stored so far.
        if self.inode.is_some() && self.inode != inode || metadata.len() < self.stored {
            self.stored = 0;
        }
        self.inode = inode;
        let most = PART.min(self.fleet.connection.max_payload().saturating_sub(HEAD_ROOM)).max(1024);
        let (mut at, length) = (self.stored, metadata.len());
        while at < length {
            let bytes = read_part(&file, at, most.min(usize::try_from(length - at).unwrap_or(most))).map_err(failed)?;
            let after = at + bytes.len() as u64;
            let head = Head { offset: at, more: after < length, ..self.head(Kind::File) };
            self.append(&head, &bytes)?;
            at = after;
        }
        self.stored = length;
        Ok(())
    }

    /// Stores one record, however long that takes.
    fn append(&mut self, head: &Head, bytes: &[u8]) -> Result<(), Stop> {
        let (id, record) = (ids::nuid(), encode(head, bytes));
        loop {
            self.wait_connected()?;
            let deadline = Instant::now() + TRY;
            match self.fleet.jetstream.append(LOGS, &self.subject, self.last, &id, &record, deadline) {
                Ok(Appended::At(sequence)) => {
                    self.last = sequence;
                    self.logged += room_of(bytes);
                    return Ok(());
                }
                Ok(Appended::Refused) => return Err(Stop::Lost),
                Err(e) if e.may_pass() || e.is_wrong_sequence() => {}
                Err(e) => return Err(Stop::Failed(e.to_string())),
            }
            if self.is_over() {
                return Err(Stop::Told);
            }
        }
    }

    /// Whose the session is.
    fn moved(&self) -> Told {
        let last = self.fleet.jetstream.last(LOGS, &self.subject, ASK_TIME).ok().flatten();
        let head = last.and_then(|last| Some(decode(&last.payload)?.0));
        let host = head.as_ref().map(|head| head.host.clone()).unwrap_or_default();
        let is_there = self.fleet.is_there(&host).unwrap_or(true);
        let has_no_owner = |head: Head| head.shared && (head.kind == Kind::Give || !is_there && head.kind != Kind::End);
        Told::Moved { host, is_there, takes: head.is_some_and(has_no_owner) }
    }
}

/// Says that a session is over whose last record is `last`, and removes what is stored of it, with the prompts of its inbox up
/// to `taken`, unless another host has it.
pub(super) fn end(fleet: &Fleet, session: &str, last: u64, taken: u64) -> Result<(), JetStreamError> {
    if !fleet.connection.is_connected() {
        return Err(RequestError::TimedOut.into());
    }
    let (subject, deadline) = (fleet.options.log_subject(session), Instant::now() + END_TIME);
    let end = encode(&Head { after: last, ..fleet.head(Kind::End) }, &[]);
    match fleet.jetstream.append(LOGS, &subject, last, &ids::nuid(), &end, deadline)? {
        Appended::At(sequence) => {
            if taken > 0 {
                fleet.clear_inbox(session, taken)?;
            }
            fleet.jetstream.purge(LOGS, &subject, Some(sequence + 1), END_TIME).map(drop)
        }
        Appended::Refused => Ok(()),
    }
}

fn read_part(file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}
