//! Which vector instructions this processor offers, decided once.
//!
//! Detection uses `CPUID` and `XGETBV` directly because `is_x86_feature_detected!` is not in `core`, and checks
//! that the operating system saves the wide registers before it believes a feature bit.
#![allow(unsafe_code, reason = "reading XCR0 is an intrinsic")]

use core::sync::atomic::{AtomicU8, Ordering};

/// A set of instructions that kernels are written for, in rising order.
///
/// Naming a level proves nothing about this machine. Kernels, which are private, are handed only levels that [`level`]
/// or [`levels`] returned, and those never exceed what detection saw; that is what makes calling them sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum Level {
    /// Portable code.
    Scalar = 1,
    /// AVX2, FMA, F16C, BMI1, BMI2 and POPCNT.
    Avx2 = 2,
    /// AVX-512 F, BW, CD, DQ, VL, VNNI, VBMI, VBMI2, BITALG and VPOPCNTDQ together (Ice-Lake class).
    Avx512 = 3,
}

impl Level {
    /// The name used by `TERSA_CPU` and in reports: `scalar`, `avx2` or `avx512`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// The level with this name, if it is a level at all; says nothing about this machine.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Scalar, Self::Avx2, Self::Avx512].into_iter().find(|l| l.name() == name)
    }
}

impl core::fmt::Display for Level {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// 0 until the first call, then a `Level` as a byte.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

/// The level that kernels run at: the highest this machine offers, or what [`lower_to`] set.
///
/// Costs one relaxed load after the first call.
#[must_use]
pub fn level() -> Level {
    match CHOSEN.load(Ordering::Relaxed) {
        0 => {
            let found = detect();
            CHOSEN.store(found as u8, Ordering::Relaxed);
            found
        }
        1 => Level::Scalar,
        2 => Level::Avx2,
        _ => Level::Avx512,
    }
}

/// Lowers the level for the whole process and returns the level now in force, which is never above what the
/// machine offers. Meant for tests, measurements and the `TERSA_CPU` variable of the command line.
pub fn lower_to(wanted: Level) -> Level {
    let now = wanted.min(detect());
    CHOSEN.store(now as u8, Ordering::Relaxed);
    now
}

/// Every level this machine offers, lowest first: what a test runs a kernel at.
pub fn levels() -> impl Iterator<Item = Level> {
    let top = detect();
    [Level::Scalar, Level::Avx2, Level::Avx512].into_iter().filter(move |l| *l <= top)
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
fn detect() -> Level {
    use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    let bit = |register: u32, n: u32| register >> n & 1 == 1;
    if __cpuid(0).eax < 7 {
        return Level::Scalar;
    }
    let leaf1 = __cpuid(1);
    let leaf7 = __cpuid_count(7, 0);
    let os_saves = bit(leaf1.ecx, 27); // OSXSAVE: XGETBV may be executed
    if !os_saves {
        return Level::Scalar;
    }
    #[target_feature(enable = "xsave")]
    fn read_xcr0() -> u64 {
        // SAFETY: register 0 exists wherever XGETBV does, and the caller saw OSXSAVE.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: OSXSAVE was seen above, which implies XSAVE.
    let xcr0 = unsafe { read_xcr0() };
    let ymm = xcr0 & 0x6 == 0x6;
    let zmm = xcr0 & 0xe6 == 0xe6;
    let avx2 = ymm
        && bit(leaf1.ecx, 12) // FMA
        && bit(leaf1.ecx, 23) // POPCNT
        && bit(leaf1.ecx, 28) // AVX
        && bit(leaf1.ecx, 29) // F16C
        && bit(leaf7.ebx, 3) // BMI1
        && bit(leaf7.ebx, 5) // AVX2
        && bit(leaf7.ebx, 8); // BMI2
    // F, DQ, CD, BW, VL of EBX; VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ of ECX
    let ebx = [16, 17, 28, 30, 31].into_iter().all(|n| bit(leaf7.ebx, n));
    let ecx = [1, 6, 11, 12, 14].into_iter().all(|n| bit(leaf7.ecx, n));
    match (avx2, zmm && ebx && ecx) {
        (true, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        _ => Level::Scalar,
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn detect() -> Level {
    Level::Scalar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for l in [Level::Scalar, Level::Avx2, Level::Avx512] {
            assert_eq!(Level::from_name(l.name()), Some(l));
        }
        assert_eq!(Level::from_name("sse2"), None);
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn detection_agrees_with_std() {
        let has_avx2 = std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("fma")
            && std::is_x86_feature_detected!("f16c")
            && std::is_x86_feature_detected!("bmi1")
            && std::is_x86_feature_detected!("bmi2")
            && std::is_x86_feature_detected!("popcnt");
        let has_avx512 = has_avx2
            && std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512cd")
            && std::is_x86_feature_detected!("avx512dq")
            && std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("avx512vnni")
            && std::is_x86_feature_detected!("avx512vbmi")
            && std::is_x86_feature_detected!("avx512vbmi2")
            && std::is_x86_feature_detected!("avx512bitalg")
            && std::is_x86_feature_detected!("avx512vpopcntdq");
        assert_eq!(detect() >= Level::Avx2, has_avx2);
        assert_eq!(detect() == Level::Avx512, has_avx512);
    }

    /// CI sets `TERSA_TEST_MIN_LEVEL` so that a machine without the level fails instead of skipping it.
    #[test]
    fn machine_offers_the_level_that_ci_demands() {
        if let Some(want) = std::env::var("TERSA_TEST_MIN_LEVEL").ok().filter(|v| !v.is_empty()) {
            let want = Level::from_name(&want).expect("TERSA_TEST_MIN_LEVEL is scalar, avx2 or avx512");
            assert!(detect() >= want, "this machine offers {}, the run demands {want}", detect());
        }
    }
}
