//! An allocator out of static memory that never frees: enough to prove that the core brings none of its own.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

const ARENA_BYTES: usize = 16 << 20;

#[repr(align(64))]
struct Arena(UnsafeCell<[u8; ARENA_BYTES]>);

// SAFETY: `Bump` hands out every byte once.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(UnsafeCell::new([0; ARENA_BYTES]));

struct Bump {
    used: AtomicUsize,
}

// SAFETY: each block is a fresh range of `ARENA`, aligned relative to its 64-byte aligned start.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > 64 {
            return ptr::null_mut();
        }
        let mut start = 0;
        let fits = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            start = used.next_multiple_of(layout.align());
            start.checked_add(layout.size()).filter(|end| *end <= ARENA_BYTES)
        });
        match fits {
            // SAFETY: `start` lies within the arena, as checked above.
            Ok(_) => unsafe { ARENA.0.get().cast::<u8>().add(start) },
            Err(_) => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static BUMP: Bump = Bump { used: AtomicUsize::new(0) };
