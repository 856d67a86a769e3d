//! Whose a socket at the other end of a connection within this host is.
//!
//! The kernel's socket diagnosis answers for one connection in some 20 µs, however many sockets there are. Where a kernel
//! was built without it, the tables in `/proc/net` are read, which take a millisecond for each thousand sockets.

use crate::files;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// The first user number of people: smaller ones are of the system's own services (`UID_MIN` of login.defs).
const FIRST_PERSON: u32 = 1000;

/// Who holds a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    /// The socket's number, by which `/proc/PID/fd` names it.
    pub inode: u64,
}

impl Owner {
    /// It belongs to this process's user or to root, who may do everything here anyway.
    pub fn is_same_user(&self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }

    /// It belongs to whom the start of a server may be left to: the same user, root, or one of the system's services.
    pub fn may_serve(&self) -> bool {
        self.is_same_user() || self.uid < FIRST_PERSON
    }

    /// This very process holds it.
    pub fn is_this_process(&self) -> bool {
        let name = format!("socket:[{}]", self.inode);
        let Ok(files) = std::fs::read_dir("/proc/self/fd") else { return false };
        files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == &*name))
    }
}

/// Who holds the socket on this host with these two ends. `None` where nobody does: a process that has closed it leaves a
/// socket behind that the kernel shows as root's until the other end has closed too, and which counts as nobody's.
pub fn owner(local: SocketAddr, remote: SocketAddr) -> Option<Owner> {
    let found = diagnose(local, remote).unwrap_or_else(|_| search(local, remote));
    found.filter(|owner| owner.inode != 0)
}

/// Who listens on an address, itself or as one of all addresses.
pub fn listener(address: SocketAddr) -> Option<Owner> {
    let nobody = if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    owner(address, SocketAddr::new(nobody, 0))
}

/// Why a server that was found on an address, and not named, must not be used: whoever serves there sees and says
/// everything. The two ends of the connection to it are ours and the server's.
///
/// # Errors
/// It belongs to somebody else, or it cannot be told whose it is.
pub fn check_found_server(own: SocketAddr, server: SocketAddr) -> Result<(), &'static str> {
    match owner(server, own) {
        Some(owner) if owner.may_serve() => Ok(()),
        Some(_) => Err("it belongs to another user of this host, and is used only if --server names it"),
        None => Err("it cannot be told whose it is, so that it is used only if --server names it"),
    }
}

/// Asks the kernel (sock_diag(7)). The error says that it cannot be asked, not that there is no such socket.
fn diagnose(local: SocketAddr, remote: SocketAddr) -> Result<Option<Owner>, Errno> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST: u16 = 1;
    const NLMSG_ERROR: u16 = 2;
    const IPPROTO_TCP: u8 = 6;
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    /// Lengths and places in bytes, of `struct nlmsghdr` and of `inet_diag_req_v2` and `inet_diag_msg` behind it.
    const HEADER: usize = 16;
    const REQUEST: u32 = 72;
    const ERROR: usize = HEADER;
    const REMOTE_PORT: usize = HEADER + 6;
    const UID: usize = HEADER + 64;
    const INODE: usize = HEADER + 68;

    let family = if local.ip().to_canonical().is_ipv4() { AF_INET } else { AF_INET6 };
    let mut request = Vec::with_capacity(REQUEST as usize);
    request.extend(REQUEST.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and sender, which mean nothing on a socket for one question.
    request.extend([0; 8]);
    request.extend([family, IPPROTO_TCP, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes()); // in any state
    request.extend(local.port().to_be_bytes());
    request.extend(remote.port().to_be_bytes());
    for end in [local, remote] {
        match end.ip().to_canonical() {
            IpAddr::V4(ip) => {
                request.extend(ip.octets());
                request.extend([0; 12]);
            }
            IpAddr::V6(ip) => request.extend(ip.octets()),
        }
    }
    request.extend([0; 4]); // on any interface
    request.extend([0xff; 8]); // no cookie
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kernel = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
    rustix::net::send(&kernel, &request, SendFlags::empty())?;
    let mut answer = [0; 512];
    rustix::net::recv(&kernel, &mut answer[..], RecvFlags::empty())?;
    let word = |at: usize| u32::from_ne_bytes([answer[at], answer[at + 1], answer[at + 2], answer[at + 3]]);
    match u16::from_ne_bytes([answer[4], answer[5]]) {
        NLMSG_ERROR => match word(ERROR).cast_signed().wrapping_neg() {
            error if error == Errno::NOENT.raw_os_error() => Ok(None),
            error => Err(Errno::from_raw_os_error(error)),
        },
        // Where there is no such connection the kernel names who listens there.
        SOCK_DIAG_BY_FAMILY if answer[REMOTE_PORT..REMOTE_PORT + 2] != remote.port().to_be_bytes() => Ok(None),
        SOCK_DIAG_BY_FAMILY => Ok(Some(Owner { uid: word(UID), inode: word(INODE).into() })),
        _ => Err(Errno::PROTO),
    }
}

/// Searches the kernel's tables.
fn search(local: SocketAddr, remote: SocketAddr) -> Option<Owner> {
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let (table, _) = files::open_regular(Path::new(table)).ok()?;
        let lines = BufReader::new(table).lines();
        lines.map_while(Result::ok).find_map(|line| owner_in(&line, local, remote))
    })
}

