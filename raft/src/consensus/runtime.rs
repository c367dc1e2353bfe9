//! The runtime that openraft's tasks run on: tokio's, with seeded dice in a simulation.

#[cfg(not(feature = "sim"))]
pub(crate) use openraft::impls::TokioRuntime as Runtime;
#[cfg(feature = "sim")]
pub(crate) use simulated::Runtime;

#[cfg(feature = "sim")]
mod simulated {
    use std::future::Future;
    use std::time::Duration;

    use openraft::AsyncRuntime;
    use openraft::impls::TokioRuntime;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use crate::edge;

    /// tokio's runtime; election timeouts come from the simulation's seed.
    #[derive(Debug)]
    pub(crate) struct Runtime(TokioRuntime);

    impl AsyncRuntime for Runtime {
        type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
        type JoinHandle<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
        type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
        type Instant = <TokioRuntime as AsyncRuntime>::Instant;
        type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
        type Timeout<R, T: Future<Output = R> + Send> =
            <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
        type ThreadLocalRng = SmallRng;
        type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
        type Watch = <TokioRuntime as AsyncRuntime>::Watch;
        type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
        type Mutex<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

        fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
        where
            T: Future + Send + 'static,
            T::Output: Send + 'static,
        {
            TokioRuntime::spawn(future)
        }

        fn sleep(duration: Duration) -> Self::Sleep {
            TokioRuntime::sleep(duration)
        }

        fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
            TokioRuntime::sleep_until(deadline)
        }

        fn timeout<R, F: Future<Output = R> + Send>(
            duration: Duration,
            future: F,
        ) -> Self::Timeout<R, F> {
            TokioRuntime::timeout(duration, future)
        }

        fn timeout_at<R, F: Future<Output = R> + Send>(
            deadline: Self::Instant,
            future: F,
        ) -> Self::Timeout<R, F> {
            TokioRuntime::timeout_at(deadline, future)
        }

        fn is_panic(join_error: &Self::JoinError) -> bool {
            TokioRuntime::is_panic(join_error)
        }

        fn thread_rng() -> Self::ThreadLocalRng {
            SmallRng::seed_from_u64(edge::random())
        }

        fn new(threads: usize) -> Self {
            Runtime(TokioRuntime::new(threads))
        }

        fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
            self.0.block_on(future)
        }
    }
}
