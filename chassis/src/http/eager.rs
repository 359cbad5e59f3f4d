//! An executor for the requests of HTTP/2 connections.

use std::task::{Context, Waker};

use hyper::rt::Executor;

/// Begins each request as it is taken from its connection, and makes a task only of what has to
/// wait. One read of a connection can bring hundreds of requests: as tasks, all of them would be
/// held in memory before the first is looked at and refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Eager;

impl<F> Executor<F> for Eager
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, request: F) {
        let mut request = Box::pin(request);
        // Its task polls it at once, so nobody needs to be woken until then.
        let unheard = &mut Context::from_waker(Waker::noop());
        if request.as_mut().poll(unheard).is_pending() {
            tokio::spawn(request);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn what_need_not_wait_is_done_at_once_and_the_rest_when_it_may() {
        let done = Arc::new(AtomicUsize::new(0));
        let (may, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let request = |waits: bool| {
            let (done, may, ended) = (Arc::clone(&done), Arc::clone(&may), Arc::clone(&ended));
            async move {
                if waits {
                    may.notified().await;
                }
                done.fetch_add(1, Ordering::Relaxed);
                ended.notify_one();
            }
        };
        Eager.execute(request(false));
        assert_eq!(done.load(Ordering::Relaxed), 1);
        ended.notified().await;
        Eager.execute(request(true));
        assert_eq!(done.load(Ordering::Relaxed), 1);
        may.notify_waiters();
        ended.notified().await;
        assert_eq!(done.load(Ordering::Relaxed), 2);
    }
}
