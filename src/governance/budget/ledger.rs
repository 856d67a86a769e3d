//! The ledger: a file that says what was reserved and what that came to, so that neither a crash nor another daemon changes
//! what may still be spent.
//!
//! The file is the state; what is in memory is what its lines add up to. Several daemons of one owner may have one file: each
//! operation locks it against the others and first reads what they have appended. So it is also in this process one at a
//! time, in a few system calls; what a request waits for the disk, it waits outside of that.

use super::balances::{Balances, Line, Pending};
use super::local_day::{date, local_zone};
use super::{Amounts, Budgets, Exceeded, SharedDay, Spent};
use crate::clock::now_ms;
use crate::fault;
use crate::files::{self, private, sync_folder};
use crate::ids;
use crate::sync::lock;
use jiff::tz::TimeZone;
use rustix::fs::{FlockOperation, flock};
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A file that has grown by so many bytes, more than 5,000 requests, is written anew with the sums alone.
const MAX_GROWTH: u64 = 1 << 20;
/// How long another daemon may have the file locked; it does for microseconds, unless it was stopped in the middle.
const LOCKED_FOR: Duration = Duration::from_secs(1);
/// Between two attempts to lock it.
const LOCK_AGAIN: Duration = Duration::from_millis(1);

/// What was spent, kept in a folder.
pub(crate) struct Ledger {
    folder: PathBuf,
    zone: TimeZone,
    state: Mutex<Option<State>>,
    /// The latest day and what was spent on it, for those who must not wait for a disk.
    shown: Mutex<(String, Amounts)>,
    /// Says what is spent on a day where that is not this machine's matter alone: the file knows what was spent on this one.
    shared_day: Option<Arc<SharedDay>>,
}

/// An open ledger.
struct State {
    /// Locked while the other one is read or written; never replaced.
    lock: File,
    file: Arc<File>,
    /// What was read of it, bytes, up to the end of a line.
    read: u64,
    /// Its size when it was written anew.
    fresh: u64,
    balances: Balances,
}

/// Whose spending it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payer<'a> {
    pub session: &'a str,
    pub prompt: &'a str,
    pub budgets: &'a Budgets,
}

/// What one prompt is paid from.
pub(crate) struct Account {
    pub ledger: Arc<Ledger>,
    pub session: String,
    pub prompt: String,
}

impl Account {
    pub(crate) fn payer<'a>(&'a self, budgets: &'a Budgets) -> Payer<'a> {
        Payer { session: &self.session, prompt: &self.prompt, budgets }
    }
}

/// Leave to spend something.
pub(crate) struct Reservation {
    id: String,
    file: Arc<File>,
    pub most: Amounts,
}

impl Reservation {
    /// Waits until the reservation survives a power cut.
    ///
    /// # Errors
    /// The system's; nothing must be spent then.
    pub(crate) fn durable(&self) -> impl FnOnce() -> io::Result<()> + Send + 'static {
        let file = self.file.clone();
        move || files::sync(&file)
    }
}

/// Why nothing may be spent.
#[derive(Debug)]
pub(crate) enum Refused {
    Exceeded(Exceeded),
    /// The ledger cannot be read or written.
    Io(io::Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Exceeded(exceeded) => exceeded.fmt(f),
            Refused::Io(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Refused {
        Refused::Io(error)
    }
}

impl Ledger {
    /// A ledger in this folder, which is made when something is spent for the first time.
    pub(crate) fn new(folder: PathBuf) -> Ledger {
        Ledger { folder, zone: local_zone(), state: Mutex::default(), shown: Mutex::default(), shared_day: None }
    }

    /// The same with days that are shared with other machines.
    pub(crate) fn with_shared_day(self, day: SharedDay) -> Ledger {
        Ledger { shared_day: Some(Arc::new(day)), ..self }
    }

    /// Who says whether something may be spent today, if it is not the ledger.
    pub(crate) fn shared_day(&self) -> Option<&Arc<SharedDay>> {
        self.shared_day.as_ref()
    }

    /// Reads what was spent so far, where there is something.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub(crate) fn open(&self) -> Result<(), Refused> {
        self.with(|_, _| Ok(()))
    }

    /// Reserves `most`, for the file to be [`Reservation::durable`] before it is spent. Returns what is spent with it.
    ///
    /// # Errors
    /// A limit does not allow it, or the ledger cannot be written. Nothing is reserved then.
    pub(crate) fn reserve(&self, payer: Payer<'_>, most: Amounts) -> Result<(Reservation, Spent), Refused> {
        // What is left of a shared day is asked for apart.
        let limits = if self.shared_day.is_some() { payer.budgets.without_day() } else { *payer.budgets };
        self.reserve_with(payer, limits, |_| most)
    }

    /// As [`Ledger::reserve`], whatever the limits are.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub(crate) fn reserve_anyway(&self, payer: Payer<'_>, most: Amounts) -> Result<(Reservation, Spent), Refused> {
        self.reserve_with(payer, Budgets::default(), |_| most)
    }

