//! Codec specifications: the strings that name a codec in options, files and reports.
//!
//! ```
//! use tersa_core::codec::{CodecSpec, KvSpec};
//!
//! let spec: CodecSpec = "had+lm4".parse()?;
//! assert!(spec.rotate);
//! let pair: KvSpec = "kivi4g32".parse()?;
//! assert_eq!(pair, "k=int4c32,v=int4t32".parse()?);
//! assert_eq!(pair.k.to_string(), "int4c32");
//! # Ok::<(), tersa_core::codec::SpecError>(())
//! ```

use core::fmt;
use core::str::FromStr;

use crate::num::DType;

#[cfg(test)]
mod tests;

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

/// Bits that `lm` offers, as written in messages.
const LM_BITS: &str = "2, 3, 4, 5, 6 or 8";
/// Rows of the tile that nominal rates are stated for.
const NOMINAL_ROWS: f64 = 256.0;

/// A stage's name as the user wrote it, for error messages: its first bytes, since errors own no strings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StageName {
    bytes: [u8; 22],
    len: u8,
    cut: bool,
}

impl StageName {
    fn new(name: &str) -> Self {
        let mut bytes = [0; 22];
        let mut end = name.len().min(bytes.len());
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        bytes[..end].copy_from_slice(&name.as_bytes()[..end]);
        // `end` is at most 22.
        Self { bytes, len: end.to_le_bytes()[0], cut: end < name.len() }
    }

    /// The name, without what did not fit.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Display for StageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}{}'", self.as_str(), if self.cut { "..." } else { "" })
    }
}

impl fmt::Debug for StageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a string is not a codec specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpecError {
    /// No such stage or codec.
    Unknown {
        /// What was written.
        stage: StageName,
    },
    /// The codec does not come with that many bits.
    Bits {
        /// `lm`, `int`, `pq` or `kivi`.
        codec: &'static str,
        /// What was asked for.
        bits: u16,
        /// What there is.
        allowed: &'static str,
    },
    /// Groups of this many elements are not offered.
    Group {
        /// What was asked for.
        group: u16,
    },
    /// `pq` with no sub-quantizers.
    NoSubQuantizers,
    /// `lm` without `had` before it.
    NeedsRotation,
    /// `had` before a codec that it does not apply to.
    Rotation {
        /// The codec.
        codec: StageName,
    },
    /// `mean` before something else than `had+lm`.
    Mean {
        /// The codec.
        codec: StageName,
    },
    /// `unbiased` or `ls` after something else than `lm`.
    Scale {
        /// The codec.
        codec: StageName,
    },
    /// Another stage after the last one.
    Trailing {
        /// That stage.
        stage: StageName,
    },
    /// `mean` or `had` with no codec after it, or an empty string.
    NoCodec,
    /// A pair that is not one `k=SPEC` and one `v=SPEC`.
    Pair {
        /// The part that does not belong.
        part: StageName,
    },
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { stage } => write!(
                f,
                "no codec or stage is named {stage}; there are raw, lossless, q8_0, q4_0, had+q8_0, had+q4_0, \
                 had+lm{{2,3,4,5,6,8}}, int{{2,4,8}}{{c,t}}{{32,64,128}}, pq:{{m}}x{{4,6,8}} and kivi{{2,4,8}}g{{32,64,128}}"
            ),
            Self::Bits { codec, bits, allowed } => {
                write!(f, "{codec} does not come with {bits} bits; it has {allowed}")
            }
            Self::Group { group } => write!(f, "groups of {group} are not offered; there are 32, 64 and 128"),
            Self::NoSubQuantizers => f.write_str("pq needs at least 1 sub-quantizer, as in pq:16x4"),
            Self::NeedsRotation => {
                f.write_str("lm grids fit rotated rows only: write had before lm, as in had+lm4")
            }
            Self::Rotation { codec } => {
                write!(f, "had does not apply to {codec}; it goes before q8_0, q4_0 and lm")
            }
            Self::Mean { codec } => {
                write!(f, "mean does not apply to {codec}; it goes before had+lm only, as in mean+had+lm3")
            }
            Self::Scale { codec } => {
                write!(f, "unbiased and ls do not apply to {codec}; they go after had+lm only")
            }
            Self::Trailing { stage } => {
                write!(f, "{stage} cannot follow there; the order is mean+had+codec, then unbiased or ls")
            }
            Self::NoCodec => f.write_str("a codec is missing; stages end with one, as in had+lm4"),
            Self::Pair { part } => {
                write!(f, "{part} does not fit; a pair is one k=SPEC and one v=SPEC, joined by a comma")
            }
        }
    }
}

