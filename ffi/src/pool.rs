//! Threads that encode and decode in the background. They live here and nowhere else in the project's libraries.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::borrow::{self, Versioned, put, shared};
use crate::codec::{blob, tersa_codec};
use crate::status::{Failure, fail, guard, panicked, tersa_error, tersa_status};
use crate::tensor::{tersa_kv, tersa_range};
use crate::version::obey_environment;
use crate::workspace::Scratch;

/// Threads and a queue. Unlike other handles, one pool may be used by many threads at once.
pub struct tersa_pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// A job was queued, or the pool is closing.
    work: Condvar,
    /// A job is done.
    done: Condvar,
    capacity: usize,
    event: Event,
}

#[derive(Default)]
struct State {
    next: u64,
    queued: VecDeque<Job>,
    /// Jobs that threads are at, with the flag that cancels each.
    running: Vec<(u64, Arc<AtomicBool>)>,
    completed: VecDeque<tersa_completion>,
    closing: bool,
}

impl State {
    fn held(&self) -> usize {
        self.queued.len() + self.running.len() + self.completed.len()
    }
}

struct Job {
    id: u64,
    user_data: u64,
    task: Task,
}

enum Task {
    Encode(blob::Encode),
    Decode(blob::Decode),
}

/// What became of a job.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tersa_completion {
    /// The number that submitting gave.
    pub job: u64,
    /// What the caller gave along.
    pub user_data: u64,
    /// Bytes that an encode job wrote.
    pub written: usize,
    /// Status and text.
    pub error: tersa_error,
}

impl tersa_completion {
    fn new(job: &Job, result: &Result<usize, Failure>) -> Self {
        let (written, error) = match result {
            Ok(n) => (*n, tersa_error::default()),
            Err(failure) => (0, failure.to_error()),
        };
        Self { job: job.id, user_data: job.user_data, written, error }
    }
}

/// How a pool is made.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tersa_pool_params {
    /// Set by `tersa_pool_params_init`.
    pub struct_size: u32,
    /// Threads. 1 by default.
    pub n_threads: u32,
    /// Jobs that may be queued, running, or done and not yet taken. 64 by default.
    pub capacity: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: integers only.
unsafe impl Versioned for tersa_pool_params {
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self { struct_size: 0, n_threads: 1, capacity: 64, reserved: 0 }
    }
}

/// Sets `*params` to one thread and 64 jobs. `struct_size` is `sizeof *params`.
///
/// # Safety
/// `params` points to `struct_size` bytes; `err` as everywhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_pool_params_init(
    params: *mut tersa_pool_params,
    struct_size: usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe { borrow::init(params, struct_size, "params") })
}

impl Shared {
    /// The state. A thread that panicked while it held the lock left it sound: no call between its changes panics.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complete(&self, state: &mut State, completion: tersa_completion) {
        state.completed.push_back(completion);
        self.event.raise();
        self.done.notify_all();
    }

    fn work(&self) {
        let mut scratch = Scratch::default();
        let mut state = self.lock();
        loop {
            let Some(job) = state.queued.pop_front() else {
                if state.closing {
                    return;
                }
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let cancel = Arc::new(AtomicBool::new(false));
            state.running.push((job.id, cancel.clone()));
            drop(state);
            let cancelled = || cancel.load(Ordering::Relaxed);
            let result = catch_unwind(AssertUnwindSafe(|| {
                // SAFETY: the caller of the submitting function promised to leave the memory to the job until it is done.
                unsafe {
                    match &job.task {
                        Task::Encode(task) => task.run(&mut scratch, &cancelled),
                        Task::Decode(task) => task.run(&mut scratch, &cancelled).map(|()| 0),
                    }
                }
            }));
            let result = result.unwrap_or_else(|panic| Err(panicked(&*panic)));
            state = self.lock();
            state.running.retain(|(id, _)| *id != job.id);
            self.complete(&mut state, tersa_completion::new(&job, &result));
        }
    }

    fn submit(&self, user_data: u64, task: Task) -> Result<u64, Failure> {
        let mut state = self.lock();
        if state.held() >= self.capacity {
            return fail!(TERSA_ERR_BUSY, "{} jobs are in the pool, which is all it holds", state.held());
        }
        state.next += 1;
        let id = state.next;
        state.queued.push_back(Job { id, user_data, task });
        self.work.notify_one();
        Ok(id)
    }

    /// Moves completions to `out`, the oldest first.
    fn take(&self, state: &mut State, out: &mut [std::mem::MaybeUninit<tersa_completion>]) -> usize {
        let n = out.len().min(state.completed.len());
        for (to, from) in out.iter_mut().zip(state.completed.drain(..n)) {
            to.write(from);
        }
        if state.completed.is_empty() {
            self.event.lower();
        }
        n
    }
}

