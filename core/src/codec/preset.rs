//! Named choices of codecs.

use core::fmt;

use super::spec::{CodecSpec, KvSpec, ScaleRule};

/// A codec pair by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Preset {
    /// About a quarter of f16.
    Safe,
    /// About a fifth of f16.
    Balanced,
    /// About a seventh of f16.
    Small,
    /// Every bit pattern comes back.
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
