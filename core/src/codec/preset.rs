//! Named choices of codecs.
//!
//! Chosen by measurement on SmolLM2-135M (layers 1, 6, 16 and 26, 1024 tokens, f16, head_dim 64, the first 4 tokens
//! exact): errors are Frobenius norms relative to the source's, and those of the attention output for the last 64
//! queries. With a least-squares scale for each row and bits for K and V of
//!
//! | K | V | ratio | K error | V error | output error | |
//! |---|---|---|---|---|---|---|
//! | mean, 5 | 4 | 3.35 | 0.028 | 0.094 | 0.084 | |
//! | mean, 4 | 4 | 3.74 | 0.055 | 0.094 | 0.117 | `safe` |
//! | 4 | 4 | 3.76 | 0.092 | 0.094 | 0.177 | |
//! | mean, 5 | 3 | 3.74 | 0.028 | 0.179 | 0.137 | |
//! | mean, 4 | 3 | 4.23 | 0.055 | 0.179 | 0.158 | |
//! | mean, 3 | 3 | 4.88 | 0.106 | 0.179 | 0.230 | `balanced` |
//! | mean, 4 | 2 | 4.88 | 0.055 | 0.335 | 0.266 | |
//! | mean, 3 | 2 | 5.76 | 0.106 | 0.335 | 0.310 | |
//! | mean, 2 | 3 | 5.76 | 0.197 | 0.179 | 0.385 | |
//! | mean, 2 | 2 | 7.02 | 0.197 | 0.335 | 0.435 | `small` |
//! | 2 | 2 | 7.11 | 0.323 | 0.335 | 0.557 | |
//!
//! Subtracting the mean of keys, whose channels have large ones, costs 1.5 % of the size and saves a fifth to a third of
//! the output error; values have small means and keep theirs. Equal bits beat unequal ones at equal size.
//! Product quantization has less error at 2 bits, but its codebook is as large as a few thousand tokens' codes.

use core::fmt;

use super::spec::{CodecSpec, KvSpec, ScaleRule};

/// A codec pair by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Preset {
    /// 3.7 times smaller than f16: `k=mean+had+lm4+ls,v=had+lm4+ls`.
    Safe,
    /// 4.9 times smaller than f16: `k=mean+had+lm3+ls,v=had+lm3+ls`.
    Balanced,
    /// 7.0 times smaller than f16: `k=mean+had+lm2+ls,v=had+lm2+ls`.
    Small,
    /// Every bit pattern comes back: `lossless`, 1.18 times smaller on these.
    Lossless,
}

impl Preset {
    /// Every preset, from least to most error; the exact one comes last.
    pub const ALL: [Self; 4] = [Self::Safe, Self::Balanced, Self::Small, Self::Lossless];

    /// Lower case, as in options.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Balanced => "balanced",
            Self::Small => "small",
            Self::Lossless => "lossless",
        }
    }

    /// The preset with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }

    /// The codecs it stands for.
    #[must_use]
    pub const fn spec(self) -> KvSpec {
        const fn lm(mean: bool, bits: u8) -> CodecSpec {
            CodecSpec::lm(mean, bits, ScaleRule::LeastSquares)
        }
        match self {
            Self::Safe => KvSpec { k: lm(true, 4), v: lm(false, 4) },
            Self::Balanced => KvSpec { k: lm(true, 3), v: lm(false, 3) },
            Self::Small => KvSpec { k: lm(true, 2), v: lm(false, 2) },
            Self::Lossless => KvSpec::both(CodecSpec::LOSSLESS),
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn presets_stand_for_specs_that_parse() {
        for preset in Preset::ALL {
            assert_eq!(Preset::from_name(preset.name()), Some(preset));
            assert_eq!(preset.spec().to_string().parse(), Ok(preset.spec()));
        }
        assert_eq!(Preset::from_name("tiny"), None);
        assert!(Preset::Lossless.spec().is_exact());
        assert_eq!(Preset::Safe.spec().to_string(), "k=mean+had+lm4+ls,v=had+lm4+ls");
    }
}
