//! The bare axum handlers that nodes are measured against: the least that a server in this
//! language, with this library, does for the same bytes.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing;
use bytes::Bytes;
use henge::env::tokio_env;
use henge::storage::{Batch, Committer, CommitterOptions, Engine};

use crate::VALUE;

/// Answers every GET with the same bytes.
pub async fn get() -> SocketAddr {
    async fn answer(State(value): State<Bytes>, Path((_, _)): Path<(String, String)>) -> Bytes {
        value
    }
    let value = Bytes::from(vec![b'x'; VALUE]);
    let router = Router::new().route("/v1/kv/{bucket}/{key}", routing::get(answer));
    serve(router.with_state(value)).await
}

/// Puts every value under its key and answers once that is on stable storage, by the group commit
/// that nodes use.
pub async fn put(engine: Arc<dyn Engine>) -> SocketAddr {
    async fn answer(
        State(committer): State<Committer>,
        Path((_, key)): Path<(String, String)>,
        body: Bytes,
    ) -> StatusCode {
        let mut batch = Batch::new();
        batch.put(key, body);
        let Ok(ticket) = committer.submit(batch) else { return StatusCode::SERVICE_UNAVAILABLE };
        match ticket.await {
            Ok(()) => StatusCode::CREATED,
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
    let committer = Committer::start(tokio_env(), engine, CommitterOptions::default());
    let router = Router::new().route("/v1/kv/{bucket}/{key}", routing::put(answer));
    serve(router.with_state(committer)).await
}

async fn serve(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        use axum::serve::ListenerExt as _;
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        axum::serve(listener, router).await
    });
    address
}
