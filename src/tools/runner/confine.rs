//! Confining the runner, before it has threads: limits, capabilities, files (Landlock), system calls (seccomp).
//!
//! Everything here is inherited by what the runner starts, and none of it can be taken back.

use super::frame::Setup;
use super::namespaces;
use super::policy::{Level, Profile, Sandbox};
use crate::fault;
use crate::files;
use crate::threads;
use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getppid, getrlimit, set_dumpable_behavior, setrlimit, test_kill_process,
};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};
use std::collections::BTreeMap;
use std::fs::DirEntry;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The newest ABI whose rights to files are handled; older kernels handle fewer.
const FILES_ABI: ABI = ABI::V5;
/// The first ABI that keeps files from being cut.
const CUTS: ABI = ABI::V3;
/// Files that a program may have open unless it asks for more.
const OPEN_FILES: u64 = 1024;
/// Taken before others when memory runs out, and less urgent than the daemon.
const OOM_SCORE: &[u8] = b"500";
const NICE: i32 = 5;
/// Devices without content, which every program may use, and shared memory.
const DEVICES: [&str; 9] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/shm",
];
/// As many parts of a path that leads to a secret are looked into.
const MAX_DEPTH: usize = 32;

/// Entries of folders with a secret in them that are allowed one by one; each takes some 5 µs at the start of a runner.
const MAX_ENTRIES: usize = 20_000;

/// What holds for a runner.
pub(super) struct Confinement {
    landlock: Option<ABI>,
    seccomp: bool,
    /// No signal reaches anything outside of the sandbox, since Landlock sees to that.
    pub signals: bool,
    /// It and its programs see and signal nobody else.
    own_processes: bool,
    /// There is a network of its own.
    pub loopback: bool,
    /// Folders with so many entries that some of those cannot be read, although they are no secrets.
    pub cut: Vec<PathBuf>,
}

impl Confinement {
    pub(super) fn level(&self) -> Level {
        match self.landlock {
            _ if !self.seccomp => Level::None,
            Some(_) if self.signals || self.own_processes => Level::Full,
            Some(_) => Level::Files,
            None => Level::Net,
        }
    }

    /// Keeps the programs that the calling thread, and those that it starts, start from sending signals to the process itself,
    /// where that is possible. Among each other they can.
    pub(super) fn confine_programs(&self) -> io::Result<()> {
        if !self.signals {
            return Ok(());
        }
        let restrict = || {
            // Each layer forbids links and renames between folders unless it allows them.
            let layer = Ruleset::default().handle_access(AccessFs::Refer)?.scope(Scope::Signal)?.create()?;
            let layer = match PathFd::new("/") {
                Ok(root) => layer.add_rule(PathBeneath::new(root, AccessFs::Refer))?,
                Err(_) => layer,
            };
            layer.restrict_self().map(drop)
        };
        restrict().map_err(|error: RulesetError| io::Error::other(error))
    }
}

/// The newest ABI that is used.
fn newest() -> ABI {
    ABI::V6.min(fault::landlock().into())
}

/// How much of a sandbox this machine can enforce: tried on a thread of its own, as far as that goes for a thread.
pub(crate) fn reachable(sandbox: &Sandbox) -> Level {
    if sandbox.is_off() {
        return Level::None;
    }
    let (tell, told) = crossbeam_channel::bounded(1);
    let tried = sandbox.clone();
    let probe = threads::spawn("probe", threads::SMALL_STACK, move || {
        let layer = Ruleset::default().handle_access(AccessFs::MakeSock).and_then(Ruleset::create);
        let landlock = layer.and_then(RulesetCreated::restrict_self).ok().and_then(|status| abi(&status));
        let seccomp = filter_calls(&tried, landlock, false);
        let _ = tell.send((landlock, seccomp));
    });
    // Dropping the thread waits for it.
    drop(probe);
    let (landlock, seccomp) = told.try_recv().unwrap_or_default();
    let signals = landlock >= Some(ABI::V6);
    if landlock.is_some() && !signals {
        NAMESPACES.get_or_init(super::can_have_own_processes);
    }
    let own_processes = own_processes(sandbox);
    Confinement { landlock, seccomp, signals, own_processes, loopback: false, cut: Vec::new() }.level()
}

/// Whether there are namespaces of processes, where Landlock does not confine signals.
static NAMESPACES: OnceLock<bool> = OnceLock::new();

/// Whether a runner has to be in a namespace of processes. Where sockets of other processes are allowed that is not enough
/// for anything, since abstract ones are reached all the same. To be asked after [`reachable`].
pub(super) fn own_processes(sandbox: &Sandbox) -> bool {
    !sandbox.unix_sockets && NAMESPACES.get().is_some_and(|there| *there)
}

