//! zstd behind core's `ByteCoder`: the command line's coder once more, as docs/architecture.md explains. The level must stay the same
//! there and here, so that equal caches give equal bytes.

use tersa_core::codec::ByteCoder;
use zstd::bulk::{Compressor, Decompressor};

/// Byte planes gain nothing from higher levels: their matches are few and short, the entropy stage does the work.
const LEVEL: i32 = 1;

/// zstd at level 1 with contexts that live as long as the coder: one for each thread.
pub(crate) struct ZstdCoder {
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
}

impl ZstdCoder {
    /// Makes the contexts. Frames carry neither checksum nor content size: the container has both.
    ///
    /// # Panics
    /// If memory is short.
    #[must_use]
    pub(crate) fn new() -> Self {
        let mut compressor = Compressor::new(LEVEL).expect("memory for a compression context");
        compressor.include_checksum(false).expect("a fresh context takes every option");
        compressor.include_contentsize(false).expect("a fresh context takes every option");
        let decompressor = Decompressor::new().expect("memory for a decompression context");
        Self { compressor, decompressor }
    }
}

impl Default for ZstdCoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ByteCoder for ZstdCoder {
    fn bound(&self, len: usize) -> usize {
        zstd::zstd_safe::compress_bound(len)
    }

    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Option<usize> {
        // The one failure with these parameters is a destination that is too small.
        self.compressor.compress_to_buffer(src, dst).ok()
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> bool {
        // Decodes into `dst` alone, so a frame that claims more allocates nothing and fails.
        self.decompressor.decompress_to_buffer(src, dst).is_ok_and(|n| n == dst.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_from_reused_contexts() {
        let mut coder = ZstdCoder::new();
        for len in [0, 1, 1000, 100_000] {
            let src: Vec<u8> = (0..len).map(|i: u32| (i % 251 / 7).to_le_bytes()[0]).collect();
            let mut code = vec![0; coder.bound(src.len())];
            let n = coder.compress(&src, &mut code).unwrap();
            let mut back = vec![0; src.len()];
            assert!(coder.decompress(&code[..n], &mut back));
            assert_eq!(back, src);
        }
    }

    #[test]
    fn wrong_sizes_and_damage_are_refused() {
        let mut coder = ZstdCoder::new();
        let src: Vec<u8> = (0..4096_u32).map(|i| ((i * i) >> 5).to_le_bytes()[0] & 31).collect();
        assert_eq!(coder.compress(&src, &mut [0; 16]), None);
        let mut code = vec![0; coder.bound(src.len())];
        let n = coder.compress(&src, &mut code).unwrap();
        assert!(!coder.decompress(&code[..n], &mut vec![0; src.len() - 1]), "too little room");
        assert!(!coder.decompress(&code[..n], &mut vec![0; src.len() + 1]), "too much room");
        assert!(!coder.decompress(&code[..n - 1], &mut vec![0; src.len()]), "truncated");
        assert!(!coder.decompress(b"not a frame", &mut [0; 4]));
    }
}
