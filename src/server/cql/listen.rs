//! The port: connections and how many there may be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};

use crate::env::Env;
use crate::server::budget::Budget;
use crate::server::cql::CqlService;
use crate::server::cql::connection::Connection;
use crate::server::cql::events::{self, MAX_BEHIND};
use crate::types::Epoch;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 4_096;

/// A bound port.
#[derive(Debug)]
pub struct CqlListener {
    listener: TcpListener,
}

impl CqlListener {
    /// Binds the port.
    ///
    /// # Errors
    /// The system's.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is true. `epochs` tells when the metadata has changed; `memory` is for
    /// the bytes of requests and answers, over all connections.
    pub async fn serve(
        self,
        service: Arc<CqlService>,
        env: Env,
        memory: Arc<Budget>,
        epochs: watch::Receiver<Epoch>,
        stop: watch::Receiver<bool>,
    ) {
        let (events, _) = broadcast::channel(MAX_BEHIND);
        let watching =
            events::watch(service.clone(), env.clone(), events.clone(), epochs, stop.clone());
        env.spawn("cql-events", watching);
        let open = Arc::new(AtomicUsize::new(0));
        let mut stopping = stop.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                env.sleep(std::time::Duration::from_millis(50)).await;
                continue;
            };
            if open.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
                open.fetch_sub(1, Ordering::AcqRel);
                continue;
            }
            let connection = Connection {
                service: service.clone(),
                env: env.clone(),
                events: events.clone(),
                memory: memory.clone(),
                stop: stop.clone(),
            };
            let open = open.clone();
            env.spawn("cql-connection", async move {
                connection.run(stream).await;
                open.fetch_sub(1, Ordering::AcqRel);
            });
        }
    }
}
