//! Work on numbered items with several threads and results in order.
//!
//! Workers take numbers in rising order and work at the same time. What must happen in order, such as giving a result
//! its place in a file, is done in passing by whichever worker finishes the item that is next; what follows, such as
//! writing it there, is again done by all at the same time. No thread waits for a result, and the output does not
//! depend on the thread count. No more than a window of results exists at a time: memory stays bounded however unequal
//! the items are.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Error, Result};

struct State<T> {
    /// The item to be worked on next.
    next: usize,
    /// Items below this have been placed.
    placed: usize,
    /// Whether a worker is placing.
    placing: bool,
    /// Worked on, waiting to be placed.
    ready: BTreeMap<usize, Result<T>>,
    /// Items that are worked on, wait, or are being finished.
    live: usize,
    free: Vec<T>,
    /// The first error by number.
    failed: Option<(usize, Error)>,
    stop: bool,
}

impl<T> State<T> {
    fn fail(&mut self, i: usize, e: Error) {
        self.stop = true;
        if self.failed.as_ref().is_none_or(|(first, _)| i < *first) {
            self.failed = Some((i, e));
        }
    }
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// An item is finished, or the run is over.
    moved: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        locked(&self.state)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A worker that panics poisons nothing of worth: the scope passes its panic on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the run for everybody when the thread that holds it panics.
struct StopOnPanic<'a, T>(&'a Shared<T>);

impl<T> Drop for StopOnPanic<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().stop = true;
            self.0.moved.notify_all();
        }
    }
}

/// As [`placed`] for results that are done with once they are taken, in rising order.
///
/// # Errors
/// The first error by number, of `work` or `take`; nothing later is taken.
pub fn ordered<W, T: Default + Send>(
    jobs: usize,
    n: usize,
    window: usize,
    worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, usize, &mut T) -> Result<()> + Sync,
    take: impl FnMut(usize, &mut T) -> Result<()> + Send,
) -> Result<()> {
    placed(jobs, n, window, worker, work, take, |_, ()| Ok(()))
}

/// Runs, for every `i` in `0..n`, `work(worker, i, buffer)` on `jobs` threads, the calling one among them, then
/// `place(i, &mut result)` in rising order, one at a time, then `finish(&result, place)` on the thread that placed it.
/// `worker()` makes each thread's own state; a result comes back as the `buffer` of a later call. At most `window`
/// results, but one for each thread, exist at a time.
///
/// # Errors
/// The first error by number. Nothing is placed after one of `work` or `place`; after one of `finish` some later items
/// may have been.
pub fn placed<W, T: Default + Send, P>(
    jobs: usize,
    n: usize,
    window: usize,
    worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, usize, &mut T) -> Result<()> + Sync,
    mut place: impl FnMut(usize, &mut T) -> Result<P> + Send,
    finish: impl Fn(&T, P) -> Result<()> + Sync,
) -> Result<()> {
    let jobs = jobs.clamp(1, n.max(1));
    if jobs == 1 {
        let (mut state, mut buffer) = (worker(), T::default());
        return (0..n).try_for_each(|i| {
            work(&mut state, i, &mut buffer)?;
            let place = place(i, &mut buffer)?;
            finish(&buffer, place)
        });
    }
    let window = window.max(jobs);
    let state = State {
        next: 0,
        placed: 0,
        placing: false,
        ready: BTreeMap::new(),
        live: 0,
        free: Vec::new(),
        failed: None,
        stop: false,
    };
    let shared = Shared { state: Mutex::new(state), moved: Condvar::new() };
    // Never contended: `State::placing` lets one worker in.
    let place = Mutex::new(place);
    let one_worker = || {
        let _guard = StopOnPanic(&shared);
        let mut own = worker();
        let mut mine = Vec::new();
        while let Some((i, mut buffer)) = take_item(&shared, n, window) {
            let result = work(&mut own, i, &mut buffer).map(|()| buffer);
            place_ready(&shared, i, result, &place, &mut mine);
            for (i, buffer, place) in mine.drain(..) {
                let finished = finish(&buffer, place);
                let mut s = shared.lock();
                s.live -= 1;
                s.free.push(buffer);
                if let Err(e) = finished {
                    s.fail(i, e);
                }
                shared.moved.notify_all();
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..jobs {
            scope.spawn(one_worker);
        }
        one_worker();
    });
    match shared.lock().failed.take() {
        Some((_, e)) => Err(e),
        None => Ok(()),
    }
}

/// The next item and a buffer for it, as soon as the window allows one; `None` when there is nothing more to do.
fn take_item<T: Default>(shared: &Shared<T>, n: usize, window: usize) -> Option<(usize, T)> {
    let mut s = shared.lock();
    while !s.stop && s.next < n && s.live >= window {
        s = shared.moved.wait(s).unwrap_or_else(PoisonError::into_inner);
    }
    if s.stop || s.next == n {
        return None;
    }
    s.next += 1;
    s.live += 1;
    Some((s.next - 1, s.free.pop().unwrap_or_default()))
}

/// Hands in the result of item `i` and places whatever is next, unless another worker is at it: that one will see it.
fn place_ready<T, P>(
    shared: &Shared<T>,
    i: usize,
    result: Result<T>,
    place: &Mutex<impl FnMut(usize, &mut T) -> Result<P>>,
    mine: &mut Vec<(usize, T, P)>,
) {
    let mut s = shared.lock();
    s.ready.insert(i, result);
    if s.placing {
        return;
    }
    s.placing = true;
    let mut place = locked(place);
    while !s.stop {
        let i = s.placed;
        let Some(result) = s.ready.remove(&i) else { break };
        drop(s);
        let placed = result.and_then(|mut buffer| place(i, &mut buffer).map(|place| (i, buffer, place)));
        s = shared.lock();
        match placed {
            Ok(item) => mine.push(item),
            Err(e) => {
                s.fail(i, e);
                shared.moved.notify_all();
            }
        }
        s.placed = i + 1;
    }
    s.placing = false;
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
    fn places_rise_and_every_result_is_finished_once_at_its_own() {
        for jobs in [1, 2, 5] {
            let done = Mutex::new(Vec::new());
            let mut at = 0;
            placed(
                jobs,
                100,
                7,
                || (),
                |(), i, out: &mut usize| {
                    *out = i + 1;
                    Ok(())
                },
                |_, len| {
                    at += *len;
                    Ok(at - *len)
                },
                |len, place| {
                    locked(&done).push((place, *len));
                    Ok(())
                },
            )
            .unwrap();
            let mut done = done.into_inner().unwrap();
            done.sort_unstable();
            assert_eq!(done, (0..100).map(|i| (i * (i + 1) / 2, i + 1)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_failure_to_finish_ends_the_run() {
        for jobs in [1, 3] {
            let fail = |(), i| if i >= 30 { bail!("no room for {i}") } else { Ok(()) };
            let error = placed(
                jobs,
                1000,
                8,
                || (),
                |(), i, out: &mut usize| {
                    *out = i;
                    Ok(())
                },
                |_, _| Ok(()),
                |i, ()| fail((), *i),
            );
            assert_eq!(error.unwrap_err().to_string(), "no room for 30");
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