/// Landlock's ABI, if it restricts anything.
fn abi(status: &RestrictionStatus) -> Option<ABI> {
    match status.landlock {
        LandlockStatus::Available { effective_abi, .. } if status.ruleset != RulesetStatus::NotEnforced => {
            Some(effective_abi.min(newest())).filter(|abi| *abi > ABI::Unsupported)
        }
        LandlockStatus::Available { .. } | LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => None,
    }
}

/// Confines this process, which must have one thread only.
///
/// # Errors
/// What could not be done though it is not a matter of the kernel's age.
pub(super) fn confine(setup: &Setup) -> io::Result<Confinement> {
    let sandbox = &setup.sandbox;
    limit(sandbox)?;
    // Where there is none, the calls for sockets are refused instead.
    let loopback = !sandbox.network && namespaces::network().is_ok();
    drop_privileges()?;
    let (landlock, cut) = restrict_files(setup)?;
    // The daemon is no part of the sandbox and belongs to the same user.
    let signals = landlock >= Some(ABI::V6) && getppid().is_some_and(|it| test_kill_process(it) == Err(Errno::PERM));
    let seccomp = filter_calls(sandbox, landlock, loopback);
    Ok(Confinement { landlock, seccomp, signals, own_processes: setup.own_processes, loopback, cut })
}

fn limit(sandbox: &Sandbox) -> io::Result<()> {
    let lower = |resource, soft: Option<u64>, hard: bool| {
        let now = getrlimit(resource);
        let least = |limit: Option<u64>| soft.map_or(limit, |soft| Some(limit.map_or(soft, |limit| limit.min(soft))));
        let maximum = if hard { least(now.maximum) } else { now.maximum };
        setrlimit(resource, Rlimit { current: least(now.current), maximum })
    };
    lower(Resource::Nofile, Some(OPEN_FILES), false)?;
    lower(Resource::Core, Some(0), true)?;
    lower(Resource::Data, sandbox.memory, true)?;
    lower(Resource::Fsize, sandbox.file_size, true)?;
    lower(Resource::Nproc, sandbox.processes, true)?;
    // Neither is a matter of safety, and a container may forbid both.
    let _ = rustix::process::nice(NICE);
    let _ =
        files::open(Path::new("/proc/self/oom_score_adj"), std::fs::File::options().write(true), files::Links::Follow)
            .and_then(|(mut file, _)| io::Write::write_all(&mut file, OOM_SCORE));
    Ok(())
}

