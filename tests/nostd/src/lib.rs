//! The core in a C program without std: this crate stops building (a second `panic_impl`) as soon as std leaks in,
//! and stops linking as soon as `alloc` is used without the feature of that name.
#![no_std]

#[cfg(feature = "alloc")]
mod bump;

use core::panic::PanicInfo;
use core::slice;

use tersa_core::num::DType;
use tersa_core::view::{KvShape, KvStrides, KvView};

unsafe extern "C" {
    safe fn abort() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    abort()
}

/// Copies the rows of `head` out of an f16 tensor `[n_kv_heads][n_tokens][head_dim]`; 0, or 1 if it does not fit.
///
/// # Safety
/// `data` and `out` point to `len_bytes` and `out_bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nostd_copy_rows(
    data: *const u8,
    len_bytes: usize,
    n_tokens: usize,
    n_kv_heads: usize,
    head_dim: usize,
    head: usize,
    out: *mut u8,
    out_bytes: usize,
) -> i32 {
    // SAFETY: the caller's promise.
    let (data, out) =
        unsafe { (slice::from_raw_parts(data, len_bytes), slice::from_raw_parts_mut(out, out_bytes)) };
    let shape = KvShape { dtype: DType::F16, n_tokens, n_kv_heads, head_dim };
    let Ok(view) = KvView::new(data, shape, KvStrides::head_major(&shape)) else { return 1 };
    if head >= n_kv_heads || out_bytes != n_tokens * shape.row_bytes() {
        return 1;
    }
    view.copy_rows(head, 0..n_tokens, out);
    0
}

/// The level that kernels run at here, as a number from 1 (scalar).
#[unsafe(no_mangle)]
pub extern "C" fn nostd_level() -> i32 {
    tersa_core::cpu::level() as i32
}
