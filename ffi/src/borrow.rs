//! From the caller's pointers to references: where NULL, alignment, lengths and struct sizes are checked.
//!
//! No pointer can be checked for more than that. Each function's `# Safety` repeats the ABI's contract: what is not
//! NULL points to what its type says, for as long as the call lasts.

use std::ffi::{CStr, c_char, c_void};
use std::mem::size_of;

use crate::status::{Failure, fail};

fn check<T>(p: *const T, what: &str) -> Result<(), Failure> {
    if p.is_null() {
        return fail!(TERSA_ERR_NULL, "{what} is NULL");
    }
    if !p.is_aligned() {
        return fail!(TERSA_ERR_ARGUMENT, "{what} is not aligned");
    }
    Ok(())
}

/// # Safety
/// `p` is NULL or points to a `T` that nobody writes to during the call.
pub(crate) unsafe fn shared<'a, T>(p: *const T, what: &str) -> Result<&'a T, Failure> {
    check(p, what)?;
    // SAFETY: checked above, and by the caller's promise.
    Ok(unsafe { &*p })
}

/// # Safety
/// `p` is NULL or points to a `T` that nobody else uses during the call.
pub(crate) unsafe fn unique<'a, T>(p: *mut T, what: &str) -> Result<&'a mut T, Failure> {
    check(p, what)?;
    // SAFETY: checked above, and by the caller's promise.
    Ok(unsafe { &mut *p })
}

/// # Safety
/// `p` is NULL or points to memory for a `T`.
pub(crate) unsafe fn put<T>(p: *mut T, value: T, what: &str) -> Result<(), Failure> {
    check(p, what)?;
    // SAFETY: checked above, and by the caller's promise. Nothing is dropped there: outputs are plain.
    unsafe { p.write(value) };
    Ok(())
}

/// Frees a handle; NULL is fine.
///
/// # Safety
/// `p` is NULL or came from `Box::into_raw`, and nobody uses it any more.
pub(crate) unsafe fn give_up<T>(p: *mut T) -> Result<(), Failure> {
    if !p.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(p) });
    }
    Ok(())
}

fn check_len<T>(p: *const T, len: usize, what: &str) -> Result<bool, Failure> {
    if len == 0 {
        return Ok(false);
    }
    check(p, what)?;
    if len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX.cast_unsigned()) {
        return fail!(TERSA_ERR_ARGUMENT, "{what} has {len} elements, more than memory");
    }
    Ok(true)
}

/// What [`slice_mut`] checks, for outputs that are compared with the inputs before they are borrowed.
pub(crate) fn check_out<T>(p: *mut T, len: usize, what: &str) -> Result<(), Failure> {
    check_len(p.cast_const(), len, what).map(|_| ())
}

/// # Safety
/// `p` points to `len` elements that nobody writes to during the call; NULL will do for none.
pub(crate) unsafe fn slice<'a, T>(p: *const T, len: usize, what: &str) -> Result<&'a [T], Failure> {
    if !check_len(p, len, what)? {
        return Ok(&[]);
    }
    // SAFETY: checked above, and by the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(p, len) })
}

/// # Safety
/// `p` points to `len` elements that nobody else uses during the call; NULL will do for none.
pub(crate) unsafe fn slice_mut<'a, T>(p: *mut T, len: usize, what: &str) -> Result<&'a mut [T], Failure> {
    if !check_len(p.cast_const(), len, what)? {
        return Ok(&mut []);
    }
    // SAFETY: checked above, and by the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts_mut(p, len) })
}

/// # Safety
/// As for [`slice`].
pub(crate) unsafe fn bytes<'a>(p: *const c_void, len: usize, what: &str) -> Result<&'a [u8], Failure> {
    // SAFETY: the caller's promise.
    unsafe { slice(p.cast(), len, what) }
}