/// Takes all that root has beside being a user with its own files, for good, and keeps what is in this process's memory from
/// other processes of the user: calls may be given secrets.
pub(super) fn drop_privileges() -> io::Result<()> {
    for capability in CapabilitySet::all().iter() {
        // It cannot be done without privileges, which are then not there to be taken; nor with those that the kernel, if it is
        // older, does not know, which come last.
        if rustix::thread::remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    let none = CapabilitySet::empty();
    let _ = rustix::thread::clear_ambient_capability_set();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Restricts files as far as the kernel can; `None` = not at all. Beside that the folders of which not all can be allowed.
fn restrict_files(setup: &Setup) -> io::Result<(Option<ABI>, Vec<PathBuf>)> {
    let Setup { sandbox, cwd, private, attachments, .. } = setup;
    let cwd = open_without_links(cwd)?;
    let restrict = move || {
        let newest = newest();
        let all = AccessFs::from_all(FILES_ABI.min(newest));
        let read = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute;
        let mut ruleset = Ruleset::default().handle_access(all)?;
        if newest >= ABI::V6 {
            ruleset = ruleset.scope(Scope::AbstractUnixSocket | Scope::Signal)?;
        }
        let mut rules =
            Rules { ruleset: ruleset.create()?, secrets: sandbox.secrets(), left: MAX_ENTRIES, cut: Vec::new() };
        // Names are no secrets, and programs list the folders above those that they use.
        rules.add(Path::new("/"), AccessFs::ReadDir.into())?;
        rules.add_but_secrets(Path::new("/"), read, MAX_DEPTH)?;
        for device in DEVICES {
            rules.add(Path::new(device), all)?;
        }
        rules.add(private, all)?;
        attachments.iter().try_for_each(|folder| rules.add(folder, read))?;
        let is_workspace = sandbox.profile == Profile::Workspace;
        rules.add_open(cwd, if is_workspace { all } else { read })?;
        for path in sandbox.writable.iter().filter(|_| is_workspace) {
            rules.add(path, all)?;
        }
        Ok((abi(&rules.ruleset.restrict_self()?), rules.cut))
    };
    if newest() == ABI::Unsupported {
        return Ok((None, Vec::new()));
    }
    restrict().map_err(|error: RulesetError| io::Error::other(error))
}

/// Opens the working folder, whose path has no links in it. Where one has come to be on the way there, another session may
/// have put it there, so that this one may write somewhere else.
fn open_without_links(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Kernels before Linux 5.6 have no Landlock either.
        Err(Errno::NOSYS | Errno::PERM) => Ok(rustix::fs::open(path, flags, Mode::empty())?),
        Err(Errno::LOOP) => Err(io::Error::other(format!("a link leads to the working folder {} now", path.display()))),
        opened => Ok(opened?),
    }
}

struct Rules {
    ruleset: RulesetCreated,
    secrets: Vec<PathBuf>,
    /// How many more entries may be allowed.
    left: usize,
    cut: Vec<PathBuf>,
}

impl Rules {
    /// Allows `access` to a path and what is below it; to a file what there is of it for files. What is not there needs no
    /// leave.
    fn add(&mut self, path: &Path, access: BitFlags<AccessFs>) -> Result<(), RulesetError> {
        let Ok(file) = PathFd::new(path) else { return Ok(()) };
        self.add_open(file, access)
    }

    fn add_open(&mut self, file: impl AsFd, access: BitFlags<AccessFs>) -> Result<(), RulesetError> {
        (&mut self.ruleset).add_rule(PathBeneath::new(file, access)).map(drop)
    }

    /// The same without the secrets: since Landlock only allows, what is beside them is allowed one by one.
    fn add_but_secrets(&mut self, path: &Path, access: BitFlags<AccessFs>, depth: usize) -> Result<(), RulesetError> {
        if self.secrets.iter().any(|secret| secret == path) || depth == 0 {
            return Ok(());
        }
        if !self.secrets.iter().any(|secret| secret.starts_with(path)) {
            return self.add(path, access);
        }
        let Ok(entries) = path.read_dir() else { return Ok(()) };
        // What a link leads to is allowed, or not, where it is.
        let kind = |entry: &DirEntry| entry.file_type().ok().filter(|kind| !kind.is_symlink());
        let entries = entries.flatten().filter_map(|entry| Some((kind(&entry)?.is_dir(), entry.path())));
        // Where there are too many, folders matter more than files: each of them is one rule for all that it holds.
        let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|(is_folder, _)| *is_folder);
        for (_, entry) in folders.into_iter().chain(files) {
            if self.left == 0 {
                self.cut.push(path.to_owned());
                return Ok(());
            }
            self.left -= 1;
            self.add_but_secrets(&entry, access, depth - 1)?;
        }
        Ok(())
    }
}

/// Filters system calls; false if that is not possible here.
fn filter_calls(sandbox: &Sandbox, landlock: Option<ABI>, own_network: bool) -> bool {
    let Ok(architecture) = std::env::consts::ARCH.try_into() else { return false };
    let Some(rules) = rules(sandbox, landlock, own_network) else { return false };
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture);
    let Ok(program) = filter.and_then(TryInto::<BpfProgram>::try_into) else { return false };
    let hidden = if landlock < Some(CUTS) { &[libc::SYS_clone3, libc::SYS_openat2][..] } else { &[libc::SYS_clone3] };
    let Some(not_there) = not_there(hidden) else { return false };
    seccompiler::apply_filter(&program).is_ok() && seccompiler::apply_filter(&not_there).is_ok()
}

/// A filter that answers as if there were none of these calls, whose arguments are in memory that a filter does not see, so
/// that the C library takes older ones; nor any call of the x32 kind. It is written by hand since [`SeccompFilter`] knows
/// single calls only: with each of those that are refused in two kinds the kernel took twice as long to take the filter
/// (0.2 ms).
fn not_there(calls: &[i64]) -> Option<BpfProgram> {
    /// Set in the number of a call of the x32 kind; other architectures have no such numbers.
    const X32: u32 = 0x4000_0000;
    let step = |code: u32, jt, jf, k| Some(sock_filter { code: code.try_into().ok()?, jt, jf, k });
    let answer = |action| step(libc::BPF_RET | libc::BPF_K, 0, 0, action);
    let compare = libc::BPF_JMP | libc::BPF_K;
    // The number stands first in what the kernel shows of a call.
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)?];
    let checks = std::iter::once((libc::BPF_JGE, X32));
    let checks = checks.chain(calls.iter().filter_map(|call| Some((libc::BPF_JEQ, (*call).try_into().ok()?))));
    let checks: Vec<_> = checks.collect();
    for (at, (how, number)) in checks.iter().enumerate() {
        // Over the checks that are left, and over the answer to what is there.
        program.push(step(compare | how, u8::try_from(checks.len() - at).ok()?, 0, *number)?);
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW)?);
    program.push(answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned())?);
    Some(program)
}

