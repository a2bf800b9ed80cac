//! Keeps an engine's panics inside: a damaged disk must give an error, not end the process.
//!
//! sled 0.34 meets damage with `panic!`, `unwrap` and `assert!`, while opening above all. Calls
//! into an engine run under [`contain`], which turns a panic into its message. A panic hook that
//! stops the process asks [`panic_is_contained`] first.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// True while this thread is inside an engine call whose panic will be turned into a
/// [`StorageError`](crate::storage::StorageError). For the panic hook of a binary.
#[must_use]
pub fn panic_is_contained() -> bool {
    DEPTH.with(|depth| depth.get() > 0)
}

/// Runs `work`; a panic becomes `Err` with the panic's message.
///
/// The engine behind `work` must not be written to after a panic, as its state may be half
/// changed: the caller poisons it.
pub(super) fn contain<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    DEPTH.with(|depth| depth.set(depth.get() + 1));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    DEPTH.with(|depth| depth.set(depth.get() - 1));
    outcome.map_err(|payload| message(&*payload))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("the engine panicked: {}", text.unwrap_or("without a message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message_and_the_flag_is_lowered_again() {
        let outcome: Result<(), String> = contain(|| {
            assert!(panic_is_contained());
            panic!("tried to serialize {}", "Uninitialized")
        });
        assert!(outcome.unwrap_err().contains("tried to serialize Uninitialized"));
        assert!(!panic_is_contained());
    }
}
