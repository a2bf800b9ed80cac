//! What the cluster did for a statement.

use std::time::Duration;

use super::known;
use super::render::{Form, Renderer};
use super::table::Paint;
use crate::client::{CqlConnection, CqlFailure};
use crate::cql::value;

/// How often a trace is looked for, and the pause between.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// The trace called `id` as text.
///
/// # Errors
/// [`CqlFailure`]. A trace that does not come is no error.
#[allow(clippy::disallowed_methods, reason = "a command lives on the real clock")]
pub async fn shown(
    connection: &mut CqlConnection,
    id: &[u8],
    paint: Paint,
) -> Result<String, CqlFailure> {
    let id = value::uuid_text(id);
    let session = format!("SELECT duration FROM system_traces.sessions WHERE session_id = {id}");
    for _ in 0..TRIES {
        let page = known::page(connection, &session).await?;
        let duration = page.rows.first().and_then(|row| row.first()?.as_deref());
        if let Some(duration) = duration.and_then(value::integer) {
            let events = format!(
                "SELECT activity, source, source_elapsed FROM system_traces.events \
                 WHERE session_id = {id}"
            );
            let events = known::page(connection, &events).await?;
            let table = Renderer::default().page(&events, Form::Aligned, paint, false);
            return Ok(format!("\nTrace {id}: {duration} µs\n\n{table}\n"));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(format!("Trace {id} has not come yet: SELECT * FROM system_traces.events\n"))
}