/// The calls that are refused; those without conditions always.
fn rules(sandbox: &Sandbox, landlock: Option<ABI>, own_network: bool) -> Option<BTreeMap<i64, Vec<SeccompRule>>> {
    let is = |argument, value: i32| {
        let value = u64::from(value.cast_unsigned());
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).ok()?;
        SeccompRule::new(vec![condition]).ok()
    };
    let is_not = |argument, value: i32| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(value.cast_unsigned()))
            .ok()
    };
    let masked = |argument, mask: i32, value: i32| {
        let compare = SeccompCmpOp::MaskedEq(u64::from(mask.cast_unsigned()));
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, u64::from(value.cast_unsigned())).ok()
    };
    let has_flag = |argument, flag: i32| SeccompRule::new(vec![masked(argument, flag, flag)?]).ok();
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = ALWAYS.iter().map(|call| (*call, Vec::new())).collect();
    if landlock.is_none() {
        // Landlock keeps them within the sandbox, where debuggers need them.
        refused.extend(
            [libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev].map(|c| (c, Vec::new())),
        );
    }
    // All but these families: some of the others are ways to the network, too, such as AF_SMC, which falls back to TCP.
    let mut families = vec![libc::AF_NETLINK];
    if sandbox.network || own_network {
        families.extend([libc::AF_INET, libc::AF_INET6]);
    }
    if sandbox.unix_sockets {
        families.push(libc::AF_UNIX);
    }
    let others = families.into_iter().map(|family| is_not(0, family)).collect::<Option<_>>()?;
    refused.insert(libc::SYS_socket, vec![SeccompRule::new(others).ok()?]);
    if !sandbox.unix_sockets {
        // One of a pair that is no stream can send to any socket with a path, too.
        let datagrams = [libc::SOCK_DGRAM, libc::SOCK_RAW].map(|kind| masked(1, SOCK_TYPE_MASK, kind));
        let datagrams = datagrams.into_iter().map(|condition| SeccompRule::new(vec![condition?]).ok());
        refused.insert(libc::SYS_socketpair, datagrams.collect::<Option<_>>()?);
    }
    if landlock < Some(CUTS) {
        // Files are cut without being opened for writing, too.
        refused.insert(libc::SYS_truncate, Vec::new());
        let cuts = |flags| SeccompRule::new(vec![masked(flags, libc::O_TRUNC | libc::O_ACCMODE, libc::O_TRUNC)?]).ok();
        refused.insert(libc::SYS_openat, vec![cuts(2)?]);
        #[cfg(target_arch = "x86_64")]
        refused.insert(libc::SYS_open, vec![cuts(1)?]);
    }
    // With the limits of another process of the same user it can be ended: no signal is needed for that.
    // With a lower priority it is kept from answering. 0 is who asks; a user's processes are all of them.
    let others = |who| SeccompRule::new(vec![is_not(who, 0)?]).ok();
    for call in [libc::SYS_prlimit64, libc::SYS_sched_setscheduler, libc::SYS_sched_setparam, libc::SYS_sched_setattr] {
        refused.insert(call, vec![others(0)?]);
    }
    refused.insert(libc::SYS_setpriority, vec![others(1)?, is(0, libc::PRIO_USER.cast_signed())?]);
    refused.insert(libc::SYS_ioprio_set, vec![others(1)?, is(0, IOPRIO_WHO_USER)?]);
    // A user namespace gives all capabilities within it, with which much more of the kernel can be reached.
    refused.insert(libc::SYS_clone, vec![has_flag(0, libc::CLONE_NEWUSER)?]);
    refused.insert(libc::SYS_unshare, vec![has_flag(0, libc::CLONE_NEWUSER)?]);
    // Puts characters into a terminal as if they had been typed; TIOCLINUX can do that too.
    refused.insert(libc::SYS_ioctl, vec![is(1, 0x5412)?, is(1, 0x541c)?]);
    Some(refused)
}

/// From linux/net.h: the part of a socket's type that is no flag.
const SOCK_TYPE_MASK: i32 = 0xf;
/// From linux/ioprio.h.
const IOPRIO_WHO_USER: i32 = 3;

/// Calls for which no tool has a use, and with which the rest could be got around, or the machine changed.
const ALWAYS: [i64; 34] = [
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_pidfd_getfd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
];
