//! The few system calls that no safe crate of this project offers.
#![allow(unsafe_code, reason = "namespaces, TUN devices and poll, each one call")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

/// `_IOW('T', 202, int)`
const TUNSETIFF: libc::c_ulong = 0x4004_54CA;

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// True for root.
pub fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Gives the calling thread, and all threads that it makes later, a network of its own, with
/// nothing in it.
pub fn enter_own_network() -> io::Result<()> {
    // SAFETY: no memory is involved.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// Gives the process mounts of its own, which end with it. To be called while it has one thread.
pub fn enter_own_mounts() -> io::Result<()> {
    let root = CString::new("/")?;
    // SAFETY: no memory is involved in the first; the second reads one string that outlives it.
    unsafe {
        checked(libc::unshare(libc::CLONE_NEWNS))?;
        let flags = libc::MS_REC | libc::MS_PRIVATE;
        let none = std::ptr::null();
        checked(libc::mount(none, root.as_ptr(), none, flags, none.cast())).map(drop)
    }
}

/// Makes the TUN device `name` in the calling thread's network. Packets are read from and written
/// to the file, one by one and without a header; it never blocks.
pub fn open_tun(name: &str) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open; the request is read and written within its bounds.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &mut request) })?;
    Ok(file)
}

/// Waits until one of `files` can be read, for at most `timeout`.
pub fn wait_readable(files: &[File], timeout: Duration) -> io::Result<()> {
    let mut polled: Vec<libc::pollfd> = files
        .iter()
        .map(|file| libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    let limit = libc::timespec {
        tv_sec: timeout.as_secs().cast_signed(),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    let count = polled.len() as libc::nfds_t;
    // SAFETY: the array and the limit live through the call.
    checked(unsafe { libc::ppoll(polled.as_mut_ptr(), count, &limit, std::ptr::null()) }).map(drop)
}

/// Sends a signal to a process of ours.
pub fn signal(pid: u32, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: no memory is involved.
    checked(unsafe { libc::kill(pid.cast_signed(), signal) }).map(drop)
}
