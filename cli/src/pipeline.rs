//! Work on numbered items with several threads and results in order.
//!
//! Workers take numbers in rising order; the calling thread hands results on in the same order, so what is written
//! does not depend on the thread count. A worker waits when it is a whole window ahead of the writer: memory stays
//! bounded however unequal the items are.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

struct State<T> {
    next: usize,
    done: usize,
    ready: BTreeMap<usize, Result<T>>,
    free: Vec<T>,
    stop: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// A result is ready.
    ready: Condvar,
    /// The window has moved.
    moved: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A worker that panics poisons nothing of worth: the scope passes its panic on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the run for everybody, also when the thread that holds it panics.
struct StopOnDrop<'a, T>(&'a Shared<T>);

impl<T> Drop for StopOnDrop<'_, T> {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.moved.notify_all();
        self.0.ready.notify_all();
    }
}

/// Runs `work(worker, i, buffer)` for every `i` in `0..n` on `jobs` threads and `take(i, &mut result)` in rising
/// order on the calling one. `worker()` makes each thread's own state; a result comes back as the `buffer` of a later
/// call. At most `window` results exist at a time.
///
/// # Errors
/// The first error by number, of `work` or `take`; nothing later is taken.
pub fn ordered<W, T: Default + Send>(
    jobs: usize,
    n: usize,
    window: usize,
    worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, usize, &mut T) -> Result<()> + Sync,
    mut take: impl FnMut(usize, &mut T) -> Result<()>,
) -> Result<()> {
    let jobs = jobs.clamp(1, n.max(1));
    if jobs == 1 {
        let (mut state, mut buffer) = (worker(), T::default());
        return (0..n).try_for_each(|i| {
            work(&mut state, i, &mut buffer)?;
            take(i, &mut buffer)
        });
    }
    let window = window.max(jobs);
    let shared = Shared {
        state: Mutex::new(State { next: 0, done: 0, ready: BTreeMap::new(), free: Vec::new(), stop: false }),
        ready: Condvar::new(),
        moved: Condvar::new(),
    };
    let one_worker = || {
        let guard = StopOnDrop(&shared);
        let mut state = worker();
        loop {
            let (i, mut buffer) = {
                let mut s = shared.lock();
                while !s.stop && s.next < n && s.next >= s.done + window {
                    s = shared.moved.wait(s).unwrap_or_else(PoisonError::into_inner);
                }
                if s.stop || s.next == n {
                    break;
                }
                s.next += 1;
                (s.next - 1, s.free.pop().unwrap_or_default())
            };
            let result = work(&mut state, i, &mut buffer).map(|()| buffer);
            shared.lock().ready.insert(i, result);
            shared.ready.notify_one();
        }
        // A worker that runs out of items leaves the others to theirs.
        std::mem::forget(guard);
    };
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&shared);
        for _ in 0..jobs {
            scope.spawn(one_worker);
        }
        for i in 0..n {
            let result = {
                let mut s = shared.lock();
                loop {
                    if let Some(result) = s.ready.remove(&i) {
                        break result;
                    }
                    if s.stop {
                        // Only a panic stops the run from outside; the scope passes it on.
                        return Ok(());
                    }
                    s = shared.ready.wait(s).unwrap_or_else(PoisonError::into_inner);
                }
            };
            let mut buffer = result?;
            take(i, &mut buffer)?;
            let mut s = shared.lock();
            s.done = i + 1;
            s.free.push(buffer);
            shared.moved.notify_all();
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_come_in_order_at_any_thread_count_and_stay_within_the_window() {
        for jobs in [1, 2, 5] {
            let (live, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let mut seen = Vec::new();
            ordered(
                jobs,
                100,
                6,
                || (),
                |(), i, out: &mut usize| {
                    most.fetch_max(live.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    *out = i * i;
                    Ok(())
                },
                |i, out| {
                    live.fetch_sub(1, Ordering::SeqCst);
                    seen.push((i, *out));
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(seen, (0..100).map(|i| (i, i * i)).collect::<Vec<_>>());
            assert!(most.into_inner() <= 6);
        }
    }

    #[test]
    fn the_first_error_by_number_ends_the_run() {
        for jobs in [1, 3] {
            let mut taken = 0;
            let error = ordered(
                jobs,
                50,
                8,
                || (),
                |(), i, _: &mut u8| if i >= 20 { bail!("item {i}") } else { Ok(()) },
                |_, _| {
                    taken += 1;
                    Ok(())
                },
            );
            assert_eq!(error.unwrap_err().to_string(), "item 20");
            assert_eq!(taken, 20);
            let refused =
                ordered(jobs, 50, 8, || (), |(), _, _: &mut u8| Ok(()), |i, _| bail!("no room for {i}"));
            assert_eq!(refused.unwrap_err().to_string(), "no room for 0");
        }
    }

    #[test]
    fn a_panic_in_a_worker_reaches_the_caller() {
        let run = || ordered(2, 10, 4, || (), |(), i, _: &mut u8| panic!("item {i}"), |_, _| Ok(()));
        assert!(std::panic::catch_unwind(run).is_err());
    }

    #[test]
    fn nothing_to_do_is_done_at_once() {
        ordered(4, 0, 4, || (), |(), _, _: &mut u8| bail!("no item"), |_, _| bail!("no item")).unwrap();
    }
}
