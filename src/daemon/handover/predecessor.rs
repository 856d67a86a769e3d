//! The side of the process that takes another one's place.

use super::{Notice, Reader, Said, Writer, ends, open_folder, socket_in};
use crate::nats::Connection;
use crate::threads::{self, SMALL_STACK, Thread};
use crossbeam_channel::{Sender, bounded};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long the NATS server may take to confirm subscriptions.
const CONFIRMED: Duration = Duration::from_secs(5);

/// The process whose place we take.
pub(in crate::daemon) struct Predecessor {
    reader: Reader,
    writer: Writer,
}

impl Predecessor {
    /// Finds the process that has this folder.
    ///
    /// # Errors
    /// It does not take connections, or those of the system.
    pub(in crate::daemon) fn find(folder: &Path) -> io::Result<Predecessor> {
        let open = open_folder(folder)?;
        let (reader, writer) = ends(UnixStream::connect(socket_in(open.as_fd()))?)?;
        Ok(Predecessor { reader, writer })
    }

    /// Asks to take over; returns the folder's lock.
    ///
    /// # Errors
    /// Why not.
    pub(in crate::daemon) fn ask(&mut self, owner: &str) -> Result<OwnedFd, String> {
        let asked = self.writer.say(&Said::Replace { owner: owner.to_owned() }, None);
        let said = asked.and_then(|()| self.reader.next()).map_err(|e| format!("it does not answer: {e}"))?;
        match (said, self.reader.descriptor()) {
            (Some(Said::Agreed), Some(lock)) => Ok(lock),
            (Some(Said::Refused { why }), _) => Err(why),
            _ => Err("it does not answer".into()),
        }
    }

    /// Tells it that we are there, and hears it from now on. Ends when the predecessor does.
    ///
    /// # Errors
    /// Those of the system.
    pub(in crate::daemon) fn hear(self, connection: &Connection, notices: &Sender<Notice>) -> io::Result<Hearing> {
        let Predecessor { reader, writer } = self;
        reader.wait_forever()?;
        let writer = Arc::new(writer);
        let (connection, notices, of_thread) = (connection.clone(), notices.clone(), writer.clone());
        let thread = threads::spawn("handover", SMALL_STACK, move || {
            // The subscriptions are under way.
            let heard = match connection.round_trip(CONFIRMED) {
                true => {
                    of_thread.say(&Said::Ready, None).and_then(|()| hear(reader, &of_thread, &connection, &notices))
                }
                false => Err(io::ErrorKind::TimedOut.into()),
            };
            if let Err(e) = heard {
                log::warn!("the process that is to be replaced is not understood: {e}");
            }
            of_thread.close();
            let _ = notices.send(Notice::Gone);
        })?;
        Ok(Hearing { writer, _thread: thread })
    }
}

/// The thread that hears the predecessor. Dropping it ends the connection.
pub(in crate::daemon) struct Hearing {
    writer: Arc<Writer>,
    _thread: Thread,
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.writer.close();
    }
}

fn hear(mut reader: Reader, writer: &Writer, connection: &Connection, notices: &Sender<Notice>) -> io::Result<()> {
    let mut asked = Vec::new();
    while let Some(said) = reader.next()? {
        let notice = match said {
            Said::Prepare { session, instance } => {
                let (answer, listens) = bounded(1);
                asked.push((instance, listens));
                Notice::Prepare(session, answer)
            }
            Said::Go => Notice::Go,
            Said::Take { session } => Notice::Take(session),
            Said::Dropped { session } => Notice::Dropped(session),
            Said::Done => Notice::Done(reader.descriptor()),
            Said::Off => Notice::Off,
            Said::Replace { .. } | Said::Agreed | Said::Refused { .. } | Said::Ready | Said::Prepared { .. } => {
                return Err(io::ErrorKind::InvalidData.into());
            }
        };
        // The main thread takes notices as long as the process lives.
        let _ = notices.send(notice);
        // One round trip for all that were asked for at the same time.
        if !asked.is_empty() && !reader.has_more() {
            let listens: Vec<bool> = asked.iter().map(|(_, listens)| listens.recv().unwrap_or(false)).collect();
            let confirmed = connection.round_trip(CONFIRMED);
            for ((instance, _), listens) in asked.drain(..).zip(listens) {
                writer.say(&Said::Prepared { instance, ok: listens && confirmed }, None)?;
            }
        }
    }
    Ok(())
}
