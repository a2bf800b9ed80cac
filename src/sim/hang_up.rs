//! Clients that hang up: a future is dropped at one of its awaits.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// Drives `future` until it has an answer or has come to its await number `awaits` (from 1), and
/// drops it there, as a server drops the handler of a request whose client has gone. `None`: it was
/// dropped.
pub async fn until_await<T>(future: impl Future<Output = T> + Send, awaits: u32) -> Option<T> {
    let mut future: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(future);
    let mut left = awaits.max(1);
    poll_fn(move |cx| match future.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => {
            left -= 1;
            if left == 0 { Poll::Ready(None) } else { Poll::Pending }
        }
    })
    .await
}
