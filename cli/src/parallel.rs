//! Work on many things with a few threads.

use std::sync::atomic::{AtomicUsize, Ordering};

/// `work(i)` for every `i` below `n`, by up to `jobs` threads; results in order, whoever was done first.
pub(crate) fn map<T: Send>(n: usize, jobs: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= n {
                break done;
            }
            done.push((i, work(i)));
        }
    };
    let mut results: Vec<(usize, T)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.min(n)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    });
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_with_any_number_of_threads() {
        for jobs in [1, 2, 7] {
            assert_eq!(map(5, jobs, |i| i * i), [0, 1, 4, 9, 16]);
            assert!(map(0, jobs, |i| i).is_empty());
        }
    }
}