/// The owner in a row of the tables, if the row is about the socket.
fn owner_in(row: &str, local: SocketAddr, remote: SocketAddr) -> Option<Owner> {
    let mut fields = row.split_ascii_whitespace().skip(1);
    let (here, there) = (parse_end(fields.next()?)?, parse_end(fields.next()?)?);
    let is_listening = remote.port() == 0 && there.port() == 0;
    let same_place = here.port() == local.port()
        && (here.ip() == local.ip().to_canonical() || is_listening && here.ip().is_unspecified());
    let same_peer = is_listening || (there.ip(), there.port()) == (remote.ip().to_canonical(), remote.port());
    if !(same_place && same_peer) {
        return None;
    }
    Some(Owner { uid: fields.nth(4)?.parse().ok()?, inode: fields.nth(1)?.parse().ok()? })
}

/// An address and a port in hexadecimal: the port as a number, the address as its words of four bytes are in memory.
fn parse_end(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words = (0..ip.len()).step_by(8).map(|at| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok());
    let bytes = words.map(|word| word.map(u32::to_ne_bytes)).collect::<Option<Vec<_>>>()?.concat();
    let ip = match <[u8; 4]>::try_from(&*bytes) {
        Ok(bytes) => IpAddr::from(bytes),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(&*bytes).ok()?).to_canonical(),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn both_ways_find_the_socket_and_its_process() {
        for (listen, connect) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
            let server = TcpListener::bind(listen).expect("a port");
            let port = server.local_addr().expect("an address").port();
            let to = SocketAddr::new(connect.parse().expect("an address"), port);
            let client = TcpStream::connect(to).expect("connected");
            let (accepted, peer) = server.accept().expect("accepted");
            let here = accepted.local_addr().expect("an address");
            let found = owner(peer, here).expect("it is there");
            assert_eq!(found.uid, rustix::process::geteuid().as_raw(), "{listen}");
            assert!(found.is_same_user() && found.may_serve() && found.is_this_process(), "{listen}");
            assert_eq!((diagnose(peer, here), search(peer, here)), (Ok(Some(found)), Some(found)), "{listen}");
            let listening = listener(to).expect("somebody listens");
            assert_eq!((search(to, SocketAddr::new(to.ip(), 0)), listening.is_this_process()), (Some(listening), true));
            // The other way round it is the accepted socket, and with another port nobody's.
            let other = owner(here, peer).expect("it is there");
            assert_ne!(other.inode, found.inode, "{listen}");
            let stranger = SocketAddr::new(peer.ip(), peer.port() ^ 1);
            assert_eq!((owner(stranger, here), search(stranger, here)), (None, None), "{listen}");
            // Whoever has closed its end is nobody, although the kernel shows root for it.
            drop(client);
            assert_eq!((owner(peer, here), owner(to, peer).is_some()), (None, true), "{listen}");
        }
        let unused = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        assert_eq!(listener(unused), None);
    }

    #[test]
    fn rows_are_read_to_the_letter() {
        let row = "   7: 0100007F:A6AE 0100007F:107E 01 00000000:00000000 00:00000000 00000000  1001        0 4711 1 0";
        let end = |text: &str| text.parse::<SocketAddr>().expect(text);
        let found = Some(Owner { uid: 1001, inode: 4711 });
        let (client, server) = (end("127.0.0.1:42670"), end("127.0.0.1:4222"));
        assert_eq!(owner_in(row, client, server), found);
        assert_eq!(owner_in(row, end("[::ffff:127.0.0.1]:42670"), server), found);
        for (local, remote) in [(server, client), (client, client), (end("127.0.0.2:42670"), server)] {
            assert_eq!(owner_in(row, local, remote), None, "{local} {remote}");
        }
        assert_eq!(owner_in(row, client, end("127.0.0.1:0")), None, "it does not listen");
        let mapped = row.replace("0100007F", "0000000000000000FFFF00000100007F");
        assert_eq!(owner_in(&mapped, client, server), found);
        let listening = row.replace("0100007F:A6AE 0100007F:107E 01", "00000000:107E 00000000:0000 0A");
        assert_eq!(owner_in(&listening, server, end("0.0.0.0:0")), found);
        assert_eq!(owner_in(&listening, client, end("0.0.0.0:0")), None);
        for damaged in ["", "sl", "0: 1 2", "0: 0100007F:A6AE", "0: 0100007F:A6AE 0100007F:107E 01 0"] {
            assert_eq!(owner_in(damaged, client, server), None, "{damaged:?}");
        }
        let person = Owner { uid: 1 + rustix::process::geteuid().as_raw().max(FIRST_PERSON), inode: 1 };
        assert!(!person.is_same_user() && !person.may_serve());
        assert!(Owner { uid: 105, inode: 1 }.may_serve());
    }
}
