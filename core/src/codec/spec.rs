//! Codec specifications: the strings that name a codec in options, files and reports.

use core::fmt;

/// One codec: optional linear stages, then a quantizer. Written as stages joined by `+`:
/// `raw`, `lossless`, `q8_0`, `had+q4_0`, `had+lm4`, `mean+had+lm3+unbiased`, `int4c64`, `int2t32`, `pq:16x4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodecSpec {
    /// Subtract each channel's mean over the tile first (`mean`).
    pub mean: bool,
    /// Rotate by random signs and a Walsh–Hadamard transform (`had`).
    pub rotate: bool,
    /// What becomes of the numbers.
    pub quantizer: Quantizer,
}

/// The quantizing stage of a [`CodecSpec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Quantizer {
    /// The source's own bytes.
    Raw,
    /// Byte planes through a general-purpose coder; exact for every bit pattern.
    Lossless,
    /// llama.cpp's 8-bit blocks of 32.
    Q8_0,
    /// llama.cpp's 4-bit blocks of 32.
    Q4_0,
    /// A Lloyd–Max grid of the unit normal with one scale for each row (`lm2`..`lm8`; needs `had`).
    LloydMax {
        /// Bits of each coordinate: 2, 3, 4, 5, 6 or 8.
        bits: u8,
        /// How the row's scale is chosen.
        scale: ScaleRule,
    },
    /// Asymmetric integers with a scale and a zero point for each group (KIVI).
    Int {
        /// Bits of each element: 2, 4 or 8.
        bits: u8,
        /// Which way groups run.
        axis: GroupAxis,
        /// Elements in a group: 32, 64 or 128.
        group: u16,
    },
    /// Product quantization with a codebook for each head (`pq:{m}x{nbits}`).
    Pq {
        /// Sub-quantizers.
        m: u16,
        /// Bits of each code: 4, 6 or 8.
        nbits: u8,
    },
}

/// The scale stored with a row of a Lloyd–Max code; all rules store the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleRule {
    /// The row's norm.
    Norm,
    /// The scale that makes `<x, decoded x> = |x|^2`, so that scores are unbiased (`+unbiased`).
    Unbiased,
    /// The scale with the least squared error (`+ls`).
    LeastSquares,
}

/// Which elements share a group in [`Quantizer::Int`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupAxis {
    /// Consecutive tokens of one channel (`c`, KIVI's choice for keys).
    Channel,
    /// Consecutive channels of one token (`t`, KIVI's choice for values).
    Token,
}

/// A codec for keys and one for values: `had+lm4`, or `k=had+lm4,v=had+lm3`; `kivi4g32` stands for
/// `k=int4c32,v=int4t32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvSpec {
    /// For keys.
    pub k: CodecSpec,
    /// For values.
    pub v: CodecSpec,
}

/// Why a string is not a codec specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpecError {
    /// No such stage or codec.
    Unknown,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such codec")
    }
}

impl core::error::Error for SpecError {}
