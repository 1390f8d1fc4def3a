//! The index of one KV head: codebook, codes and what they tell of a query. Without the rows themselves, so that an
//! engine with a cache of its own can use it.
//!
//! An index holds the codes of some keys, in order: which keys is the engine's choice (PQCache: all but the sinks and
//! the window). Positions in the index are the engine's to translate.
//!
//! 1. [`PqIndex::train`] with the prompt's keys, then [`PqIndex::extend`] with the keys to be indexed.
//! 2. Each step [`PqIndex::select`] gives the positions to attend to, and [`PqIndex::append`] takes the key that leaves
//!    the window, coded with the centroids as they are. Every code is the nearest centroid of its own key.
//! 3. When [`PqIndex::is_refresh_due`], [`PqIndex::rebuilt`] makes an index with a transform and centroids of what is there now,
//!    and without codes: to be filled and put in the place of the old one, in the background if you like.
//!
//! A clone is a fork: it shares the codebook and all full blocks of codes.

mod band;
mod bytes;
mod select;
#[cfg(test)]
mod tests;

pub use bytes::IndexPlace;
pub use select::SelectScratch;

use super::KvError;
use super::config::{PqConfig, Rerank, Training};
use super::drift::{DriftMonitor, Refresh};
use crate::pq::{
    Codebook, Codes, Init, IterBudget, KeyTransform, PqError, PqShape, TrainParams, TrainReport,
    TransformParams, train,
};
use crate::select::{GroupRule, RerankCodes};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// What an index needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexParams {
    /// Dimension, sub-spaces and bits of the codes.
    pub shape: PqShape,
    /// How the query heads of a group agree.
    pub rule: GroupRule,
    /// Learn from queries where keys have to be coded well.
    pub transform: bool,
    /// The second level, if there is one.
    pub rerank: Option<Rerank>,
    /// How codebooks are trained.
    pub training: Training,
    /// When it is built anew.
    pub refresh: Refresh,
}

impl From<&PqConfig> for IndexParams {
    fn from(config: &PqConfig) -> Self {
        Self {
            shape: config.shape,
            rule: config.rule,
            transform: config.transform,
            rerank: config.rerank,
            training: config.training,
            refresh: config.refresh,
        }
    }
}

/// Codes of some keys of one KV head. See the [module](self).
#[derive(Clone, Debug)]
pub struct PqIndex {
    params: IndexParams,
    trained: Option<Trained>,
    codes: Codes,
    /// Codes of what the first level's leave of each key.
    rerank: Option<RerankCodes>,
}

/// What training gave.
#[derive(Clone, Debug)]
struct Trained {
    transform: Arc<KeyTransform>,
    codebook: Arc<Codebook>,
    /// Keys that it was trained for.
    tokens: usize,
    drift: DriftMonitor,
}

impl Trained {
    fn codebook(&self) -> &Codebook {
        &self.codebook
    }
}

/// What an index holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IndexStats {
    /// Keys with codes.
    pub tokens: usize,
    /// Whether there is a codebook.
    pub trained: bool,
    /// Bits of a key's codes, of both levels, packed.
    pub bits: usize,
    /// Recent error of new keys over that of the trained ones.
    pub drift: f64,
    /// Keys appended since training.
    pub appended: u64,
}

/// Buffers of encoding, made once.
#[derive(Clone, Debug)]
pub struct EncodeScratch {
    /// `[BATCH][d]`: transformed keys.
    rows: Vec<f32>,
    /// `[BATCH][m]`.
    codes: Vec<u8>,
    /// `[BATCH][d]`: what the codes leave of each key.
    residuals: Vec<f32>,
}

/// Keys encoded at a time.
const BATCH: usize = 256;

impl EncodeScratch {
    /// Buffers for indexes of this shape.
    #[must_use]
    pub fn new(shape: PqShape) -> Self {
        let rows = vec![0.0; BATCH * shape.d()];
        Self { codes: vec![0; BATCH * shape.m()], residuals: rows.clone(), rows }
    }

