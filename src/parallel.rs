//! One piece of work done by several threads, or by as many as there are.

use std::panic::resume_unwind;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Fewer items than this are not worth another thread.
const WORTH_A_THREAD: usize = 64;

/// How many threads can run at once.
pub(crate) fn cores() -> usize {
    // Asking costs reading several files of the system's.
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

/// Runs `work` in this thread and in others, `threads` in all, and returns what came of each.
///
/// Where no more threads are to be had, fewer run it: it takes its share from what is there for all.
pub(crate) fn together<T: Send>(threads: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let start = |_| thread::Builder::new().spawn_scoped(scope, &work).ok();
        let others: Vec<_> = (1..threads).map_while(start).collect();
        let own = work();
        let others = others.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        std::iter::once(own).chain(others).collect()
    })
}

/// Does `work` with each item, many by several threads, and returns what came of them, in the items' order; or an
/// error, after which no other item is begun.
pub(crate) fn each<I: Sync, T: Send, E: Send>(
    items: &[I],
    work: impl Fn(&I) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    each_by(cores().min(items.len() / WORTH_A_THREAD), items, work)
}

/// [`each`] by so many threads.
pub(crate) fn each_by<I: Sync, T: Send, E: Send>(
    threads: usize,
    items: &[I],
    work: impl Fn(&I) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let share = || -> Result<Vec<(usize, T)>, E> {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return Ok(done) };
            done.push((at, work(item).inspect_err(|_| next.store(items.len(), Ordering::Relaxed))?));
        }
    };
    let mut done = Vec::with_capacity(items.len());
    for share in together(threads, share) {
        done.extend(share?);
    }
    done.sort_unstable_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, made)| made).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_an_error_ends_the_work() {
        let items: Vec<u32> = (0..10_000).collect();
        for threads in [0, 1, 2, 7] {
            let doubled = each_by(threads, &items, |n| Ok::<_, ()>(n * 2)).expect("none fails");
            assert!(doubled.iter().zip(&items).all(|(two, one)| *two == one * 2) && doubled.len() == items.len());
            let begun = AtomicUsize::new(0);
            let failed = each_by(threads, &items, |n| {
                begun.fetch_add(1, Ordering::Relaxed);
                if *n == 3 { Err("the fourth") } else { Ok(()) }
            });
            assert_eq!(failed, Err("the fourth"));
            assert!(threads > 1 || begun.load(Ordering::Relaxed) == 4);
        }
    }
}
