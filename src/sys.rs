//! The only `unsafe` code of the crate: calls into the C library that no safe wrapper offers.
#![allow(unsafe_code)]

/// Keeps glibc from giving every thread a heap of its own, which with a thread per session is memory that never comes
/// back. Other C libraries need nothing.
pub(crate) fn tune_allocator() {
    #[cfg(target_env = "gnu")]
    {
        use std::ffi::c_int;
        // Numbers of glibc's malloc.h.
        const M_ARENA_MAX: c_int = -8;
        const M_TRIM_THRESHOLD: c_int = -1;
        unsafe extern "C" {
            fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }
        // SAFETY: mallopt takes two numbers, has no other precondition, and runs before threads are started.
        unsafe {
            mallopt(M_ARENA_MAX, 2);
            mallopt(M_TRIM_THRESHOLD, 256 * 1024);
        }
    }
}

/// The name of the user that this process belongs to, from `/etc/passwd`: the C library's own way needs shared libraries,
/// which a static binary has not. `None` for a user that is not in it.
pub(crate) fn user_name() -> Option<String> {
    /// Most bytes of the list of users; 100,000 users take less.
    const MAX_USERS: u64 = 16 << 20;
    let uid = rustix::process::geteuid().as_raw().to_string();
    let users = crate::files::read_text(std::path::Path::new("/etc/passwd"), MAX_USERS).ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)? == uid).then(|| name.to_string())
    })
}

/// Keeps a program that is about to be started away from the terminal that this process was started from, so that what
/// asks on `/dev/tty` fails at once (ENXIO) instead of waiting for somebody. The program stays in this process's session, by
/// which its end is told from that of an orphan. Costs nothing without a terminal, as services have none; with one, the
/// program is started by `fork` instead of `posix_spawn`.
pub(crate) fn without_terminal(command: &mut std::process::Command) {
    use std::ffi::{c_char, c_int, c_ulong};
    use std::os::unix::process::CommandExt;
    /// TIOCNOTTY of asm-generic/ioctls.h, which all architectures use that this program is made for.
    const GIVE_UP_TERMINAL: c_ulong = 0x5422;
    const TERMINAL: &std::ffi::CStr = c"/dev/tty";
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    unsafe extern "C" {
        fn open(path: *const c_char, flags: c_int, ...) -> c_int;
        fn ioctl(file: c_int, request: c_ulong, ...) -> c_int;
    }
    if rustix::fs::open(TERMINAL, flags, rustix::fs::Mode::empty()).is_err() {
        return;
    }
    let flags = flags.bits().cast_signed();
    // SAFETY: the closure makes two system calls, which are allowed between fork and exec, and touches no memory but a
    // constant. What it opens is closed by the exec.
    unsafe {
        command.pre_exec(move || {
            let terminal = open(TERMINAL.as_ptr(), flags);
            // Only the leader of a session would take the terminal from others as well, and a new process leads none.
            if terminal >= 0 && ioctl(terminal, GIVE_UP_TERMINAL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// Takes the calling thread, which must be the only one, into namespaces of its own; of a new namespace of processes it is not
/// part itself, but what it starts.
pub(crate) fn new_namespaces(namespaces: rustix::thread::UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: only namespaces become this thread's own, no table of files.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Divides this process, which must have one thread only, into two; `None` in the new one, its number in the old one.
///
/// # Errors
/// What the system says.
pub(crate) fn fork() -> std::io::Result<Option<rustix::process::Pid>> {
    unsafe extern "C" {
        fn fork() -> std::ffi::c_int;
    }
    // SAFETY: with one thread nothing is held by another one that the copy lacks.
    match unsafe { fork() } {
        0 => Ok(None),
        pid => rustix::process::Pid::from_raw(pid.max(0)).map(Some).ok_or_else(std::io::Error::last_os_error),
    }
}

/// Has the programs that this process starts get no files that it was itself started with, such as those that a script had
/// open. Kernels before Linux 5.11, which have no Landlock either, cannot do it.
pub(crate) fn keep_files_from_children() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: the call takes numbers, and only marks what is open.
    unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

/// Gives memory that is free, but lies between pieces in use, back to the system. Takes about a millisecond for every
/// 10 MB, in which other threads may have to wait for memory.
pub(crate) fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: malloc_trim takes a number, has no precondition, and locks what it works on.
        unsafe {
            malloc_trim(0);
        }
    }
}

/// Gives what deeper calls than this one have left on the calling thread's stack back to the system. For a thread that is
/// about to wait for long: a session's actor keeps 12 KiB less (measured). Takes about 2 µs.
#[inline(never)]
pub(crate) fn release_unused_stack() {
    use std::ffi::{c_int, c_ulong, c_void};
    const MADV_DONTNEED: c_int = 4;
    /// Bytes below a local variable that this frame and that of `madvise` may reach; both are far smaller.
    const FRAMES: usize = 1024;
    /// Not smaller than the C libraries' own type (64 bytes with glibc on ARM).
    #[repr(C, align(16))]
    struct Attributes([u8; 128]);
    unsafe extern "C" {
        fn pthread_self() -> c_ulong;
        fn pthread_getattr_np(thread: c_ulong, attributes: *mut Attributes) -> c_int;
        fn pthread_attr_getstack(attributes: *const Attributes, low: *mut *mut c_void, size: *mut usize) -> c_int;
        fn pthread_attr_destroy(attributes: *mut Attributes) -> c_int;
        fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    }
    let mut attributes = Attributes([0; 128]);
    let (mut low, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the thread is this one, and everything that is written to is ours and large enough.
    let known = unsafe {
        pthread_getattr_np(pthread_self(), &raw mut attributes) == 0 && {
            let known = pthread_attr_getstack(&raw const attributes, &raw mut low, &raw mut size) == 0;
            pthread_attr_destroy(&raw mut attributes);
            known
        }
    };
    // The system rounds up to whole pages, so they have to be its own.
    let page = rustix::param::page_size();
    let end = (&raw const size).addr().saturating_sub(FRAMES) / page * page;
    let unused = end.saturating_sub(low.addr());
    if known && unused < size {
        // SAFETY: stacks grow downwards, so that nothing between the stack's end and this frame, with room to spare, is in
        // use; what comes to lie there later begins as zeroes, on which no code depends.
        unsafe {
            madvise(low, unused, MADV_DONTNEED);
        }
    }
}

/// A static glibc would load the host's name-service plugins, made for another glibc, and crash on the first look-up
/// (SIGFPE, measured on Fedora, Arch and Ubuntu). With this it uses only what it has inside: files and DNS.
pub(crate) fn forbid_foreign_name_services() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    {
        use std::ffi::{c_char, c_int};
        unsafe extern "C" {
            fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
        }
        for (database, services) in [(c"hosts", c"files dns"), (c"passwd", c"files"), (c"group", c"files")] {
            // SAFETY: both are strings that live for ever and end in NUL; no other thread looks anything up yet.
            unsafe {
                __nss_configure_lookup(database.as_ptr(), services.as_ptr());
            }
        }
    }
}

/// With this function the standard library starts a program in a folder without copying our page tables first (by
/// `posix_spawn` instead of `fork`), which halves the cost of a command. It only looks whether the function is there, and a
/// static link leaves out what nobody asks for; this asks for it.
#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
mod posix_spawn {
    use std::ffi::{c_char, c_int, c_void};

    unsafe extern "C" {
        fn posix_spawn_file_actions_addchdir_np(actions: *mut c_void, path: *const c_char) -> c_int;
    }

    #[used]
    static ASKED_FOR: unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int = posix_spawn_file_actions_addchdir_np;
}