    /// Codes of at most [`BATCH`] keys, and what they leave.
    fn encode(
        &mut self,
        transform: &KeyTransform,
        codebook: &Codebook,
        keys: &[f32],
    ) -> Result<(&[u8], &[f32]), PqError> {
        let shape = codebook.shape();
        let n = keys.len() / shape.d();
        let rows = &mut self.rows[..keys.len()];
        let keys = if transform.is_identity() {
            keys
        } else {
            transform.keys(keys, rows)?;
            rows
        };
        let (codes, residuals) = (&mut self.codes[..n * shape.m()], &mut self.residuals[..keys.len()]);
        codebook.encode(keys, codes)?;
        codebook.decode(codes, residuals)?;
        for (r, k) in residuals.iter_mut().zip(keys) {
            *r = k - *r;
        }
        Ok((codes, residuals))
    }
}

impl PqIndex {
    /// An index that is not trained.
    ///
    /// # Errors
    /// [`KvError::Rerank`] if there is no second level of the shape asked for.
    pub fn new(params: IndexParams) -> Result<Self, KvError> {
        let d = params.shape.d();
        let rerank = params.rerank.map(|r| RerankCodes::new(d, r.bits, r.seed)).transpose()?;
        Ok(Self { codes: Codes::new(params.shape), params, trained: None, rerank })
    }

    /// What it was made with.
    #[must_use]
    pub const fn params(&self) -> &IndexParams {
        &self.params
    }

    /// Keys with codes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.codes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    /// The codebook, once trained.
    #[must_use]
    pub fn codebook(&self) -> Option<&Codebook> {
        self.trained.as_ref().map(Trained::codebook)
    }

    /// The transform of keys and queries, once trained; codes are of transformed keys.
    #[must_use]
    pub fn transform(&self) -> Option<&KeyTransform> {
        self.trained.as_ref().map(|t| &*t.transform)
    }

    /// The second level's codes, if there is one.
    #[must_use]
    pub const fn rerank(&self) -> Option<&RerankCodes> {
        self.rerank.as_ref()
    }

    /// The codes.
    #[must_use]
    pub const fn codes(&self) -> &Codes {
        &self.codes
    }

    /// How it does.
    #[must_use]
    pub fn stats(&self) -> IndexStats {
        let drift = self.trained.as_ref().map(|t| &t.drift);
        IndexStats {
            tokens: self.len(),
            trained: self.trained.is_some(),
            bits: self.params.shape.m() * usize::from(self.params.shape.nbits())
                + self.rerank.as_ref().map_or(0, |r| r.record_bytes() * 8),
            drift: drift.map_or(1.0, DriftMonitor::ratio),
            appended: drift.map_or(0, DriftMonitor::seen),
        }
    }

