//! Clients that share one connection, as the threads of an application share their driver's.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Client, PATIENCE, open_rows};
use crate::cli::bench::rows::Pipe;
use crate::cli::bench::workload::Kind;

/// A request under way: what it is, and when it began.
type Asked = (Kind, Instant);

/// Has all clients ask over one connection, as often as they will; a new one after an error.
pub(super) async fn run(clients: &mut [Client<'_>]) {
    let Some(first) = clients.first() else { return };
    let (shared, mut attempts) = (first.shared, 0);
    let number = first.number / shared.task.job.args.per_connection;
    loop {
        let done = match open_rows(shared, number, &mut attempts).await {
            Ok(connection) => share(&mut connection.into_pipe(), clients).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => return,
            Err(error) => clients[0].record(Kind::Read, Instant::now(), Err(error)).await,
        }
        if shared.over.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Goes on until no client wants to ask any more.
async fn share(pipe: &mut Pipe, clients: &mut [Client<'_>]) -> io::Result<()> {
    let mut asked: Vec<Option<Asked>> = (0i16..)
        .zip(clients.iter_mut())
        .map(|(stream, client)| client.ask_over(pipe, stream))
        .collect();
    while asked.iter().any(Option::is_some) {
        pipe.turn(PATIENCE).await?;
        while let Some((stream, answer)) = pipe.next(|stream| is_read(&asked, stream))? {
            let at = usize::try_from(stream).unwrap_or(usize::MAX);
            let Some((kind, began)) = asked.get_mut(at).and_then(Option::take) else {
                return Err(io::Error::other("an answer to nothing that was asked"));
            };
            clients[at].record(kind, began, Ok(answer)).await;
            asked[at] = clients[at].ask_over(pipe, stream);
        }
    }
    Ok(())
}

fn is_read(asked: &[Option<Asked>], stream: i16) -> bool {
    let at = usize::try_from(stream).unwrap_or(usize::MAX);
    matches!(asked.get(at), Some(Some((Kind::Read, _))))
}

impl Client<'_> {
    /// Puts the next request on `stream`; `None`: there is none any more.
    fn ask_over(&mut self, pipe: &mut Pipe, stream: i16) -> Option<Asked> {
        let shared = self.shared;
        let args = &shared.task.job.args;
        if shared.over.load(Ordering::Relaxed) {
            return None;
        }
        let kind = match shared.task.loading {
            true => Kind::Insert,
            false => args.workload.next(&mut self.random),
        };
        let index = match (kind, shared.task.loading) {
            (_, true) => shared.next.fetch_add(1, Ordering::Relaxed),
            (Kind::Insert, false) => self.fresh(),
            (_, false) => self.choose(),
        };
        if shared.task.loading && index >= args.records {
            return None;
        }
        self.request.clear();
        self.key(index);
        let reads = kind == Kind::Read;
        if !reads {
            self.renew_value(index);
        }
        self.sent = Instant::now();
        let value = (!reads).then_some(&self.value[..]);
        pipe.put(stream, shared.task.job.level?, &self.request, value);
        Some((kind, self.sent))
    }
}
