//! A runner's own part of the machine, where the system has such parts: a network with nothing but a loopback device, in which
//! servers that tests start work, and nobody else is reached; processes that see and signal nobody else, and end with the
//! first of them.

use crate::files;
use crate::sys;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{getegid, geteuid};
use rustix::thread::UnshareFlags;
use std::io::{self, Write};
use std::path::Path;

/// Takes this process, which must have one thread only, into a new network namespace.
///
/// # Errors
/// The system has no namespaces, or does not let this user have them.
pub(super) fn network() -> io::Result<()> {
    enter(UnshareFlags::NEWNET)?;
    Ok(start_loopback()?)
}

/// Has what this process, which must have one thread only, starts next be the first of a new namespace of processes.
///
/// # Errors
/// The system has no namespaces, or does not let this user have them.
pub(super) fn processes() -> io::Result<()> {
    enter(UnshareFlags::NEWPID | UnshareFlags::NEWNS)
}

/// Has `/proc` show the processes of the namespace whose first one this is, and no others.
///
/// # Errors
/// The system does not let this user have that, as in containers that hide parts of `/proc`.
pub(super) fn show_processes() -> io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("proc", "/proc", "proc", flags, None::<&std::ffi::CStr>)?)
}

/// Without privileges that takes a new user namespace, too, in which this process's user stays who it is.
fn enter(namespaces: UnshareFlags) -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    if sys::new_namespaces(namespaces).is_err() {
        sys::new_namespaces(namespaces | UnshareFlags::NEWUSER)?;
        write("setgroups", "deny")?;
        write("uid_map", &format!("{0} {0} 1", user.as_raw()))?;
        write("gid_map", &format!("{0} {0} 1", group.as_raw()))?;
    }
    Ok(())
}

fn write(name: &str, text: &str) -> io::Result<()> {
    let path = Path::new("/proc/self").join(name);
    let (mut file, _) = files::open(&path, std::fs::File::options().write(true), files::Links::Follow)?;
    file.write_all(text.as_bytes())
}

/// Switches the loopback device on (rtnetlink(7)); the kernel gives it its addresses.
fn start_loopback() -> Result<(), Errno> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    /// The number of the loopback device in each namespace.
    const LOOPBACK: u32 = 1;
    /// Bytes of `struct nlmsghdr` and `struct ifinfomsg`.
    const LENGTH: u32 = 32;
    let mut request = Vec::with_capacity(LENGTH as usize);
    request.extend(LENGTH.to_ne_bytes());
    request.extend(RTM_NEWLINK.to_ne_bytes());
    request.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    // Sequence number, sender, family and type.
    request.extend([0; 12]);
    request.extend(LOOPBACK.to_ne_bytes());
    request.extend(IFF_UP.to_ne_bytes()); // the flags
    request.extend(IFF_UP.to_ne_bytes()); // which of them to change
    let kernel = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        // NETLINK_ROUTE.
        None,
    )?;
    rustix::net::send(&kernel, &request, SendFlags::empty())?;
    let mut answer = [0; 256];
    let (length, _) = rustix::net::recv(&kernel, &mut answer[..], RecvFlags::empty())?;
    // Behind the header of 16 bytes there is the error, as a negative number.
    match answer[..length].get(16..20).and_then(|error| error.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(Errno::from_raw_os_error(-error)),
        None => Err(Errno::BADMSG),
    }
}