    /// Bytes on the heap. What forks share counts in full in each.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.codes.heap_bytes()
            + self.rerank.as_ref().map_or(0, RerankCodes::heap_bytes)
            + self.trained.as_ref().map_or(0, |t| t.codebook.heap_bytes() + t.transform.heap_bytes())
    }

    /// Trains a codebook on `keys` `[n][d]`, which stand for `tokens` keys that are going to be indexed (for `n`, if all
    /// were given), and forgets all codes. Starts from the centroids there are, if they lie under the same transform. `queries` `[nq][d]` are the prompt's, of all heads of the group, in the order of
    /// tokens, for the transform, if the parameters ask for one; without any there is none. `budget` overrides the configured
    /// iterations, as a deadline does. Cost: see [`train`](crate::pq::train()) and [`KeyTransform::train`].
    ///
    /// # Errors
    /// [`KvError::Pq`]; see those. Nothing is changed then.
    pub fn train(
        &mut self,
        keys: &[f32],
        queries: &[f32],
        tokens: usize,
        budget: Option<IterBudget<'_>>,
    ) -> Result<TrainReport, KvError> {
        let transform = if self.params.transform {
            self.learn(keys, queries)?
        } else {
            Arc::new(KeyTransform::identity(self.params.shape.d()))
        };
        self.train_under(transform, keys, tokens, budget)
    }

    /// This index built anew, without codes: a transform learned from `keys` `[n][d]` and the recent `queries` `[nq][d]`, if the
    /// parameters ask for one, and centroids trained on the keys under it. With too few queries to learn from
    /// ([`KeyTransform::LEAST_QUERIES`]) the transform stays, and centroids start from those there are. See [`train`](Self::train)
    /// for `tokens`, `budget`, cost and errors.
    ///
    /// # Errors
    /// [`KvError::Untrained`], [`KvError::Pq`].
    pub fn rebuilt(
        &self,
        keys: &[f32],
        queries: &[f32],
        tokens: usize,
        budget: Option<IterBudget<'_>>,
    ) -> Result<Self, KvError> {
        let old = self.trained.as_ref().ok_or(KvError::Untrained)?;
        let transform = if self.params.transform
            && queries.len() >= KeyTransform::LEAST_QUERIES * self.params.shape.d()
        {
            self.learn(keys, queries)?
        } else {
            Arc::clone(&old.transform)
        };
        let mut index = self.clone();
        index.train_under(transform, keys, tokens, budget)?;
        Ok(index)
    }

    /// What [`KeyTransform::train`] learns.
    fn learn(&self, keys: &[f32], queries: &[f32]) -> Result<Arc<KeyTransform>, PqError> {
        KeyTransform::train(keys, queries, self.params.shape, &TransformParams::default()).map(Arc::new)
    }

    #[allow(clippy::cast_precision_loss, reason = "a count of rows, far below 2^53")]
    fn train_under(
        &mut self,
        transform: Arc<KeyTransform>,
        keys: &[f32],
        tokens: usize,
        budget: Option<IterBudget<'_>>,
    ) -> Result<TrainReport, KvError> {
        let training = &self.params.training;
        let init = match &self.trained {
            // Centroids under another transform are no start.
            Some(old) if old.transform == transform => Init::From(old.codebook()),
            _ if training.random_rows => Init::RandomRows,
            _ => Init::KMeansPlusPlus,
        };
        let params = TrainParams {
            init,
            seed: training.seed,
            budget: budget.unwrap_or(IterBudget::Fixed(training.iterations)),
            sample: Some(training.sample),
            ..TrainParams::default()
        };
        let mapped;
        let keys = if transform.is_identity() {
            keys
        } else {
            let mut rows = vec![0.0; keys.len()];
            transform.keys(keys, &mut rows)?;
            mapped = rows;
            &mapped[..]
        };
        let (codebook, report) = train(keys, self.params.shape, &params)?;
        let error = report.inertia.iter().sum::<f64>() / report.rows as f64;
        let drift = self.params.refresh.monitor(error);
        self.truncate(0);
        self.codes = Codes::new(self.params.shape);
        self.trained = Some(Trained { transform, codebook: Arc::new(codebook), tokens, drift });
        Ok(report)
    }

    /// Appends keys `[n][d]` of the prompt. `n * d * ksub` multiply-adds, `n * d * d` for a transform, and a rotation
    /// for a second level.
    ///
    /// # Errors
    /// [`KvError::Untrained`]; [`KvError::Pq`] if the rows are not whole or not finite, [`KvError::Rerank`] if what the codes
    /// leave overflows. Nothing is appended then.
    pub fn extend(&mut self, keys: &[f32], scratch: &mut EncodeScratch) -> Result<(), KvError> {
        let before = self.len();
        let appended = self.encode(keys, scratch, |index, _, codes, residuals| {
            index.codes.extend(codes)?;
            if let Some(rerank) = &mut index.rerank {
                rerank.extend(residuals)?;
            }
            Ok(())
        });
        if appended.is_err() {
            self.truncate(before);
        }
        appended
    }

    /// Appends one key `[d]` that arrived after training, and has the drift monitor see its error. `d * ksub`
    /// multiply-adds.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn append(&mut self, key: &[f32], scratch: &mut EncodeScratch) -> Result<(), KvError> {
        let d = self.params.shape.d();
        if key.len() != d {
            return Err(PqError::Length { expected: d, got: key.len() }.into());
        }
        self.extend(key, scratch)?;
        if let Some(trained) = &mut self.trained {
            let error = scratch.residuals[..d].iter().map(|&r| f64::from(r) * f64::from(r)).sum();
            trained.drift.observe(error);
        }
        Ok(())
    }

    /// Replaces the keys from position `first` on by `keys` `[n][d]`, as when an engine rotates them to other positions.
    ///
    /// # Errors
    /// [`KvError::Range`] if there are not so many, and nothing is changed. As [`extend`](Self::extend), but codes before
    /// the key that is not finite may have been changed.
    pub fn replace(
        &mut self,
        first: usize,
        keys: &[f32],
        scratch: &mut EncodeScratch,
    ) -> Result<(), KvError> {
        let (d, m) = (self.params.shape.d(), self.params.shape.m());
        self.check(&(first..first.saturating_add(keys.len().div_ceil(d))))?;
        self.encode(keys, scratch, |index, at, codes, residuals| {
            for (i, codes) in codes.chunks_exact(m).enumerate() {
                index.codes.set(first + at + i, codes)?;
            }
            if let Some(rerank) = &mut index.rerank {
                for (i, residual) in residuals.chunks_exact(d).enumerate() {
                    rerank.set(first + at + i, residual)?;
                }
            }
            Ok(())
        })
    }

    /// Encodes keys by batches and hands each on: the number of its first key, codes, residuals.
    fn encode(
        &mut self,
        keys: &[f32],
        scratch: &mut EncodeScratch,
        mut take: impl FnMut(&mut Self, usize, &[u8], &[f32]) -> Result<(), KvError>,
    ) -> Result<(), KvError> {
        let trained = self.trained.as_ref().ok_or(KvError::Untrained)?;
        let (transform, codebook) = (Arc::clone(&trained.transform), Arc::clone(&trained.codebook));
        let d = self.params.shape.d();
        if !keys.len().is_multiple_of(d) {
            return Err(PqError::Length { expected: keys.len().next_multiple_of(d), got: keys.len() }.into());
        }
        for (i, keys) in keys.chunks(BATCH * d).enumerate() {
            let (codes, residuals) =
                scratch.encode(&transform, &codebook, keys).map_err(|error| match error {
                    PqError::NonFinite { row } => PqError::NonFinite { row: i * BATCH + row },
                    other => other,
                })?;
            take(self, i * BATCH, codes, residuals)?;
        }
        Ok(())
    }

    /// Keeps the first `len` keys.
    pub fn truncate(&mut self, len: usize) {
        self.codes.truncate(len);
        if let Some(rerank) = &mut self.rerank {
            rerank.truncate(len);
        }
    }

    /// Takes the keys of `range` out; later ones move down. Cost: one copy of the later codes.
    ///
    /// # Errors
    /// [`KvError::Range`] unless the range lies within the keys; nothing is removed then.
    pub fn remove(&mut self, range: Range<usize>) -> Result<(), KvError> {
        self.check(&range)?;
        if let Some(rerank) = &mut self.rerank {
            rerank.remove(range.clone());
        }
        Ok(self.codes.remove(range)?)
    }

    /// How many keys the codebook was trained for, once trained.
    #[must_use]
    pub fn trained_for(&self) -> Option<usize> {
        self.trained.as_ref().map(|t| t.tokens)
    }

    /// Whether the index should be built anew, as [`Refresh`] says. Constant cost.
    #[must_use]
    pub fn is_refresh_due(&self) -> bool {
        let refresh = self.params.refresh;
        self.trained.as_ref().is_some_and(|t| refresh.is_due(&t.drift, t.tokens, self.len()))
    }

    fn check(&self, range: &Range<usize>) -> Result<(), KvError> {
        if range.start <= range.end && range.end <= self.len() {
            Ok(())
        } else {
            Err(KvError::Range { start: range.start, end: range.end, len: self.len() })
        }
    }
}
