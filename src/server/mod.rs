//! Doors: where clients come in. A door decodes a request, asks a
//! [coordinator](crate::coordinator), encodes the answer and maps errors; it knows no replica, no
//! disk and no ring.

pub mod budget;
pub mod cql;
pub mod http;

/// On whose behalf a request runs. Every request carries one, from the first line of code that
/// handles it; roles and their checks come with authentication.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Principal {
    /// Nobody has asked who it is.
    #[default]
    Anonymous,
}

impl Principal {
    /// The principal of a request, as its listener has established it.
    #[must_use]
    pub fn of(parts: &axum::http::request::Parts) -> Self {
        parts.extensions.get().copied().unwrap_or_default()
    }
}
