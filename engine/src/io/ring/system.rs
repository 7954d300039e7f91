//! System calls without a safe binding in the standard library, each behind a safe function.

use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use glommio::io::BufferedFile;

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The monotonic clock in nanoseconds.
pub(in crate::io) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the call, and this clock exists on every Linux.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(result, 0, "Linux has a monotonic clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Memory comes in small pages from here on. What a core allocates is mostly small beside a huge page, is reused
/// from pools, and had each of its allocations cleared as 2 MiB: 5 of 8 CPU-seconds per GB produced were that.
pub(in crate::io) fn without_huge_pages() {
    // SAFETY: the call takes no memory. Where the kernel knows no huge pages it fails, and nothing is lost.
    let _ = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// Raises the bound on this process's open file descriptors as far as it may; gives the bound then in force, or `None`
/// if there is none. Shells and service managers set it to 1024 for the sake of programs that use `select`.
pub fn raise_descriptor_limit() -> Option<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the calls. Raising up to the hard limit is always allowed; if not, the old holds.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit)).ok()?;
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        if check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised)).is_ok() {
            limit = raised;
        }
    }
    (limit.rlim_cur != libc::RLIM_INFINITY).then(|| usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

/// Has this thread run after those of usual priority. Where it may not be lowered it runs as they do.
pub(in crate::io) fn lower_priority() {
    // SAFETY: the call takes no memory; on Linux 0 names the calling thread alone.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}

/// Random numbers from the kernel.
pub(in crate::io) fn random() -> [u64; 32] {
    let mut numbers = [0u64; 32];
    loop {
        // SAFETY: the array is valid for its size; requests of up to 256 bytes are filled whole.
        let filled = unsafe { libc::getrandom(numbers.as_mut_ptr().cast(), size_of_val(&numbers), 0) };
        if filled == size_of_val(&numbers) as isize {
            return numbers;
        }
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted, "the kernel gives random numbers: {error}");
    }
}

/// A new event counter. It blocks: a read of it in a ring waits instead of failing.
pub(in crate::io) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no memory, and its result is ours alone.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::eventfd(0, libc::EFD_CLOEXEC))?)) }
}

/// Adds one to an event counter, which wakes its reader.
pub(in crate::io) fn signal(event: BorrowedFd<'_>) {
    signal_raw(event.as_raw_fd());
}

/// Async-signal-safe.
fn signal_raw(event: i32) {
    let one = 1u64;
    // SAFETY: eight bytes are read from `one`. A write can fail only by overflow, when the reader is awake.
    let _ = unsafe { libc::write(event, (&raw const one).cast(), size_of::<u64>()) };
}

/// The event counter as a file of glommio's, with a descriptor of its own. Within an executor.
pub(in crate::io) fn executor_file(event: BorrowedFd<'_>) -> io::Result<BufferedFile> {
    use std::os::unix::io::FromRawFd as _;
    let copy = event.try_clone_to_owned()?;
    // SAFETY: the descriptor was just made, and the file is its only owner from here on.
    Ok(unsafe { BufferedFile::from_raw_fd(copy.into_raw_fd()) })
}

/// The set of this one processor.
pub(super) fn cpu_set(cpu: usize) -> libc::cpu_set_t {
    assert!(cpu < libc::CPU_SETSIZE as usize, "a processor's number fits the kernel's set");
    // SAFETY: a set of zeros is the empty set, and `cpu` is within its size.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        set
    }
}

/// A stream socket for `address`'s family.
pub(in crate::io) fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: the call takes no memory, and its result is ours alone.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?)) }
}

/// The path for the kernel.
///
/// # Errors
/// InvalidInput if it holds a zero byte.
pub(in crate::io) fn path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// (total, available to us) bytes of the filesystem that holds `path`.
pub(in crate::io) fn disk_space(at: &Path) -> io::Result<(u64, u64)> {
    let name = path(at)?;
    // SAFETY: the name ends with a zero byte, and the result is valid memory of the right type.
    let stat = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        check(libc::statvfs(name.as_ptr(), &raw mut stat))?;
        stat
    };
    Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

/// The event counter that signals ask to stop with; -1 before [`catch_termination`].
static TERMINATION: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_termination(_signal: libc::c_int) {
    signal_raw(TERMINATION.load(Ordering::Relaxed));
}

/// From here on SIGTERM and SIGINT do not end the process but signal the event counter that is returned; the
/// same one at each call. A second SIGINT ends the process.
pub(in crate::io) fn catch_termination() -> io::Result<BorrowedFd<'static>> {
    if TERMINATION.load(Ordering::Acquire) < 0 {
        let event = eventfd()?.into_raw_fd();
        if TERMINATION.compare_exchange(-1, event, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: another thread was first; this descriptor is ours alone.
            drop(unsafe { OwnedFd::from_raw_fd(event) });
        }
        handle(libc::SIGTERM, libc::SA_RESTART)?;
        handle(libc::SIGINT, libc::SA_RESTART | libc::SA_RESETHAND)?;
    }
    // SAFETY: the descriptor stays open as long as the process.
    Ok(unsafe { BorrowedFd::borrow_raw(TERMINATION.load(Ordering::Acquire)) })
}

fn handle(signal: libc::c_int, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the handler only writes to a descriptor; the action is valid for the call.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_termination as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = flags;
        check(libc::sigaction(signal, &raw const action, std::ptr::null_mut()))?;
    }
    Ok(())
}

/// Runs `start` with the signals that we catch blocked, so that the threads it makes inherit that: a handler
/// on a core's thread would only cost it an interrupted system call.
pub(in crate::io) fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: the sets are valid for the calls; an empty set is a valid starting point.
    let previous = unsafe {
        let mut blocked: libc::sigset_t = std::mem::zeroed();
        let mut previous: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut blocked);
        libc::sigaddset(&raw mut blocked, libc::SIGTERM);
        libc::sigaddset(&raw mut blocked, libc::SIGINT);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, &raw mut previous);
        previous
    };
    let result = start();
    // SAFETY: `previous` was filled above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const previous, std::ptr::null_mut()) };
    result
}