impl Drop for tersa_pool {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.closing = true;
            state.queued.clear();
            for (_, cancel) in &state.running {
                cancel.store(true, Ordering::Relaxed);
            }
            self.shared.work.notify_all();
        }
        for thread in self.threads.drain(..) {
            // Panics of jobs end in `work`.
            let _ = thread.join();
        }
    }
}

/// Makes a pool and starts its threads. `params` may be NULL for the defaults.
///
/// # Safety
/// Pointers are NULL or as their types say; `out` is written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_pool_create(
    params: *const tersa_pool_params,
    out: *mut *mut tersa_pool,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        obey_environment();
        // SAFETY: the caller's promise.
        let params = unsafe {
            put(out, std::ptr::null_mut(), "out")?;
            if params.is_null() { tersa_pool_params::defaults() } else { borrow::take(params, "params")? }
        };
        if !(1..=1024).contains(&params.n_threads) || !(1..=1 << 20).contains(&params.capacity) {
            let (n, capacity) = (params.n_threads, params.capacity);
            return fail!(
                TERSA_ERR_ARGUMENT,
                "{n} threads, {capacity} jobs: 1 to 1024 threads, 1 to 2^20 jobs"
            );
        }
        let state = Mutex::new(State::default());
        let (work, done, capacity) = (Condvar::new(), Condvar::new(), params.capacity as usize);
        let shared = Arc::new(Shared { state, work, done, capacity, event: Event::new()? });
        let mut pool = Box::new(tersa_pool { shared, threads: Vec::new() });
        for _ in 0..params.n_threads {
            let shared = pool.shared.clone();
            pool.threads.push(std::thread::Builder::new().name("tersa".into()).spawn(move || shared.work())?);
        }
        // SAFETY: the caller's promise.
        unsafe { put(out, Box::into_raw(pool), "out") }
    })
}

/// Drops queued jobs, stops running ones at their next chunk, waits for the threads, and frees the pool; NULL is fine. After this no memory of the
/// caller is touched any more.
///
/// # Safety
/// `pool` is NULL or live, and no other thread uses it during or after this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_pool_destroy(pool: *mut tersa_pool) {
    // SAFETY: it came from this library, and the caller gives it up.
    guard(std::ptr::null_mut(), || unsafe { borrow::give_up(pool) });
}

/// Queues what `tersa_codec_encode` does; `*job`, unless `job` is NULL, becomes the job's number. Arguments are checked now: with any other status
/// than `TERSA_OK` there is no job. `TERSA_ERR_BUSY`: take completions first.
///
/// The elements, which must not change, and `dst` belong to the job until its completion was taken or the pool destroyed. Everything else,
/// the codec too, may go at once.
///
/// # Safety
/// Handles are live, pointers as their types say.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "a C call has no other way")]
pub unsafe extern "C" fn tersa_pool_encode(
    pool: *const tersa_pool,
    codec: *const tersa_codec,
    k: *const tersa_kv,
    v: *const tersa_kv,
    layers: tersa_range,
    tokens: tersa_range,
    dst: *mut c_void,
    capacity: usize,
    user_data: u64,
    job: *mut u64,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        unsafe {
            let (pool, codec) = (shared(pool, "pool")?, shared(codec, "codec")?);
            let task = blob::Encode::new(&codec.inner, k, v, layers, tokens, dst, capacity, &mut 0)?;
            give_id(job, pool.shared.submit(user_data, Task::Encode(task))?)
        }
    })
}

/// Queues what `tersa_codec_decode` does, as `tersa_pool_encode` queues encoding. `src` must not change until the job is done.
///
/// # Safety
/// Handles are live, pointers as their types say.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "a C call has no other way")]
pub unsafe extern "C" fn tersa_pool_decode(
    pool: *const tersa_pool,
    codec: *const tersa_codec,
    src: *const c_void,
    len: usize,
    layers: tersa_range,
    tokens: tersa_range,
    k: *const tersa_kv,
    v: *const tersa_kv,
    first_token: usize,
    user_data: u64,
    job: *mut u64,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        unsafe {
            let (pool, codec) = (shared(pool, "pool")?, shared(codec, "codec")?);
            let task = blob::Decode::new(&codec.inner, src, len, layers, tokens, k, v, first_token)?;
            give_id(job, pool.shared.submit(user_data, Task::Decode(task))?)
        }
    })
}

/// # Safety
/// `job` is NULL or written to.
unsafe fn give_id(job: *mut u64, id: u64) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    if job.is_null() { Ok(()) } else { unsafe { put(job, id, "job") } }
}

