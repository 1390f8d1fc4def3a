//! Ids that a sketch takes.

use crate::cpu::Level;
use crate::kernels::sketch::{self as kernels, BLOCK};

/// `u32` or `u64`.
///
/// A slot holds 32 bits. They are the whole of a `u32`; of a `u64` they are a fingerprint beside the bucket that its other 32
/// mixed bits choose, so that two ids pass for one with a probability of 2^-32 for each slot of a bucket. The ids that own rows
/// are then kept in full (8 bytes a row), since events name them.
pub trait Id: Copy + Eq + core::fmt::Debug + private::Sealed {}

impl Id for u32 {}
impl Id for u64 {}

pub(crate) mod private {
    use super::{BLOCK, Level};

    pub trait Sealed: Sized {
        /// Whether the key of a slot is the id.
        const KEY_IS_ID: bool;
        /// Bytes of an id in a file.
        const BYTES: usize;
        fn from_key(key: u32) -> Self;
        fn widen(self) -> u64;
        fn narrow(x: u64) -> Self;
        fn place(self, seed: u64, n: u32) -> (u32, u32);
        fn place_block(
            level: Level,
            ids: &[Self],
            seed: u64,
            n: u32,
            buckets: &mut [u32; BLOCK],
            keys: &mut [u32; BLOCK],
        );
    }
}

impl private::Sealed for u32 {
    const KEY_IS_ID: bool = true;
    const BYTES: usize = 4;
    fn from_key(key: u32) -> Self {
        key
    }
    fn widen(self) -> u64 {
        u64::from(self)
    }
    #[allow(clippy::cast_possible_truncation, reason = "what `widen` widened")]
    fn narrow(x: u64) -> Self {
        x as Self
    }
    fn place(self, seed: u64, n: u32) -> (u32, u32) {
        kernels::place_u32(self, seed, n)
    }
    fn place_block(
        level: Level,
        ids: &[Self],
        seed: u64,
        n: u32,
        buckets: &mut [u32; BLOCK],
        keys: &mut [u32; BLOCK],
    ) {
        kernels::place_block_u32(level, ids, seed, n, buckets, keys);
    }
}

impl private::Sealed for u64 {
    const KEY_IS_ID: bool = false;
    const BYTES: usize = 8;
    fn from_key(key: u32) -> Self {
        Self::from(key)
    }
    fn widen(self) -> u64 {
        self
    }
    fn narrow(x: u64) -> Self {
        x
    }
    fn place(self, seed: u64, n: u32) -> (u32, u32) {
        kernels::place_u64(self, seed, n)
    }
    fn place_block(
        level: Level,
        ids: &[Self],
        seed: u64,
        n: u32,
        buckets: &mut [u32; BLOCK],
        keys: &mut [u32; BLOCK],
    ) {
        kernels::place_block_u64(level, ids, seed, n, buckets, keys);
    }
}