/// # Safety
/// `p` is NULL or a text ended by a zero byte.
pub(crate) unsafe fn text<'a>(p: *const c_char, what: &str) -> Result<&'a str, Failure> {
    check(p, what)?;
    // SAFETY: checked above, and by the caller's promise.
    match unsafe { CStr::from_ptr(p) }.to_str() {
        Ok(text) => Ok(text),
        Err(_) => fail!(TERSA_ERR_ARGUMENT, "{what} is not UTF-8"),
    }
}

/// Hands a text to the caller: `*len` becomes its bytes without the zero byte at the end, which is written too.
///
/// # Safety
/// `buf` points to `capacity` bytes or is NULL with a capacity of 0; `len` as for [`put`].
pub(crate) unsafe fn give_text(
    text: &str,
    buf: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    unsafe { put(len, text.len(), "len")? };
    if capacity == 0 {
        return Ok(()); // a size query
    }
    check(buf, "buf")?;
    if capacity <= text.len() {
        return fail!(
            TERSA_ERR_SHORT_BUFFER,
            "the text has {} bytes and a zero, buf has {capacity}",
            text.len()
        );
    }
    // SAFETY: checked above, and by the caller's promise.
    unsafe {
        buf.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        buf.add(text.len()).write(0);
    }
    Ok(())
}