    /// Reserves at most `longest` milliseconds of the time that is left, at least one. Of a shared day it is what was known of it
    /// last.
    ///
    /// # Errors
    /// As [`Ledger::reserve`].
    pub(crate) fn reserve_time(&self, payer: Payer<'_>, longest: u64) -> Result<(Reservation, Spent), Refused> {
        self.reserve_with(payer, *payer.budgets, |spent| {
            Amounts::millis(payer.budgets.time_left(spent).clamp(1, longest))
        })
    }

    fn reserve_with(
        &self,
        payer: Payer<'_>,
        limits: Budgets,
        most: impl FnOnce(&Spent) -> Amounts,
    ) -> Result<(Reservation, Spent), Refused> {
        self.with(|state, day| {
            let spent = state.balances.spent(payer.session, payer.prompt, day);
            let spent = self.shared_day.as_ref().map_or(spent, |shared| spent.on_day(shared.spent_today()));
            let most = most(&spent);
            if let Some(exceeded) = limits.exceeded(&spent, most) {
                return Err(Refused::Exceeded(exceeded));
            }
            let id = ids::hex16();
            let (session, prompt) = (payer.session.to_owned(), payer.prompt.to_owned());
            let pending = Pending { id: id.clone(), day: day.to_owned(), session, prompt, at: now_ms() / 1000, most };
            state.append(Line::Reserve(pending))?;
            self.keep_short(state);
            let spent = state.balances.spent(payer.session, payer.prompt, day);
            Ok((Reservation { id, file: state.file.clone(), most }, spent))
        })
    }

    /// Says what a reservation came to. Returns what is spent now. If that cannot be written, all of it stays spent.
    pub(crate) fn settle(&self, payer: Payer<'_>, reservation: &Reservation, spent: Amounts) -> Option<Spent> {
        let settled = self.with(|state, day| {
            state.append(Line::Settle { id: reservation.id.clone(), spent })?;
            Ok(state.balances.spent(payer.session, payer.prompt, day))
        });
        settled.map_err(|e: Refused| log::warn!("a reservation stays spent: {e}")).ok()
    }

    /// What was spent in a session so far.
    pub(crate) fn spent(&self, payer: Payer<'_>) -> Option<Spent> {
        self.with(|state, day| Ok(state.balances.spent(payer.session, payer.prompt, day))).ok()
    }

    /// The session is over.
    pub(crate) fn forget(&self, session: &str) {
        let ended = self.with(|state, _| state.append(Line::End { session: session.to_owned() }).map_err(Refused::Io));
        if let Err(e) = ended {
            log::debug!("the ledger remembers a session that is over: {e}");
        }
    }

    /// What was spent today by all sessions of the owner, as far as this process knows. Does not wait for a disk.
    pub(crate) fn spent_today(&self) -> Amounts {
        if let Some(day) = &self.shared_day {
            return day.spent_today();
        }
        let today = self.today();
        let (day, spent) = &*lock(&self.shown);
        if *day == today { *spent } else { Amounts::default() }
    }

    fn today(&self) -> String {
        date(&self.zone, now_ms())
    }

