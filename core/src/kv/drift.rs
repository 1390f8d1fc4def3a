//! When an index is built anew.
//!
//! PQCache never trains again: keys that arrive while a model generates are coded with the prompt's centroids. With keys after
//! RoPE that holds for some hundred tokens only, because both keys and queries turn with their positions; see
//! `docs/pqcache.md` for what was measured. [`Refresh`] says when an index is built anew, transform, centroids and codes.
//!
//! [`DriftMonitor`] compares what new keys cost: an exponential moving average of their squared assignment errors,
//! `|k - k^|^2`, over the mean error of the keys that the codebook was trained on. A ratio of 1 means that new keys are
//! coded as well as the prompt's. Both are ours; the paper has neither.

use super::KvError;
use super::config::Extent;

/// When an index is built anew. Polled, and carried out by the caller: see [`PqIndex::is_refresh_due`] and
/// [`HeadCache::is_refresh_due`].
///
/// [`PqIndex::is_refresh_due`]: super::PqIndex::is_refresh_due
/// [`HeadCache::is_refresh_due`]: super::HeadCache::is_refresh_due
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Refresh {
    /// Never, as in the paper.
    Never,
    /// Once there are more keys than it was built for, by this share of them and by `at_least`. The keys of all builds together
    /// are `1 + 1/share` times the last, so that an appended key costs at most `1 + 1/share` times what a key of a build does,
    /// however long the context grows.
    Growth {
        /// New keys, as a share of those it was built for, above 0.
        share: f64,
        /// New keys, at least.
        at_least: u32,
    },
    /// Once new keys are coded much worse than those it was built from.
    Drift(DriftParams),
}

impl Refresh {
    /// Whether an index that was built for `tokens` keys and holds `len` now is to be built anew.
    pub(super) fn is_due(self, monitor: &DriftMonitor, tokens: usize, len: usize) -> bool {
        match self {
            Self::Never => false,
            Self::Growth { share, at_least } => {
                let grown = Extent::OfContext(share).tokens(tokens, tokens);
                len >= tokens.saturating_add(grown.max(at_least as usize))
            }
            Self::Drift(_) => monitor.is_due(),
        }
    }

    /// A monitor of an index that leaves `trained` as the mean squared error of its training keys.
    pub(super) fn monitor(self, trained: f64) -> DriftMonitor {
        DriftMonitor::new(self.drift(), trained)
    }

    /// How a monitor judges.
    pub(super) fn drift(self) -> DriftParams {
        match self {
            Self::Drift(params) => params,
            Self::Never | Self::Growth { .. } => DriftParams::default(),
        }
    }

    pub(super) fn check(self) -> Result<(), KvError> {
        match self {
            Self::Growth { share, .. } if !(share > 0.0 && share.is_finite()) => {
                Err(KvError::Share { share })
            }
            _ => Ok(()),
        }
    }
}

/// How a [`DriftMonitor`] judges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DriftParams {
    /// Tokens after which an error weighs half as much.
    pub half_life: u32,
    /// A codebook is due for a refresh when the ratio reaches this.
    pub refresh_at: f32,
    /// New keys between two refreshes, at least.
    pub at_least: u32,
}

impl Default for DriftParams {
    /// Half-life 256, refresh at 1.25, at least 1024 keys apart.
    fn default() -> Self {
        Self { half_life: 256, refresh_at: 1.25, at_least: 1024 }
    }
}

/// Moving average of new keys' assignment errors against the trained ones'. `f64` in a fixed order: equal errors give
/// equal ratios everywhere.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftMonitor {
    params: DriftParams,
    /// Mean squared error of a training key.
    trained: f64,
    /// Mean squared error of a new key, starting at that of the training keys.
    recent: f64,
    /// Keys since training.
    seen: u64,
}

impl DriftMonitor {
    /// A monitor for a codebook that leaves `trained` as the mean squared error of its training keys.
    #[must_use]
    pub fn new(params: DriftParams, trained: f64) -> Self {
        Self { params, trained, recent: trained, seen: 0 }
    }

    /// Adds a new key's squared error. Constant cost; an error that is not finite is not taken.
    pub fn observe(&mut self, error: f64) {
        if !error.is_finite() {
            return;
        }
        // 1 - 2^(-1/h) to within 1 % for h >= 64; the exact power needs a logarithm for nothing.
        let weight = core::f64::consts::LN_2 / f64::from(self.params.half_life.max(1));
        self.recent += (error - self.recent) * weight.min(1.0);
        self.seen += 1;
    }

    /// Recent error over trained error. 1 if both are zero, infinite if only the trained one is.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        if self.recent == self.trained { 1.0 } else { self.recent / self.trained }
    }

    /// Keys since training.
    #[must_use]
    pub const fn seen(&self) -> u64 {
        self.seen
    }

    /// Whether the codebook should be trained again.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.seen >= u64::from(self.params.at_least) && self.ratio() >= f64::from(self.params.refresh_at)
    }

    /// How it judges.
    #[must_use]
    pub const fn params(&self) -> &DriftParams {
        &self.params
    }

    /// Mean squared error of a training key, and the recent one of a new key.
    #[must_use]
    pub const fn errors(&self) -> (f64, f64) {
        (self.trained, self.recent)
    }

    /// A monitor as [`errors`](Self::errors) and [`seen`](Self::seen) told of it.
    pub(super) const fn restored(params: DriftParams, [trained, recent]: [f64; 2], seen: u64) -> Self {
        Self { params, trained, recent, seen }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_due_by_share_and_count() {
        let monitor = DriftMonitor::new(DriftParams::default(), 1.0);
        let due =
            |at_least, tokens, len| Refresh::Growth { share: 0.0625, at_least }.is_due(&monitor, tokens, len);
        assert!(!due(0, 1600, 1699) && due(0, 1600, 1700));
        assert!(!due(256, 1600, 1855) && due(256, 1600, 1856));
        assert!(!due(1, usize::MAX, 5), "no overflow");
        assert!(!Refresh::Never.is_due(&monitor, 1, 1000));
        for share in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Refresh::Growth { share, at_least: 0 }.check().is_err());
        }
    }

    #[test]
    fn equal_errors_never_trigger() {
        let mut drift = DriftMonitor::new(DriftParams::default(), 2.0);
        (0..10_000).for_each(|_| drift.observe(2.0));
        assert_eq!(drift.ratio(), 1.0);
        assert!(!drift.is_due());
    }

    #[test]
    fn doubled_errors_trigger_after_the_least_count() {
        let mut drift = DriftMonitor::new(DriftParams::default(), 2.0);
        let due = (1..5000).find(|_| {
            drift.observe(4.0);
            drift.is_due()
        });
        assert_eq!(due, Some(1024));
        assert!((1.9..2.0).contains(&drift.ratio()));
    }

    #[test]
    fn half_the_way_after_a_half_life() {
        let params = DriftParams { half_life: 256, ..DriftParams::default() };
        let mut drift = DriftMonitor::new(params, 1.0);
        (0..256).for_each(|_| drift.observe(3.0));
        assert!((drift.ratio() - 2.0).abs() < 0.01, "{}", drift.ratio());
    }

    #[test]
    fn zero_errors_and_odd_ones_do_no_harm() {
        let mut drift = DriftMonitor::new(DriftParams::default(), 0.0);
        drift.observe(0.0);
        assert_eq!(drift.ratio(), 1.0);
        drift.observe(f64::NAN);
        drift.observe(f64::INFINITY);
        assert_eq!(drift.seen(), 1);
        drift.observe(1.0);
        assert_eq!(drift.ratio(), f64::INFINITY);
    }
}