/// Takes up to `capacity` completions, the oldest first, without waiting; `*n` becomes their count.
///
/// # Safety
/// `out` has room for `capacity`; handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_pool_poll(
    pool: *const tersa_pool,
    out: *mut tersa_completion,
    capacity: usize,
    n: *mut usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    unsafe { tersa_pool_wait(pool, out, capacity, 0, n, err) }
}

/// As `tersa_pool_poll`, but waits up to `timeout_ms` milliseconds for the first completion; `UINT32_MAX` waits as long as it takes. `*n` is 0 when time
/// was up, or when there are no jobs to wait for.
///
/// # Safety
/// `out` has room for `capacity`; handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_pool_wait(
    pool: *const tersa_pool,
    out: *mut tersa_completion,
    capacity: usize,
    timeout_ms: u32,
    n: *mut usize,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise. The elements may be uninitialised and are only written to.
        let (pool, out) = unsafe {
            put(n, 0, "n")?;
            let pool = shared(pool, "pool")?;
            (&pool.shared, borrow::slice_mut(out.cast::<std::mem::MaybeUninit<_>>(), capacity, "out")?)
        };
        if out.is_empty() {
            return fail!(TERSA_ERR_ARGUMENT, "there is no room for completions");
        }
        let forever = timeout_ms == u32::MAX;
        let end = Instant::now() + Duration::from_millis(timeout_ms.into());
        let mut state = pool.lock();
        while state.completed.is_empty() && !(state.queued.is_empty() && state.running.is_empty()) {
            let left = end.saturating_duration_since(Instant::now());
            if forever {
                state = pool.done.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else if left.is_zero() {
                break;
            } else {
                state = pool.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        let taken = pool.take(&mut state, out);
        // SAFETY: the caller's promise.
        unsafe { put(n, taken, "n") }
    })
}

/// Cancels a job: a queued one is done at once, with `TERSA_ERR_CANCELLED`; a running one stops at its next chunk, if one is left. Its completion
/// comes as any other. `TERSA_ERR_NOT_FOUND` if it is done already or there never was one.
///
/// # Safety
/// Handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_pool_cancel(
    pool: *const tersa_pool,
    job: u64,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let pool = &unsafe { shared(pool, "pool")? }.shared;
        let mut state = pool.lock();
        if let Some((_, cancel)) = state.running.iter().find(|(id, _)| *id == job) {
            cancel.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let Some(at) = state.queued.iter().position(|queued| queued.id == job) else {
            return fail!(TERSA_ERR_NOT_FOUND, "no job {job} is queued or running");
        };
        if let Some(job) = state.queued.remove(at) {
            let completion =
                tersa_completion::new(&job, &fail!(TERSA_ERR_CANCELLED, "cancelled while queued"));
            pool.complete(&mut state, completion);
        }
        Ok(())
    })
}

/// A file descriptor that is readable while completions wait to be taken, for `poll` or `epoll`; Linux only, elsewhere `TERSA_ERR_UNSUPPORTED`. It belongs to
/// the pool: watch it, do not read or close it.
///
/// # Safety
/// Handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_pool_event_fd(
    pool: *const tersa_pool,
    fd: *mut i32,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        put(fd, -1, "fd")?;
        put(fd, shared(pool, "pool")?.shared.event.fd()?, "fd")
    })
}

/// What can be watched: an eventfd that holds 1 while completions wait.
#[cfg(target_os = "linux")]
struct Event(std::os::fd::OwnedFd);

#[cfg(target_os = "linux")]
impl Event {
    fn new() -> Result<Self, Failure> {
        use std::os::fd::FromRawFd as _;
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) }))
    }

    fn fd(&self) -> Result<i32, Failure> {
        use std::os::fd::AsRawFd as _;
        Ok(self.0.as_raw_fd())
    }

    fn raise(&self) {
        use std::os::fd::AsRawFd as _;
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes of a live array. It fails only if the counter is at its end, and then it is readable.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), 8) };
    }

    fn lower(&self) {
        use std::os::fd::AsRawFd as _;
        let mut count = [0u8; 8];
        // SAFETY: eight bytes of a live array. It fails only if the counter is 0, which is what is wanted.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
    }
}

#[cfg(not(target_os = "linux"))]
struct Event;

#[cfg(not(target_os = "linux"))]
impl Event {
    fn new() -> Result<Self, Failure> {
        Ok(Self)
    }

    fn fd(&self) -> Result<i32, Failure> {
        fail!(TERSA_ERR_UNSUPPORTED, "only Linux has event file descriptors: poll or wait")
    }

    fn raise(&self) {}

    fn lower(&self) {}
}
