//! What this library is and what it runs on.

use std::ffi::c_char;
use std::sync::Once;

use tersa_core::cpu::{self, Level};

use crate::borrow;
use crate::status::{fail, guard, tersa_error, tersa_status};

/// Number of the ABI, also the number in the soname. While it is 0, every release may change it.
pub const TERSA_ABI_VERSION: u32 = 0;
/// First number of the version.
pub const TERSA_VERSION_MAJOR: u32 = 0;
/// Second number of the version.
pub const TERSA_VERSION_MINOR: u32 = 1;
/// Third number of the version.
pub const TERSA_VERSION_PATCH: u32 = 0;
/// The version as one number: major * 1000000 + minor * 1000 + patch.
pub const TERSA_VERSION_NUMBER: u32 = 1000;

/// Portable code.
pub const TERSA_CPU_SCALAR: u32 = 1;
/// AVX2, FMA, F16C, BMI1 and BMI2.
pub const TERSA_CPU_AVX2: u32 = 2;
/// AVX-512 of the Ice Lake class.
pub const TERSA_CPU_AVX512: u32 = 3;

/// `TERSA_ABI_VERSION` of the library that is loaded. A program should compare it with its header's.
#[unsafe(no_mangle)]
pub extern "C" fn tersa_abi_version() -> u32 {
    TERSA_ABI_VERSION
}

/// The version of the library that is loaded, as in `"0.1.0"`; never to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn tersa_version() -> *const c_char {
    const TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    TEXT.as_ptr().cast()
}

/// The version of the library that is loaded as one number, see `TERSA_VERSION_NUMBER`.
#[unsafe(no_mangle)]
pub extern "C" fn tersa_version_number() -> u32 {
    TERSA_VERSION_NUMBER
}

/// The vector instructions in use: one of `TERSA_CPU_*`. The environment variable `TERSA_CPU` (`scalar`, `avx2`,
/// `avx512`) lowers them; it is looked at once.
#[unsafe(no_mangle)]
pub extern "C" fn tersa_cpu_level() -> u32 {
    obey_environment();
    number(cpu::level())
}

/// The name of the vector instructions in use: `scalar`, `avx2` or `avx512`; never to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn tersa_cpu_level_name() -> *const c_char {
    let name = match tersa_cpu_level() {
        TERSA_CPU_AVX512 => c"avx512",
        TERSA_CPU_AVX2 => c"avx2",
        _ => c"scalar",
    };
    name.as_ptr()
}

/// Lowers the vector instructions for the whole process, for tests and measurements; `*now`, unless `now` is NULL, becomes the
/// level in force, which is never above what the processor has. Results that are promised to be equal at all levels
/// stay equal.
///
/// # Safety
/// `now` and `err` are NULL or point to memory of the caller.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_cpu_lower_to(
    level: u32,
    now: *mut u32,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        obey_environment();
        let Some(wanted) =
            [Level::Scalar, Level::Avx2, Level::Avx512].into_iter().find(|l| number(*l) == level)
        else {
            return fail!(TERSA_ERR_ARGUMENT, "{level} is no CPU level");
        };
        let level = number(cpu::lower_to(wanted));
        if !now.is_null() {
            // SAFETY: the caller's promise.
            unsafe { borrow::put(now, level, "now")? };
        }
        Ok(())
    })
}

const fn number(level: Level) -> u32 {
    match level {
        Level::Avx512 => TERSA_CPU_AVX512,
        Level::Avx2 => TERSA_CPU_AVX2,
        _ => TERSA_CPU_SCALAR,
    }
}

/// Lowers the level once to what `TERSA_CPU` asks for. Whatever makes a handle calls this.
pub(crate) fn obey_environment() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Some(level) = std::env::var("TERSA_CPU").ok().and_then(|name| Level::from_name(&name)) {
            cpu::lower_to(level);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_package() {
        let parts = [TERSA_VERSION_MAJOR, TERSA_VERSION_MINOR, TERSA_VERSION_PATCH];
        assert_eq!(parts.map(|n| n.to_string()).join("."), env!("CARGO_PKG_VERSION"));
        assert_eq!(TERSA_VERSION_NUMBER, parts[0] * 1_000_000 + parts[1] * 1000 + parts[2]);
    }

    #[test]
    fn the_soname_has_the_abi_number() {
        let script = include_str!("../build.rs");
        assert!(script.contains(&format!("libtersa.so.{TERSA_ABI_VERSION}\"")));
    }
}
