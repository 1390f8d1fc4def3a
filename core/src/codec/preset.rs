//! Named choices of codecs.
//!
//! Chosen by measurement with `tersa bench` on SmolLM2-135M (f16, head_dim 64, the first 4 tokens exact): eight layers at
//! 8192 tokens, and in brackets the four layers of the shipped dump at 1024 tokens. K and V errors are Frobenius norms
//! relative to the source's. The output error is the one of `tersa bench` and `tersa eval`: the mean, over the last 64
//! queries and all heads, of the relative L2 error of the head's attention output. With a least-squares scale for each
//! row and bits for K and V of
//!
//! | K | V | ratio | K error | V error | output error | |
//! |---|---|---|---|---|---|---|
//! | mean, 5 | 4 | 3.34 (3.31) | 0.030 (0.028) | 0.094 (0.093) | 0.053 (0.064) | |
//! | mean, 4 | 4 | 3.73 (3.69) | 0.058 (0.055) | 0.094 (0.093) | 0.073 (0.089) | `safe` |
//! | 4 | 4 | 3.76 (3.72) | 0.093 (0.092) | 0.094 (0.093) | 0.100 (0.137) | |
//! | mean, 5 | 3 | 3.73 (3.69) | 0.030 (0.028) | 0.179 (0.179) | 0.096 (0.110) | |
//! | mean, 4 | 3 | 4.22 (4.17) | 0.058 (0.055) | 0.179 (0.179) | 0.110 (0.129) | |
//! | mean, 3 | 3 | 4.86 (4.80) | 0.112 (0.106) | 0.179 (0.179) | 0.148 (0.181) | `balanced` |
//! | mean, 4 | 2 | 4.86 (4.80) | 0.058 (0.055) | 0.333 (0.333) | 0.208 (0.228) | |
//! | mean, 3 | 2 | 5.73 (5.64) | 0.112 (0.106) | 0.333 (0.333) | 0.235 (0.262) | |
//! | mean, 2 | 3 | 5.73 (5.64) | 0.209 (0.198) | 0.179 (0.179) | 0.260 (0.304) | |
//! | mean, 2 | 2 | 6.98 (6.84) | 0.209 (0.198) | 0.333 (0.333) | 0.318 (0.357) | `small` |
//! | 2 | 2 | 7.08 (6.93) | 0.328 (0.323) | 0.333 (0.333) | 0.432 (0.462) | |
//!
//! Subtracting the mean of keys, whose channels have large ones, costs about 1 % of the size and saves a quarter to a third
//! of the output error; values have small means and keep theirs. Equal bits beat unequal ones at equal size.
//!
//! `balanced` stays below 5 times on purpose: the next step, values at 2 bits for 5.7 times, takes 15 % off the size and
//! adds 45 to 58 % to the output error, half the way to `small`. Who wants 5.7 times says `k=mean+had+lm3+ls,v=had+lm2+ls`,
//! and who wants any other number says `--ratio`, which chooses layer by layer.
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
