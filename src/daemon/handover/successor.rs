//! The side of the process that is replaced.

use super::{ANSWER_TIME, Notice, Reader, Said, Writer, ends, open_folder, socket_in};
use crate::contract::identity::SessionIdentity;
use crate::contract::ids::InstanceId;
use crate::contract::prompt;
use crate::nats::Connection;
use crate::socket::directory;
use crate::sync::lock;
use crate::threads::{self, SMALL_STACK, Thread};
use crossbeam_channel::{Sender, bounded};
use rustix::net::sockopt::socket_peercred;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Waits for a process that wants to take over. Dropping it ends that.
pub(in crate::daemon) struct Door {
    listener: Arc<UnixListener>,
    _thread: Thread,
}

impl Drop for Door {
    fn drop(&mut self) {
        // Whoever waits for a connection is woken by that.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
    }
}

/// Lets another process ask in this folder, which is ours. What is there already was left by a dead process.
///
/// # Errors
/// Those of the system.
pub(in crate::daemon) fn open_door(
    folder: &Path,
    connection: &Connection,
    notices: &Sender<Notice>,
) -> io::Result<Door> {
    let open = open_folder(folder)?;
    let listener = UnixListener::from(directory::listen(&socket_in(open.as_fd()))?);
    listener.set_nonblocking(false)?;
    let listener = Arc::new(listener);
    let (of_thread, connection, notices) = (listener.clone(), connection.clone(), notices.clone());
    let thread = threads::spawn("handover", SMALL_STACK, move || {
        while let Ok((socket, _)) = of_thread.accept() {
            let pid = socket_peercred(&socket).map_or(0, |peer| peer.pid.as_raw_pid());
            let served = ends(socket).and_then(|(reader, writer)| serve(pid, reader, writer, &connection, &notices));
            if let Err(e) = served {
                log::warn!("a process that wanted to replace this one was not understood: {e}");
            }
        }
    })?;
    Ok(Door { listener, _thread: thread })
}

/// Hears one process to its end.
fn serve(
    pid: i32,
    mut reader: Reader,
    writer: Writer,
    connection: &Connection,
    notices: &Sender<Notice>,
) -> io::Result<()> {
    let Some(Said::Replace { owner }) = reader.next()? else { return Err(io::ErrorKind::InvalidData.into()) };
    reader.wait_forever()?;
    let successor = Arc::new(Successor {
        pid,
        owner,
        writer,
        connection: connection.clone(),
        notices: notices.clone(),
        asked: Mutex::default(),
    });
    // The main thread takes notices as long as the process lives.
    let _ = notices.send(Notice::Asked(successor.clone()));
    let heard = loop {
        match reader.next() {
            Ok(Some(Said::Ready)) => drop(notices.send(Notice::Ready)),
            Ok(Some(Said::Prepared { instance, ok })) => {
                let asked = lock(&successor.asked).remove(&instance);
                if let Some(asked) = asked {
                    let _ = asked.try_send(ok);
                }
            }
            Ok(Some(_)) => break Err(io::ErrorKind::InvalidData.into()),
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    // Those who wait for an answer see that none comes.
    lock(&successor.asked).clear();
    let _ = notices.send(Notice::Gone);
    heard
}

/// The process that takes our place.
pub(in crate::daemon) struct Successor {
    pub pid: i32,
    pub owner: String,
    pub writer: Writer,
    connection: Connection,
    notices: Sender<Notice>,
    /// Sessions that wait until it listens for them.
    asked: Mutex<BTreeMap<InstanceId, Sender<bool>>>,
}

impl prompt::Successor for Successor {
    fn prepare(&self, session: &SessionIdentity, _is_saved: bool) -> Option<prompt::Next> {
        // Nobody can say anything to a run; but what it said has to be there before what is said next.
        if !session.named {
            let arrived = !self.connection.is_connected() || self.connection.round_trip(ANSWER_TIME);
            return arrived.then_some(prompt::Next::Process);
        }
        let (sender, answer) = bounded(1);
        let instance = session.instance_id.clone();
        lock(&self.asked).insert(instance.clone(), sender);
        let asked = self.writer.say(&Said::Prepare { session: session.id.clone(), instance: instance.clone() }, None);
        let prepared = asked.is_ok() && answer.recv_timeout(ANSWER_TIME).unwrap_or(false);
        if !prepared {
            lock(&self.asked).remove(&instance);
            let _ = self.notices.try_send(Notice::Stuck);
        }
        prepared.then_some(prompt::Next::Process)
    }
}
