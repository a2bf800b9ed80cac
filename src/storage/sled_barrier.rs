//! A true disk barrier for sled, by taking the place of the one system call it relies on.
//!
//! sled 0.34 calls `sync_file_range` after each log write and then takes the write for stable. It
//! is not: the call commits no file metadata and flushes no disk cache ("none of these operations
//! write out the file's metadata … there are no guarantees that the data will be available after
//! a crash", `sync_file_range(2)`). Two things go wrong:
//!
//! 1. What `flush` covered is lost with the power. An `fdatasync` after `flush` would repair that.
//! 2. sled takes an old segment into use again once the pages that replaced its content are
//!    "stable". If they lie in a part of the file that is not durable yet, the cut loses both
//!    copies, **synced long ago or not**, and the store does not even open ("tried to serialize
//!    Uninitialized"). It takes some 16 MiB of log between two syncs: one large batch, or
//!    periodic syncs. `sled_keeps_what_was_synced_while_much_is_unsynced` shows it at once. No
//!    call from outside can be early enough.
//!
//! So this file defines `sync_file_range` itself, as `fdatasync`. The linker binds sled's call to
//! it, as it would bind any symbol that the program defines before it looks into the C library;
//! [`in_place`] checks that it did. Nothing else in the process makes this call, and one that did
//! would only get a stronger promise than it asked for.

#![allow(unsafe_code, reason = "defines a symbol of the C library and makes system calls")]

#[cfg(target_os = "linux")]
mod linux {
    use crate::plants::{Plant, planted};

    /// What sled gets for `sync_file_range(2)`: a barrier over the whole file.
    #[unsafe(no_mangle)]
    extern "C" fn sync_file_range(
        fd: libc::c_int,
        offset: libc::off64_t,
        len: libc::off64_t,
        flags: libc::c_uint,
    ) -> libc::c_int {
        if planted(Plant::SledSync) {
            // SAFETY: passes the caller's own arguments on; the call touches no memory.
            let done = unsafe { libc::syscall(libc::SYS_sync_file_range, fd, offset, len, flags) };
            return if done == 0 { 0 } else { -1 };
        }
        // SAFETY: touches no memory; a bad descriptor is an error.
        unsafe { libc::fdatasync(fd) }
    }

    /// True if the program's `sync_file_range` is the one above.
    pub(in crate::storage) fn in_place() -> bool {
        let bound: unsafe extern "C" fn(_, _, _, _) -> _ = libc::sync_file_range;
        let ours: extern "C" fn(_, _, _, _) -> _ = sync_file_range;
        std::ptr::eq(bound as *const (), ours as *const ())
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::in_place;

/// True: elsewhere sled syncs the whole file by itself.
#[cfg(not(target_os = "linux"))]
pub(super) fn in_place() -> bool {
    true
}
