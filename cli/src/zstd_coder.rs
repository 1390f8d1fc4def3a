//! The general-purpose coder behind `lossless`: Zstandard.

use tersa_core::codec::ByteCoder;

/// A Zstandard context for one thread.
pub struct ZstdCoder {
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl ZstdCoder {
    /// Makes the contexts.
    pub fn new() -> Self {
        Self {
            compressor: zstd::bulk::Compressor::new(1).expect("memory for a context"),
            decompressor: zstd::bulk::Decompressor::new().expect("memory for a context"),
        }
    }
}

impl ByteCoder for ZstdCoder {
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
