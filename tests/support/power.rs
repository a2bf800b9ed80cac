//! Real loss of power for tests: a file system whose unsynced state can be made to vanish.
//!
//! An ext4 on a loop device over a sparse file. [`PowerDisk::cut`] forces it down with
//! `FS_IOC_SHUTDOWN` and the "no log flush" flag: what was not synced never reaches the image,
//! neither data nor file sizes nor names. After the processes on it are gone,
//! [`PowerDisk::restore`] unmounts it and mounts it again, which replays the journal as a boot
//! would. It models a disk without a volatile cache of its own; real disks can be worse.
//!
//! Needs root, loop devices and mkfs.ext4. [`PowerDisk::new`] says loudly when they are absent.

#![allow(dead_code, reason = "shared by several test binaries, each of which uses a part")]
#![allow(unsafe_code, reason = "one ioctl that no safe crate offers")]
#![allow(clippy::disallowed_methods, reason = "waits for the kernel to let go of a mount")]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// `_IOR('X', 125, __u32)`
const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587D;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`
const NO_LOG_FLUSH: u32 = 2;

/// A mounted file system that can lose its power.
#[derive(Debug)]
pub struct PowerDisk {
    /// Holds the image.
    dir: tempfile::TempDir,
    mount_point: PathBuf,
    cut: bool,
}

impl PowerDisk {
    /// Makes and mounts one of `mib` MiB. `None`, with a line on stderr, where that is impossible.
    ///
    /// # Panics
    /// When it should be possible and fails.
    pub fn new(mib: u64) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mount_point = dir.path().join("disk");
        Self::make(dir, mount_point, mib)
    }

    /// As [`PowerDisk::new`], mounted at `mount_point`, which is created.
    ///
    /// # Panics
    /// When it should be possible and fails.
    pub fn at(mount_point: &Path, mib: u64) -> Option<Self> {
        Self::make(tempfile::tempdir().expect("a directory"), mount_point.to_owned(), mib)
    }

    fn make(dir: tempfile::TempDir, mount_point: PathBuf, mib: u64) -> Option<Self> {
        if let Some(missing) = missing_need() {
            eprintln!("SKIPPED: needs root and loop devices ({missing})");
            return None;
        }
        let disk = Self { dir, mount_point, cut: false };
        fs::create_dir_all(disk.path()).expect("a mount point");
        let image = File::create(disk.image()).expect("an image file");
        image.set_len(mib << 20).expect("a sparse image");
        run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0", text(&disk.image())]);
        disk.mount();
        Some(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.mount_point.clone()
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn mount(&self) {
        run("mount", &["-o", "loop", text(&self.image()), text(&self.path())]);
    }

    fn canary(&self) -> PathBuf {
        self.path().join("canary")
    }

    /// Cuts the power: every later write and sync on it fails.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn cut(&mut self) {
        Self::cut_all([self]);
    }

    /// Cuts the power of several at one instant.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn cut_all<'a>(disks: impl IntoIterator<Item = &'a mut Self>) {
        let mut roots = Vec::new();
        for disk in disks {
            // Shows in `restore` that unsynced data is really lost.
            fs::write(disk.canary(), b"never synced").expect("a canary");
            roots.push(File::open(disk.path()).expect("the mounted directory"));
            disk.cut = true;
        }
        let together = std::sync::Barrier::new(roots.len());
        std::thread::scope(|scope| {
            for root in &roots {
                scope.spawn(|| {
                    together.wait();
                    // SAFETY: the descriptor is open; the request reads the u32 it points to.
                    let done =
                        unsafe { libc::ioctl(root.as_raw_fd(), FS_IOC_SHUTDOWN, &NO_LOG_FLUSH) };
                    assert_eq!(done, 0, "FS_IOC_SHUTDOWN: {}", io::Error::last_os_error());
                });
            }
        });
    }

    /// Brings it back as after a power failure. No process may use it any more.
    ///
    /// # Panics
    /// When it was not cut, when it cannot be remounted, or when unsynced data survived: the test
    /// would then prove nothing.
    pub fn restore(&mut self) {
        assert!(self.cut, "restore follows cut");
        self.unmount();
        self.mount();
        self.cut = false;
        let canary = fs::read(self.canary()).unwrap_or_default();
        assert!(canary.is_empty(), "the canary was not synced, yet it survived");
        let _ = fs::remove_file(self.canary());
    }

    /// Makes it read-only, or writable again.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn set_read_only(&self, read_only: bool) {
        let options = if read_only { "remount,ro" } else { "remount,rw" };
        run("mount", &["-o", options, text(&self.path())]);
    }

    /// Leaves at most `mib` MiB free, until the returned file is removed.
    ///
    /// # Panics
    /// When that fails.
    pub fn fill(&self, mib: u64) -> PathBuf {
        let ballast = self.path().join("ballast");
        let found = rustix::fs::statvfs(self.path()).expect("the file system's numbers");
        let free = found.f_bavail * found.f_frsize;
        let size = free.saturating_sub(mib << 20).to_string();
        run("fallocate", &["-l", &size, text(&ballast)]);
        ballast
    }

    fn unmount(&self) {
        for _ in 0..500 {
            let path = self.path();
            let status = Command::new("umount").arg(&path).stderr(Stdio::null()).status();
            if status.is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{} cannot be unmounted: is a process still using it?", self.path().display());
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        // Lazily, so that a failing test that still uses it leaves nothing behind.
        let path = self.path();
        let _ = Command::new("umount").arg("-l").arg(&path).stderr(Stdio::null()).status();
    }
}

fn missing_need() -> Option<&'static str> {
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Some("not root");
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("no /dev/loop-control");
    }
    let mkfs = Command::new("mkfs.ext4").arg("-V").stderr(Stdio::null()).status();
    if !mkfs.is_ok_and(|status| status.success()) {
        return Some("no mkfs.ext4");
    }
    None
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
}

/// Stops processes where they are, before the power of their disks is cut. Left to run on a file
/// system that is being forced down, a process can see its last `fdatasync` succeed in vain: ext4
/// aborts its journal while the call is on its way out. That is no engine's doing: a bare loop of
/// `pwrite` and `fdatasync` lost its last write in 20 of 120 cuts on Linux 6.18, and in none of 160
/// when it was stopped first.
///
/// # Panics
/// When a process is gone, or cannot be signalled.
pub fn freeze(pids: &[u32]) {
    for pid in pids {
        let sent = Command::new("kill").args(["-STOP", &pid.to_string()]).status();
        assert!(sent.expect("kill runs").success(), "process {pid} can be stopped");
    }
    for &pid in pids {
        while !is_frozen(pid) {
            std::thread::yield_now();
        }
    }
}

/// True if no thread of process `pid` can run on: stopped, or in the middle of a system call after
/// which it will be.
fn is_frozen(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process exists");
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        matches!(state, Some('T' | 't' | 'D' | 'Z') | None)
    })
}
