//! Every bound of the HTTP door, in one place.

use std::time::Duration;

use crate::config::Limits;

/// Bounds of the HTTP door. Each has a default that suits a node with a gigabyte of memory; all
/// are per node and need not agree across the cluster. Those that `[limits]` of the configuration
/// names come from there ([`HttpLimits::from`]), the others are fixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Longest value, in bytes (default 8 MiB). A longer one: `413`.
    pub max_value_bytes: usize,
    /// Longest key, in bytes after percent-decoding (default 1,024). A longer one: `400`.
    pub max_key_bytes: usize,
    /// Longest request target (path and query), in bytes (default 8 KiB). A longer one: `414`.
    pub max_uri_bytes: usize,
    /// All header names and values of a request together, in bytes (default 64 KiB; a context
    /// alone may have 16 KiB). More: `431`.
    pub max_header_bytes: usize,
    /// Header fields of a request (default 128). More: `431`.
    pub max_headers: usize,
    /// All `Henge-Meta-*` names and values of a value together, in bytes (default 8 KiB).
    pub max_meta_bytes: usize,
    /// Bytes of request and answer bodies that the door holds at once, over all requests (default
    /// 256 MiB). Beyond it: `503` at once.
    pub max_body_bytes_in_flight: usize,
    /// Requests at once, over all connections (default 4,096). Beyond it: `503` at once.
    pub max_requests: usize,
    /// Connections at once (default 10,000). Beyond it: `503` and the connection is closed.
    pub max_connections: usize,
    /// HTTP/2 streams at once on one connection (default 256).
    pub max_streams_per_connection: u32,
    /// Items of one batch request (default 100,000).
    pub max_batch_items: usize,
    /// Items of one batch request that run at once (default 32).
    pub batch_concurrency: usize,
    /// Most keys on one page of a listing (default 1,000).
    pub max_page_keys: u32,
    /// Time for a request's headers to arrive, in milliseconds, from the first byte or from the
    /// opening of the connection (default 10 s). After it the connection is closed.
    pub header_timeout_ms: u64,
    /// Longest pause within a request's body, in milliseconds (default 10 s). After it: `408`.
    pub body_pause_ms: u64,
    /// Time for the whole of a single value's body, in milliseconds (default 60 s). After it:
    /// `408`. A batch is bounded by its pauses only.
    pub body_timeout_ms: u64,
    /// Time a connection may rest between requests, in milliseconds (default 75 s).
    pub idle_timeout_ms: u64,
    /// Time that a client may let an answer lie without taking a byte, in milliseconds (default
    /// 30 s). After it the connection is closed.
    pub stall_timeout_ms: u64,
    /// An operation's time limit without `timeout=`, in milliseconds (default 5 s).
    pub default_timeout_ms: u64,
    /// Longest `timeout=`, in milliseconds (default 60 s).
    pub max_timeout_ms: u64,
    /// Time that open requests get to finish when the node stops, in milliseconds (default 10 s).
    pub drain_timeout_ms: u64,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_value_bytes: 8 << 20,
            max_key_bytes: 1024,
            max_uri_bytes: 8 << 10,
            max_header_bytes: 64 << 10,
            max_headers: 128,
            max_meta_bytes: 8 << 10,
            max_body_bytes_in_flight: 256 << 20,
            max_requests: 4096,
            max_connections: 10_000,
            max_streams_per_connection: 256,
            max_batch_items: 100_000,
            batch_concurrency: 32,
            max_page_keys: 1000,
            header_timeout_ms: 10_000,
            body_pause_ms: 10_000,
            body_timeout_ms: 60_000,
            idle_timeout_ms: 75_000,
            stall_timeout_ms: 30_000,
            default_timeout_ms: 5_000,
            max_timeout_ms: 60_000,
            drain_timeout_ms: 10_000,
        }
    }
}

impl From<&Limits> for HttpLimits {
    fn from(limits: &Limits) -> Self {
        let default = Self::default();
        let mib = usize::try_from(limits.max_body_memory_mb).unwrap_or(usize::MAX);
        Self {
            max_key_bytes: limits.max_key_bytes,
            max_value_bytes: limits.max_value_bytes,
            // A key may be percent-encoded throughout, and still needs room for the rest.
            max_uri_bytes: default.max_uri_bytes.max(3 * limits.max_key_bytes + 4096),
            max_body_bytes_in_flight: mib.saturating_mul(1 << 20),
            max_requests: limits.max_inflight_requests,
            max_connections: limits.max_connections,
            default_timeout_ms: limits.request_timeout_ms,
            max_timeout_ms: default.max_timeout_ms.max(limits.request_timeout_ms),
            ..default
        }
    }
}

impl HttpLimits {
    /// What is wrong with these bounds, all of it.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let positive = [
            ("max_value_bytes", self.max_value_bytes as u64),
            ("max_key_bytes", self.max_key_bytes as u64),
            ("max_uri_bytes", self.max_uri_bytes as u64),
            ("max_header_bytes", self.max_header_bytes as u64),
            ("max_headers", self.max_headers as u64),
            ("max_requests", self.max_requests as u64),
            ("max_connections", self.max_connections as u64),
            ("max_streams_per_connection", u64::from(self.max_streams_per_connection)),
            ("max_batch_items", self.max_batch_items as u64),
            ("batch_concurrency", self.batch_concurrency as u64),
            ("max_page_keys", u64::from(self.max_page_keys)),
            ("header_timeout_ms", self.header_timeout_ms),
            ("body_pause_ms", self.body_pause_ms),
            ("body_timeout_ms", self.body_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("stall_timeout_ms", self.stall_timeout_ms),
            ("default_timeout_ms", self.default_timeout_ms),
            ("max_timeout_ms", self.max_timeout_ms),
        ];
        let mut found: Vec<String> = positive
            .iter()
            .filter(|(_, value)| *value == 0)
            .map(|(name, _)| format!("{name} must be at least 1"))
            .collect();
        if self.max_key_bytes > crate::types::MAX_KEY_BYTES {
            found.push(format!("max_key_bytes may be at most {}", crate::types::MAX_KEY_BYTES));
        }
        if self.max_body_bytes_in_flight < self.max_value_bytes {
            found.push(format!(
                "max_body_bytes_in_flight ({}) must hold at least one value of max_value_bytes ({})",
                self.max_body_bytes_in_flight, self.max_value_bytes
            ));
        }
        if self.default_timeout_ms > self.max_timeout_ms {
            found.push("default_timeout_ms may not exceed max_timeout_ms".to_owned());
        }
        found
    }

    pub(super) fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }

    pub(super) fn body_pause(&self) -> Duration {
        Duration::from_millis(self.body_pause_ms)
    }

    pub(super) fn body_timeout(&self) -> Duration {
        Duration::from_millis(self.body_timeout_ms)
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    pub(super) fn stall_timeout(&self) -> Duration {
        Duration::from_millis(self.stall_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_limits_are_sound_and_a_bad_one_is_named() {
        assert!(HttpLimits::default().problems().is_empty());
        let bad = HttpLimits { max_requests: 0, max_key_bytes: 1 << 20, ..HttpLimits::default() };
        assert_eq!(bad.problems().len(), 2);
    }
}