/// Hands bytes to the caller: `*written` becomes their count; a capacity of 0 only asks for it.
///
/// # Safety
/// `dst` points to `capacity` bytes or is NULL with a capacity of 0; `written` as for [`put`].
pub(crate) unsafe fn give_bytes(
    bytes: &[u8],
    dst: *mut c_void,
    capacity: usize,
    written: *mut usize,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    unsafe { put(written, bytes.len(), "written")? };
    if capacity == 0 {
        return Ok(());
    }
    check(dst.cast::<u8>(), "dst")?;
    if capacity < bytes.len() {
        return fail!(
            TERSA_ERR_SHORT_BUFFER,
            "dst has room for {capacity} bytes, {} are needed",
            bytes.len()
        );
    }
    // SAFETY: checked above, and by the caller's promise.
    unsafe { dst.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    Ok(())
}

/// Whether two stretches of memory share a byte.
pub(crate) fn overlap(a: *const u8, a_len: usize, b: *const u8, b_len: usize) -> bool {
    let (a, b) = (a.addr(), b.addr());
    a_len > 0 && b_len > 0 && a < b.saturating_add(b_len) && b < a.saturating_add(a_len)
}

/// A struct that later versions make longer.
///
/// # Safety
/// The type is `repr(C)`, starts with `struct_size: u32`, and every bit pattern is one of its values.
pub(crate) unsafe trait Versioned: Copy {
    /// Bytes in the first version that had the struct.
    const FIRST_SIZE: usize;
    /// Values of fields that a caller does not set.
    fn defaults() -> Self;
}

/// The caller's struct, with defaults for the fields that it does not have.
///
/// # Safety
/// `p` is NULL or points to a struct of as many bytes as its first field says.
pub(crate) unsafe fn take<T: Versioned>(p: *const T, what: &str) -> Result<T, Failure> {
    check(p, what)?;
    // SAFETY: every such struct starts with its size.
    let size = unsafe { p.cast::<u32>().read() } as usize;
    if size < T::FIRST_SIZE || size > 4096 {
        return fail!(
            TERSA_ERR_STRUCT_SIZE,
            "{what}: struct_size is {size}, at least {} is expected: call the init function",
            T::FIRST_SIZE
        );
    }
    let known = size.min(size_of::<T>());
    // SAFETY: the caller's promise about `size`.
    let beyond = unsafe { std::slice::from_raw_parts(p.cast::<u8>().add(known), size - known) };
    if beyond.iter().any(|&b| b != 0) {
        return fail!(TERSA_ERR_STRUCT_SIZE, "{what}: sets fields that this library does not know");
    }
    let mut value = T::defaults();
    // SAFETY: `known` bytes are there on both sides, and every bit pattern is a value.
    unsafe { (&raw mut value).cast::<u8>().copy_from_nonoverlapping(p.cast(), known) };
    Ok(value)
}

/// Fills the caller's struct as far as it goes; its size stays.
///
/// # Safety
/// As for [`take`], and nobody else uses the struct during the call.
pub(crate) unsafe fn fill<T: Versioned>(p: *mut T, value: &T, what: &str) -> Result<(), Failure> {
    // SAFETY: the caller's promise. For the checks: an output's other contents do not matter.
    let size = unsafe {
        check(p, what)?;
        p.cast::<u32>().read() as usize
    };
    if !(T::FIRST_SIZE..=4096).contains(&size) {
        return fail!(TERSA_ERR_STRUCT_SIZE, "{what}: struct_size is {size}: call the init function");
    }
    let known = size.min(size_of::<T>());
    // SAFETY: `known` bytes are there on both sides; the first four are the size, which stays.
    unsafe {
        p.cast::<u8>().add(4).copy_from_nonoverlapping((&raw const *value).cast::<u8>().add(4), known - 4)
    };
    Ok(())
}

/// Sets a struct of the caller to its defaults.
///
/// # Safety
/// `p` is NULL or points to `size` bytes that nobody else uses during the call.
pub(crate) unsafe fn init<T: Versioned>(p: *mut T, size: usize, what: &str) -> Result<(), Failure> {
    check(p, what)?;
    if !(T::FIRST_SIZE..=4096).contains(&size) {
        return fail!(TERSA_ERR_STRUCT_SIZE, "{what}: {size} is not its size, pass sizeof");
    }
    let value = T::defaults();
    let known = size.min(size_of::<T>());
    let stored = u32::try_from(size).expect("at most 4096");
    // SAFETY: `size` bytes are there.
    unsafe {
        p.cast::<u8>().write_bytes(0, size);
        p.cast::<u8>().copy_from_nonoverlapping((&raw const value).cast(), known);
        p.cast::<u32>().write(stored);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tersa_status as S;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Now {
        struct_size: u32,
        old: u32,
        new: u64,
    }
    // SAFETY: integers only.
    unsafe impl Versioned for Now {
        const FIRST_SIZE: usize = 8;
        fn defaults() -> Self {
            Self { struct_size: 16, old: 1, new: 2 }
        }
    }

    #[test]
    fn a_shorter_struct_gets_defaults_and_a_longer_one_must_be_zero_beyond() {
        let mut bytes = [0u64; 4];
        let p = bytes.as_mut_ptr().cast::<Now>();
        let status = |r: Result<Now, Failure>| r.map_err(|f| f.status);
        // SAFETY: the sizes are within `bytes`.
        unsafe {
            assert!(init(p, 8, "now").is_ok());
            assert_eq!(bytes, [8 | 1 << 32, 0, 0, 0]);
            assert_eq!(status(take(p, "now")), Ok(Now { struct_size: 8, old: 1, new: 2 }));
            assert!(init(p, 24, "now").is_ok());
            assert_eq!(status(take(p, "now")), Ok(Now { struct_size: 24, old: 1, new: 2 }));
            p.cast::<u64>().add(2).write(1);
            assert_eq!(status(take(p, "now")), Err(S::TERSA_ERR_STRUCT_SIZE));
            p.cast::<u32>().write(4);
            assert_eq!(status(take(p, "now")), Err(S::TERSA_ERR_STRUCT_SIZE));
        }
        let mut bytes = [8u64, 7, 7, 7];
        let p = bytes.as_mut_ptr().cast::<Now>();
        // SAFETY: the size is within `bytes`.
        unsafe {
            assert!(fill(p, &Now { struct_size: 0, old: 5, new: 6 }, "now").is_ok());
            assert_eq!(bytes, [8 | 5 << 32, 7, 7, 7]);
        }
    }

    #[test]
    fn overlap_counts_shared_bytes_only() {
        let x = [0u8; 10];
        let at = |i: usize| x[i..].as_ptr();
        assert!(overlap(at(0), 5, at(4), 5));
        assert!(!overlap(at(0), 5, at(5), 5));
        assert!(!overlap(at(2), 0, at(0), 10));
    }
}
