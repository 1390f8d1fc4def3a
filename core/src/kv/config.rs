//! How a cache is kept: what is always attended to, how much is selected, and by which index.

use super::KvError;
use super::drift::Refresh;
use crate::pq::{Codes, PqShape};
use crate::select::{GroupRule, RerankError};

/// A number of tokens: so many, or a share.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Extent {
    /// So many.
    Tokens(usize),
    /// A share of the prompt's tokens behind the sinks, fixed once the prompt is in: PQCache's rule, under which the
    /// share of a growing context shrinks.
    OfPrompt(f64),
    /// A share of the tokens behind the sinks that there are now.
    OfContext(f64),
}

impl Extent {
    /// The number of tokens, rounded down, for `prompt` and `now` tokens behind the sinks.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "token counts are far below 2^53, and `as` saturates"
    )]
    pub fn tokens(self, prompt: usize, now: usize) -> usize {
        match self {
            Self::Tokens(n) => n,
            Self::OfPrompt(share) => (prompt as f64 * share) as usize,
            Self::OfContext(share) => (now as f64 * share) as usize,
        }
    }

    pub(super) fn check(self) -> Result<(), KvError> {
        match self {
            Self::OfPrompt(share) | Self::OfContext(share) if !(0.0..=1.0).contains(&share) => {
                Err(KvError::Share { share })
            }
            _ => Ok(()),
        }
    }
}

/// How codebooks are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Training {
    /// Lloyd's iterations, at most.
    pub iterations: u32,
    /// Keys for each centroid, at most: more are sampled evenly.
    pub sample: usize,
    /// Seed of every random choice.
    pub seed: u64,
    /// Start at distinct rows drawn at random, as the paper does, and not by k-means++.
    pub random_rows: bool,
}

/// A second level that looks again at the keys around the budget's edge: codes of what the first level's leave of each key
/// ([`RerankCodes`](crate::select::RerankCodes)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rerank {
    /// Bits of a code: 2, 3 or 4.
    pub bits: u8,
    /// The share of the keys that is looked at again, two fifths of them above the edge and the rest below; at most four
    /// times the budget.
    pub band: f64,
    /// Seed of the rotation.
    pub seed: u64,
}

/// How one layer's cache is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct PqConfig {
    /// Dimension, sub-spaces and bits of the codes.
    pub shape: PqShape,
    /// First tokens, always attended to (S_0).
    pub sinks: usize,
    /// Last tokens before the current one, always attended to (W).
    pub window: Extent,
    /// Tokens selected among the others for each KV head and step (k).
    pub budget: Extent,
    /// How the query heads of a group agree.
    pub rule: GroupRule,
    /// Learn from the prompt's queries where keys have to be coded well ([`KeyTransform`](crate::pq::KeyTransform)).
    pub transform: bool,
    /// The second level, if there is one.
    pub rerank: Option<Rerank>,
    /// How codebooks are trained.
    pub training: Training,
    /// When an index is built anew.
    pub refresh: Refresh,
}

impl PqConfig {
    /// Bytes that the index of one KV head takes in memory for each token of the middle. Exact keys and values come on top,
    /// and once for each head a codebook (twice `4 d 2^nbits` bytes), the matrices of a transform (twice `4 d d`) with the queries
    /// from which it is learned anew (`4096 d`) and, with 2 x 6 bits, 16 KiB of counts.
    ///
    /// | preset | d = 64 | 128 | 256 | in a file, d = 128 |
    /// |---|---|---|---|---|
    /// | paper-longbench, skylight | 2 | 2 | 2 | 1.5, filled up to 2 |
    /// | paper-infinitebench | 4 | 4 | 4 | 4 |
    /// | default | 28 | 46 | 82 | 43 |
    #[must_use]
    pub fn bytes_per_token(&self) -> usize {
        let record = self.rerank.map_or(0, |r| (self.shape.d() * usize::from(r.bits)).div_ceil(8) + 2);
        Codes::token_bytes(self.shape) + record
    }

    /// Whether everything is in range.
    ///
    /// # Errors
    /// [`KvError::Share`] for a share outside 0..=1, [`KvError::Rerank`] for a second level of other than 2, 3 or 4 bits.
    pub fn check(&self) -> Result<(), KvError> {
        if let Some(rerank) = self.rerank {
            Extent::OfContext(rerank.band).check()?;
            if !matches!(rerank.bits, 2..=4) {
                return Err(RerankError::Shape { head_dim: self.shape.d(), bits: rerank.bits }.into());
            }
        }
        self.refresh.check()?;
        self.window.check()?;
        self.budget.check()
    }
}