impl core::error::Error for SpecError {}

/// A number without sign, leading zeros or anything else, so that every spec has one spelling.
fn number(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok() } else { None }
}

/// `bits` as stored, if it is one of `allowed`.
fn checked_bits(codec: &'static str, bits: u16, allowed: &'static str, list: &[u8]) -> Result<u8, SpecError> {
    list.iter().copied().find(|b| u16::from(*b) == bits).ok_or(SpecError::Bits { codec, bits, allowed })
}

fn checked_group(group: u16) -> Result<u16, SpecError> {
    if matches!(group, 32 | 64 | 128) { Ok(group) } else { Err(SpecError::Group { group }) }
}

const INT_BITS: (&str, &[u8]) = ("2, 4 or 8", &[2, 4, 8]);

impl Quantizer {
    fn parse(stage: &str) -> Result<Self, SpecError> {
        let unknown = || SpecError::Unknown { stage: StageName::new(stage) };
        match stage {
            "raw" => return Ok(Self::Raw),
            "lossless" => return Ok(Self::Lossless),
            "q8_0" => return Ok(Self::Q8_0),
            "q4_0" => return Ok(Self::Q4_0),
            _ => {}
        }
        if let Some(rest) = stage.strip_prefix("lm") {
            let bits = number(rest).ok_or_else(unknown)?;
            let bits = checked_bits("lm", bits, LM_BITS, &[2, 3, 4, 5, 6, 8])?;
            return Ok(Self::LloydMax { bits, scale: ScaleRule::Norm });
        }
        if let Some(rest) = stage.strip_prefix("int") {
            let (bits, axis, group) = match (rest.split_once('c'), rest.split_once('t')) {
                (Some((bits, group)), None) => (bits, GroupAxis::Channel, group),
                (None, Some((bits, group))) => (bits, GroupAxis::Token, group),
                _ => return Err(unknown()),
            };
            let (bits, group) = (number(bits).ok_or_else(unknown)?, number(group).ok_or_else(unknown)?);
            let bits = checked_bits("int", bits, INT_BITS.0, INT_BITS.1)?;
            return Ok(Self::Int { bits, axis, group: checked_group(group)? });
        }
        if let Some((m, nbits)) = stage.strip_prefix("pq:").and_then(|rest| rest.split_once('x')) {
            let (m, nbits) = (number(m).ok_or_else(unknown)?, number(nbits).ok_or_else(unknown)?);
            if m == 0 {
                return Err(SpecError::NoSubQuantizers);
            }
            return Ok(Self::Pq { m, nbits: checked_bits("pq", nbits, "4, 6 or 8", &[4, 6, 8])? });
        }
        Err(unknown())
    }
}

impl fmt::Display for Quantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Raw => f.write_str("raw"),
            Self::Lossless => f.write_str("lossless"),
            Self::Q8_0 => f.write_str("q8_0"),
            Self::Q4_0 => f.write_str("q4_0"),
            Self::LloydMax { bits, scale } => {
                let suffix = match scale {
                    ScaleRule::Norm => "",
                    ScaleRule::Unbiased => "+unbiased",
                    ScaleRule::LeastSquares => "+ls",
                };
                write!(f, "lm{bits}{suffix}")
            }
            Self::Int { bits, axis, group } => {
                let axis = match axis {
                    GroupAxis::Channel => 'c',
                    GroupAxis::Token => 't',
                };
                write!(f, "int{bits}{axis}{group}")
            }
            Self::Pq { m, nbits } => write!(f, "pq:{m}x{nbits}"),
        }
    }
}

impl CodecSpec {
    /// The source's own bytes, `raw`.
    pub const RAW: Self = Self::plain(Quantizer::Raw);
    /// Byte planes through a general-purpose coder, `lossless`.
    pub const LOSSLESS: Self = Self::plain(Quantizer::Lossless);

