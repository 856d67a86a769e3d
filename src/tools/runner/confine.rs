//! Confining the runner, before it has threads: limits, capabilities, files (Landlock), system calls (seccomp).
//!
//! Everything here is inherited by what the runner starts, and none of it can be taken back.

use super::network;
use super::policy::{Level, Profile, Sandbox};
use crate::files;
use crate::threads;
use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::FileType;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};
use std::collections::BTreeMap;
use std::fs::DirEntry;
use std::io;
use std::path::{Path, PathBuf};

/// The newest ABI whose rights to files are handled; older kernels handle fewer.
const FILES_ABI: ABI = ABI::V5;
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
    /// There is a network of its own.
    pub loopback: bool,
    /// Folders with so many entries that some of those cannot be read, although they are no secrets.
    pub cut: Vec<PathBuf>,
}

impl Confinement {
    pub(super) fn level(&self) -> Level {
        match self.landlock {
            _ if !self.seccomp => Level::None,
            Some(abi) if abi >= ABI::V6 => Level::Full,
            Some(_) => Level::Files,
            None => Level::Net,
        }
    }

    /// Keeps the programs that the calling thread starts from sending signals to the runner, where that is possible.
    pub(super) fn confine_call(&self) -> io::Result<()> {
        if self.level() < Level::Full {
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

/// How much of a sandbox this machine can enforce: tried on a thread of its own, as far as that goes for a thread.
pub(crate) fn reachable(sandbox: &Sandbox) -> Level {
    if sandbox.is_off() {
        return Level::None;
    }
    let (tell, told) = crossbeam_channel::bounded(1);
    let sandbox = sandbox.clone();
    let probe = threads::spawn("probe", threads::SMALL_STACK, move || {
        let layer = Ruleset::default().handle_access(AccessFs::MakeSock).and_then(Ruleset::create);
        let status = layer.and_then(RulesetCreated::restrict_self).ok();
        let landlock = status.and_then(|status| abi(&status));
        let seccomp = filter_calls(&sandbox, landlock.is_some(), false);
        let _ = tell.send(Confinement { landlock, seccomp, loopback: false, cut: Vec::new() }.level());
    });
    // Dropping the thread waits for it.
    drop(probe);
    told.try_recv().unwrap_or(Level::None)
}

/// Landlock's ABI, if it restricts anything.
fn abi(status: &RestrictionStatus) -> Option<ABI> {
    match status.landlock {
        LandlockStatus::Available { effective_abi, .. } if status.ruleset != RulesetStatus::NotEnforced => {
            Some(effective_abi)
        }
        LandlockStatus::Available { .. } | LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => None,
    }
}

/// Confines this process, which must have one thread only.
///
/// # Errors
/// What could not be done though it is not a matter of the kernel's age.
pub(super) fn confine(sandbox: &Sandbox, cwd: &Path, private: &Path) -> io::Result<Confinement> {
    limit(sandbox)?;
    // Where there is none, the calls for sockets are refused instead.
    let loopback = !sandbox.network && network::own().is_ok();
    drop_capabilities()?;
    rustix::thread::set_no_new_privs(true)?;
    let (landlock, cut) = restrict_files(sandbox, cwd, private).map_err(io::Error::other)?;
    let seccomp = filter_calls(sandbox, landlock.is_some(), loopback);
    Ok(Confinement { landlock, seccomp, loopback, cut })
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

/// Takes all that root has beside being a user with its own files.
fn drop_capabilities() -> io::Result<()> {
    for capability in CapabilitySet::all().iter() {
        // It cannot be done without privileges, which are then not there to be taken.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let none = CapabilitySet::empty();
    let _ = rustix::thread::clear_ambient_capability_set();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

/// Restricts files as far as the kernel can; `None` = not at all. Beside that the folders of which not all can be allowed.
fn restrict_files(sandbox: &Sandbox, cwd: &Path, private: &Path) -> Result<(Option<ABI>, Vec<PathBuf>), RulesetError> {
    let all = AccessFs::from_all(FILES_ABI);
    let read = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute;
    let ruleset = Ruleset::default().handle_access(all)?.scope(Scope::AbstractUnixSocket | Scope::Signal)?.create()?;
    let mut rules = Rules { ruleset, secrets: sandbox.secrets(), left: MAX_ENTRIES, cut: Vec::new() };
    // Names are no secrets, and programs list the folders above those that they use.
    rules.add(Path::new("/"), AccessFs::ReadDir.into())?;
    rules.add_but_secrets(Path::new("/"), read, MAX_DEPTH)?;
    for device in DEVICES {
        rules.add(Path::new(device), all)?;
    }
    rules.add(private, all)?;
    if sandbox.profile == Profile::Workspace {
        rules.add(cwd, all)?;
        for path in &sandbox.writable {
            rules.add(path, all)?;
        }
    } else {
        rules.add(cwd, read)?;
    }
    Ok((abi(&rules.ruleset.restrict_self()?), rules.cut))
}

struct Rules {
    ruleset: RulesetCreated,
    secrets: Vec<PathBuf>,
    /// How many more entries may be allowed.
    left: usize,
    cut: Vec<PathBuf>,
}

impl Rules {
    /// Allows `access` to a path and what is below it. What is not there needs no leave.
    fn add(&mut self, path: &Path, access: BitFlags<AccessFs>) -> Result<(), RulesetError> {
        let Ok(file) = PathFd::new(path) else { return Ok(()) };
        let Ok(status) = rustix::fs::fstat(&file) else { return Ok(()) };
        let is_folder = FileType::from_raw_mode(status.st_mode).is_dir();
        let access = if is_folder { access } else { access & AccessFs::from_file(FILES_ABI) };
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
fn filter_calls(sandbox: &Sandbox, landlock: bool, own_network: bool) -> bool {
    let Ok(architecture) = std::env::consts::ARCH.try_into() else { return false };
    let Some(rules) = rules(sandbox, landlock, own_network) else { return false };
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture);
    let Ok(program) = filter.and_then(TryInto::<BpfProgram>::try_into) else { return false };
    let Some(not_there) = not_there() else { return false };
    seccompiler::apply_filter(&program).is_ok() && seccompiler::apply_filter(&not_there).is_ok()
}

/// A filter that answers as if there were neither `clone3`, so that the C library takes the older call, whose arguments can be
/// looked at, nor any call of the x32 kind. It is written by hand since [`SeccompFilter`] knows single calls only: with each
/// of those that are refused in two kinds the kernel took twice as long to take the filter (0.2 ms).
fn not_there() -> Option<BpfProgram> {
    /// Set in the number of a call of the x32 kind; other architectures have no such numbers.
    const X32: u32 = 0x4000_0000;
    let step = |code: u32, jt, jf, k| Some(sock_filter { code: code.try_into().ok()?, jt, jf, k });
    let answer = |action| step(libc::BPF_RET | libc::BPF_K, 0, 0, action);
    let compare = libc::BPF_JMP | libc::BPF_K;
    Some(vec![
        // The number stands first in what the kernel shows of a call.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)?,
        step(compare | libc::BPF_JGE, 1, 0, X32)?,
        step(compare | libc::BPF_JEQ, 0, 1, libc::SYS_clone3.try_into().ok()?)?,
        answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned())?,
        answer(libc::SECCOMP_RET_ALLOW)?,
    ])
}

/// The calls that are refused; those without conditions always.
fn rules(sandbox: &Sandbox, landlock: bool, own_network: bool) -> Option<BTreeMap<i64, Vec<SeccompRule>>> {
    let is = |argument, value: i32| {
        let value = u64::from(value.cast_unsigned());
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).ok()?;
        SeccompRule::new(vec![condition]).ok()
    };
    let is_not = |argument, value: i32| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(value.cast_unsigned()))
            .ok()
    };
    let has_flag = |argument, flag: i32| {
        let flag = u64::from(flag.cast_unsigned());
        let compare = SeccompCmpOp::MaskedEq(flag);
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, flag).ok()?;
        SeccompRule::new(vec![condition]).ok()
    };
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = ALWAYS.iter().map(|call| (*call, Vec::new())).collect();
    if !landlock {
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
