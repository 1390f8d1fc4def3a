//! The core in a C program without std: this crate stops building (a second `panic_impl`) as soon as std leaks in,
//! and stops linking as soon as something allocates without the feature `alloc`.
#![no_std]

#[cfg(feature = "alloc")]
extern crate alloc;

#[cfg(feature = "alloc")]
mod bump;
#[cfg(feature = "alloc")]
mod container;

use core::panic::PanicInfo;
use core::slice;

use tersa_core::num::DType;
use tersa_core::num::convert::{from_f32, to_f32};
use tersa_core::rotate::Rotation;

unsafe extern "C" {
    safe fn abort() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    abort()
}

/// The level that kernels run at here, as a number from 1 (scalar).
#[unsafe(no_mangle)]
pub extern "C" fn nostd_level() -> i32 {
    tersa_core::cpu::level() as i32
}

/// Rotates `n_tokens` rows in place, or back; 0, or 1 if there is no rotation of `head_dim`.
///
/// # Safety
/// `rows` points to `n_tokens * head_dim` floats.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nostd_rotate(rows: *mut f32, n_tokens: usize, head_dim: usize, back: bool) -> i32 {
    // SAFETY: the caller's promise.
    let rows = unsafe { slice::from_raw_parts_mut(rows, n_tokens * head_dim) };
    let Ok(rotation) = Rotation::new(head_dim, 7) else { return 1 };
    if back {
        rotation.inverse(rows)
    } else {
        rotation.forward(rows)
    }
    0
}

/// Narrows `n` floats to f16 in `half` and widens them again in place; 0, or 1 on any error.
///
/// # Safety
/// `values` points to `n` floats and `half` to `2 * n` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nostd_through_f16(values: *mut f32, n: usize, half: *mut u8) -> i32 {
    // SAFETY: the caller's promise.
    let (values, half) =
        unsafe { (slice::from_raw_parts_mut(values, n), slice::from_raw_parts_mut(half, 2 * n)) };
    let there_and_back = from_f32(DType::F16, values, half).and_then(|()| to_f32(DType::F16, half, values));
    i32::from(there_and_back.is_err())
}