    const fn plain(quantizer: Quantizer) -> Self {
        Self { mean: false, rotate: false, quantizer }
    }

    const fn rotated(quantizer: Quantizer) -> Self {
        Self { mean: false, rotate: true, quantizer }
    }

    pub(super) const fn lm(mean: bool, bits: u8, scale: ScaleRule) -> Self {
        Self { mean, rotate: true, quantizer: Quantizer::LloydMax { bits, scale } }
    }

    const fn int(bits: u8, axis: GroupAxis, group: u16) -> Self {
        Self::plain(Quantizer::Int { bits, axis, group })
    }

    /// Whether every bit pattern comes back.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        matches!(self.quantizer, Quantizer::Raw | Quantizer::Lossless)
    }

    /// Whether the linear stages are ones that the quantizer goes with; true for whatever parses.
    #[must_use]
    pub const fn stages_fit(&self) -> bool {
        match self.quantizer {
            Quantizer::LloydMax { .. } => self.rotate,
            Quantizer::Q8_0 | Quantizer::Q4_0 => !self.mean,
            _ => !self.mean && !self.rotate,
        }
    }

    /// Nominal bits of one value in full tiles of 256 rows, side tables not counted. `lossless` counts as `raw`,
    /// since what it saves depends on the data.
    #[must_use]
    pub fn bits_per_value(&self, head_dim: usize, dtype: DType) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "head dimensions and group counts are far below 2^53")]
        let f = |n: usize| n as f64;
        let d = f(head_dim.max(1));
        let mean = if self.mean { 16.0 / NOMINAL_ROWS } else { 0.0 };
        mean + match self.quantizer {
            Quantizer::Raw | Quantizer::Lossless => f(dtype.block_bytes()) * 8.0 / f(dtype.block_len()),
            Quantizer::Q8_0 => 8.5,
            Quantizer::Q4_0 => 4.5,
            Quantizer::LloydMax { bits, .. } => f64::from(bits) + 16.0 / d,
            Quantizer::Int { bits, axis, group } => {
                let pair = match axis {
                    GroupAxis::Channel => 32.0 / f64::from(group),
                    GroupAxis::Token => 32.0 * f(head_dim.div_ceil(usize::from(group))) / d,
                };
                f64::from(bits) + pair
            }
            Quantizer::Pq { m, nbits } => f64::from(m) * f64::from(nbits) / d,
        }
    }

    /// Representative specs of every family, from exact to small: what `bench` shows and the tests run.
    #[must_use]
    pub const fn catalog() -> &'static [Self] {
        use GroupAxis::{Channel, Token};
        use ScaleRule::{LeastSquares, Norm, Unbiased};
        const CATALOG: &[CodecSpec] = &[
            CodecSpec::RAW,
            CodecSpec::LOSSLESS,
            CodecSpec::plain(Quantizer::Q8_0),
            CodecSpec::rotated(Quantizer::Q8_0),
            CodecSpec::int(8, Channel, 64),
            CodecSpec::int(8, Token, 64),
            CodecSpec::lm(false, 8, Norm),
            CodecSpec::lm(false, 6, Norm),
            CodecSpec::lm(false, 5, Norm),
            CodecSpec::int(4, Channel, 32),
            CodecSpec::int(4, Token, 32),
            CodecSpec::int(4, Channel, 64),
            CodecSpec::plain(Quantizer::Q4_0),
            CodecSpec::rotated(Quantizer::Q4_0),
            CodecSpec::lm(false, 4, Norm),
            CodecSpec::lm(false, 4, LeastSquares),
            CodecSpec::lm(true, 4, Norm),
            CodecSpec::plain(Quantizer::Pq { m: 32, nbits: 8 }),
            CodecSpec::lm(false, 3, Norm),
            CodecSpec::lm(false, 3, Unbiased),
            CodecSpec::lm(true, 3, LeastSquares),
            CodecSpec::int(2, Channel, 32),
            CodecSpec::int(2, Token, 32),
            CodecSpec::lm(false, 2, Norm),
            CodecSpec::lm(true, 2, LeastSquares),
            CodecSpec::plain(Quantizer::Pq { m: 16, nbits: 8 }),
            CodecSpec::plain(Quantizer::Pq { m: 16, nbits: 6 }),
            CodecSpec::plain(Quantizer::Pq { m: 16, nbits: 4 }),
        ];
        CATALOG
    }
}