/// Configurations with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Preset {
    /// The paper's for LongBench (contexts of 10K): 2 x 6 bits, 32 sinks, a fifth of the prompt, half of it as window.
    PaperLongBench,
    /// The paper's for InfiniteBench (100K): 4 x 8 bits, else the same.
    PaperInfiniteBench,
    /// The authors' later one (SkyLight): 2 x 6 bits, 128 sinks, a window of 128, a tenth of the prompt selected.
    SkyLight,
    /// Ours: keys transformed by what the prompt's queries look at, 8 + d/32 codes of 6 bits (60, 72, 96 bits at 64, 128, 256
    /// elements), and 2-bit codes of what those leave for a second look at a tenth of the keys; 32 sinks, a window of
    /// 128, a tenth of the context; built anew whenever the keys have grown by a 32nd.
    Default,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 4] =
        [Self::PaperLongBench, Self::PaperInfiniteBench, Self::SkyLight, Self::Default];

    /// The name: `paper-longbench`, `paper-infinitebench`, `skylight`, `default`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PaperLongBench => "paper-longbench",
            Self::PaperInfiniteBench => "paper-infinitebench",
            Self::SkyLight => "skylight",
            Self::Default => "default",
        }
    }

    /// The preset with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }

    /// The configuration for keys of `head_dim` elements.
    ///
    /// # Errors
    /// [`KvError::Pq`] if no quantizer of the preset's shape cuts so few elements.
    pub fn config(self, head_dim: usize) -> Result<PqConfig, KvError> {
        let (m, nbits) = match self {
            Self::PaperLongBench | Self::SkyLight => (2, 6),
            Self::PaperInfiniteBench => (4, 8),
            // 60, 72 and 96 bits at 64, 128 and 256 elements.
            Self::Default => (8 + head_dim / 32, 6),
        };
        let paper = PqConfig {
            shape: PqShape::new(head_dim, m, nbits)?,
            sinks: 32,
            window: Extent::OfPrompt(0.1),
            budget: Extent::OfPrompt(0.1),
            rule: GroupRule::SoftmaxSum,
            transform: false,
            rerank: None,
            // The paper's seed; its iterations are what the device's time allows, 3 to 300.
            training: Training { iterations: 10, sample: usize::MAX, seed: 4321, random_rows: true },
            refresh: Refresh::Never,
        };
        Ok(match self {
            Self::PaperLongBench | Self::PaperInfiniteBench => paper,
            Self::SkyLight => PqConfig { sinks: 128, window: Extent::Tokens(128), ..paper },
            Self::Default => PqConfig {
                window: Extent::Tokens(128),
                budget: Extent::OfContext(0.1),
                transform: true,
                rerank: Some(Rerank { bits: 2, band: 0.1, seed: 4321 }),
                training: Training { sample: 256, random_rows: false, ..paper.training },
                refresh: Refresh::Growth { share: 1.0 / 32.0, at_least: 64 },
                ..paper
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_configurations_are_sound() {
        for preset in Preset::ALL {
            assert_eq!(Preset::from_name(preset.name()), Some(preset));
            for head_dim in [32, 64, 80, 128, 256] {
                preset.config(head_dim).unwrap().check().unwrap();
            }
        }
        assert_eq!(Preset::from_name("best"), None);
        assert!(Preset::PaperInfiniteBench.config(3).is_err());
    }

    #[test]
    fn the_paper_splits_its_budget_between_window_and_selection() {
        // W = floor((s - S_0) r rho), k = floor((s - S_0) r (1 - rho)), r = 1/5, rho = 1/2.
        let config = Preset::PaperLongBench.config(128).unwrap();
        let prompt = 8192 - config.sinks;
        assert_eq!((config.window.tokens(prompt, 99_999), config.budget.tokens(prompt, 99_999)), (816, 816));
    }

    #[test]
    fn shares_outside_the_whole_are_refused() {
        for share in [-0.1, 1.1, f64::NAN] {
            let config = PqConfig { budget: Extent::OfContext(share), ..Preset::Default.config(64).unwrap() };
            assert!(matches!(config.check(), Err(KvError::Share { .. })));
        }
    }
}