    /// Does something with the ledger as it is now, while nobody else does.
    fn with<T>(&self, work: impl FnOnce(&mut State, &str) -> Result<T, Refused>) -> Result<T, Refused> {
        let today = self.today();
        let mut guard = lock(&self.state);
        let state = match &mut *guard {
            Some(state) => state,
            none => none.insert(State::open(&self.folder)?),
        };
        state.lock()?;
        let done = state.catch_up(&self.folder).map_err(Refused::Io).and_then(|()| work(state, &today));
        // It cannot fail for a lock that is held.
        let _ = flock(&state.lock, FlockOperation::Unlock);
        let spent = state.balances.on_day(&today);
        *lock(&self.shown) = (today, spent);
        done
    }

    /// Writes a file that has become long anew. If that fails, it only becomes longer.
    fn keep_short(&self, state: &mut State) {
        if state.read.saturating_sub(state.fresh) > MAX_GROWTH
            && let Err(e) = state.rewrite(&self.folder)
        {
            log::warn!("{}: {e}", path(&self.folder).display());
        }
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("ledger.jsonl")
}

impl State {
    fn open(folder: &Path) -> io::Result<State> {
        private::create_folder(folder)?;
        let lock = private::open_or_create(&folder.join("lock"))?;
        let file = Arc::new(private::open_or_create(&path(folder))?);
        sync_folder(folder)?;
        Ok(State { lock, file, read: 0, fresh: 0, balances: Balances::default() })
    }

    fn lock(&self) -> io::Result<()> {
        let deadline = Instant::now() + LOCKED_FOR;
        loop {
            match flock(&self.lock, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_AGAIN),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(io::Error::new(ErrorKind::WouldBlock, "another daemon has locked the ledger"));
                }
                done => return Ok(done?),
            }
        }
    }

    /// Takes in what others have appended, or the file that has taken the place of the one that was read.
    fn catch_up(&mut self, folder: &Path) -> io::Result<()> {
        let here = self.file.metadata()?;
        let there = std::fs::metadata(path(folder));
        let size = match there {
            Ok(there) if (there.dev(), there.ino()) == (here.dev(), here.ino()) && there.len() >= self.read => {
                there.len()
            }
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            Ok(_) | Err(_) => {
                // What somebody has deleted or shortened is read again as it is.
                *self = State { lock: self.lock.try_clone()?, ..State::open(folder)? };
                self.file.metadata()?.len()
            }
        };
        if size == self.read {
            return Ok(());
        }
        let mut text = Vec::new();
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(self.read))?;
        file.take(size - self.read).read_to_end(&mut text)?;
        if text.last().is_some_and(|last| *last != b'\n') {
            // A crash has torn the line, so that nothing was spent for it; the next one must not be glued to it.
            file.seek(SeekFrom::End(0))?;
            fault::write_all(&mut file, b"\n")?;
            text.push(b'\n');
        }
        let whole = text.split_inclusive(|byte| *byte == b'\n');
        for line in whole {
            self.read += line.len() as u64;
            match serde_json::from_slice(line) {
                Ok(line) => self.balances.apply(line),
                Err(e) => log::warn!("{}: a line that is none is passed over: {e}", path(folder).display()),
            }
        }
        Ok(())
    }

    /// Writes a line, and counts it only then.
    fn append(&mut self, line: Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(self.read))?;
        if let Err(e) = fault::write_all(&mut file, &text) {
            // What is left of it otherwise is a line that is none.
            let _ = self.file.set_len(self.read);
            return Err(e);
        }
        self.read += text.len() as u64;
        self.balances.apply(line);
        Ok(())
    }

    /// Puts a file with the sums alone in the place of the long one.
    fn rewrite(&mut self, folder: &Path) -> io::Result<()> {
        let mut text = Vec::new();
        for line in self.balances.lines(now_ms() / 1000) {
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
        let path = path(folder);
        private::replace(&path, |file| {
            fault::write_all(file, &text)?;
            files::sync(file)
        })?;
        sync_folder(folder)?;
        let file = Arc::new(private::open_or_create(&path)?);
        let size = text.len() as u64;
        let mut balances = Balances::default();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            balances.apply(serde_json::from_slice(line)?);
        }
        (self.file, self.read, self.fresh, self.balances) = (file, size, size, balances);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