impl fmt::Display for CodecSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mean, rotate) = (if self.mean { "mean+" } else { "" }, if self.rotate { "had+" } else { "" });
        write!(f, "{mean}{rotate}{}", self.quantizer)
    }
}

impl FromStr for CodecSpec {
    type Err = SpecError;

    fn from_str(s: &str) -> Result<Self, SpecError> {
        let mut stages = s.split('+').peekable();
        let mean = stages.next_if_eq(&"mean").is_some();
        let rotate = stages.next_if_eq(&"had").is_some();
        let codec = stages.next().filter(|c| !c.is_empty()).ok_or(SpecError::NoCodec)?;
        if matches!(codec, "mean" | "had" | "unbiased" | "ls") {
            return Err(SpecError::Trailing { stage: StageName::new(codec) });
        }
        let mut quantizer = Quantizer::parse(codec)?;
        let name = StageName::new(codec);
        let scale = match stages.peek() {
            Some(&"unbiased") => Some(ScaleRule::Unbiased),
            Some(&"ls") => Some(ScaleRule::LeastSquares),
            _ => None,
        };
        if let Some(wanted) = scale {
            let Quantizer::LloydMax { scale, .. } = &mut quantizer else {
                return Err(SpecError::Scale { codec: name });
            };
            *scale = wanted;
            stages.next();
        }
        if let Some(stage) = stages.next() {
            return Err(SpecError::Trailing { stage: StageName::new(stage) });
        }
        let spec = Self { mean, rotate, quantizer };
        match quantizer {
            _ if spec.stages_fit() => Ok(spec),
            Quantizer::LloydMax { .. } => Err(SpecError::NeedsRotation),
            _ if mean => Err(SpecError::Mean { codec: name }),
            _ => Err(SpecError::Rotation { codec: name }),
        }
    }
}

impl KvSpec {
    /// The same codec for keys and values.
    #[must_use]
    pub const fn both(spec: CodecSpec) -> Self {
        Self { k: spec, v: spec }
    }

    /// Whether every bit pattern of keys and values comes back.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        self.k.is_exact() && self.v.is_exact()
    }

    /// `kivi{bits}g{group}`: keys by channel, values by token.
    ///
    /// # Errors
    /// [`SpecError`] if `bits` is not 2, 4 or 8 or `group` not 32, 64 or 128.
    pub fn kivi(bits: u16, group: u16) -> Result<Self, SpecError> {
        let bits = checked_bits("kivi", bits, INT_BITS.0, INT_BITS.1)?;
        let group = checked_group(group)?;
        Ok(Self {
            k: CodecSpec::int(bits, GroupAxis::Channel, group),
            v: CodecSpec::int(bits, GroupAxis::Token, group),
        })
    }
}

impl fmt::Display for KvSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.k == self.v { write!(f, "{}", self.k) } else { write!(f, "k={},v={}", self.k, self.v) }
    }
}

impl FromStr for KvSpec {
    type Err = SpecError;

    fn from_str(s: &str) -> Result<Self, SpecError> {
        if let Some((bits, group)) = s.strip_prefix("kivi").and_then(|rest| rest.split_once('g')) {
            let unknown = SpecError::Unknown { stage: StageName::new(s) };
            return Self::kivi(number(bits).ok_or(unknown)?, number(group).ok_or(unknown)?);
        }
        if !s.contains(['=', ',']) {
            return s.parse().map(Self::both);
        }
        let (mut k, mut v) = (None, None);
        for part in s.split(',') {
            let misfit = SpecError::Pair { part: StageName::new(part) };
            let (slot, spec) = match part.split_once('=') {
                Some(("k", spec)) => (&mut k, spec),
                Some(("v", spec)) => (&mut v, spec),
                _ => return Err(misfit),
            };
            if slot.replace(spec.parse()?).is_some() {
                return Err(misfit);
            }
        }
        match (k, v) {
            (Some(k), Some(v)) => Ok(Self { k, v }),
            _ => Err(SpecError::Pair { part: StageName::new(s) }),
        }
    }
}
