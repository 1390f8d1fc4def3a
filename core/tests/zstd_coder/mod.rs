//! zstd behind the `ByteCoder` of the module that includes this one: unit tests, test programs and benches alike.

use super::ByteCoder;
use zstd::bulk::{Compressor, Decompressor};

/// Contexts that live as long as the coder.
pub(crate) struct Zstd {
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
}

impl Zstd {
    pub(crate) fn new(level: i32) -> Self {
        Self {
            compressor: Compressor::new(level).expect("memory for a context"),
            decompressor: Decompressor::new().expect("memory for a context"),
        }
    }
}

impl ByteCoder for Zstd {
    fn bound(&self, len: usize) -> usize {
        zstd::zstd_safe::compress_bound(len)
    }

    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Option<usize> {
        self.compressor.compress_to_buffer(src, dst).ok()
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> bool {
        self.decompressor.decompress_to_buffer(src, dst).is_ok_and(|n| n == dst.len())
    }
}
