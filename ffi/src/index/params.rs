//! How an index is kept.

use tersa_core::kv::config::{Rerank, Training};
use tersa_core::kv::drift::{DriftParams, Refresh};
use tersa_core::kv::{Extent, PqConfig, Preset};
use tersa_core::pq::PqShape;
use tersa_core::select::GroupRule;

use crate::attention::MOST_HEADS;
use crate::borrow::{self, Versioned};
use crate::status::{Failure, fail, guard, tersa_error, tersa_status};

/// Ways of keeping an index that have a name.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum tersa_index_preset {
    /// Ours: keys transformed by what the prompt's queries look at, 8 + head_dim / 32 codes of 6 bits, 2-bit codes for a
    /// second look at a tenth of the keys; 32 sinks, a window of 128, a tenth of the context selected.
    TERSA_INDEX_DEFAULT = 0,
    /// PQCache's for LongBench: 2 codes of 6 bits, 32 sinks, a tenth of the prompt as window and a tenth selected.
    TERSA_INDEX_PAPER_2X6 = 1,
    /// PQCache's for InfiniteBench: 4 codes of 8 bits, else the same.
    TERSA_INDEX_PAPER_4X8 = 2,
    /// The authors' later one: 2 codes of 6 bits, 128 sinks, a window of 128, a tenth of the prompt selected.
    TERSA_INDEX_SKYLIGHT = 3,
}

/// What a `tersa_extent` counts.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum tersa_extent_unit {
    /// So many tokens.
    TERSA_TOKENS = 0,
    /// A share of the prompt's tokens behind the sinks.
    TERSA_SHARE_OF_PROMPT = 1,
    /// A share of the tokens behind the sinks that there are now.
    TERSA_SHARE_OF_CONTEXT = 2,
}

/// A number of tokens: so many, or a share.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct tersa_extent {
    /// A `tersa_extent_unit`.
    pub unit: u32,
    /// The number, for `TERSA_TOKENS`.
    pub tokens: u32,
    /// The share, 0 to 1, for the others.
    pub share: f64,
}

impl tersa_extent {
    fn new(extent: Extent) -> Self {
        use tersa_extent_unit as U;
        match extent {
            Extent::OfPrompt(share) => Self { unit: U::TERSA_SHARE_OF_PROMPT as u32, tokens: 0, share },
            Extent::OfContext(share) => Self { unit: U::TERSA_SHARE_OF_CONTEXT as u32, tokens: 0, share },
            Extent::Tokens(n) => Self { unit: U::TERSA_TOKENS as u32, tokens: saturate(n), share: 0.0 },
            _ => panic!("an extent of a kind that the ABI does not have"),
        }
    }

    pub(super) fn extent(self, what: &str) -> Result<Extent, Failure> {
        match self.unit {
            0 => Ok(Extent::Tokens(self.tokens as usize)),
            1 => Ok(Extent::OfPrompt(self.share)),
            2 => Ok(Extent::OfContext(self.share)),
            unit => fail!(TERSA_ERR_ARGUMENT, "{what}: {unit} is no tersa_extent_unit"),
        }
    }
}

/// How the query heads that share a KV head agree on one set of tokens. With `s` a head's scaled score of a token and
/// `p = exp(s) / sum over the tokens of exp(s)`:
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum tersa_group_rule {
    /// The greatest sums of `p` over the heads; what PQCache does.
    TERSA_GROUP_SOFTMAX_SUM = 0,
    /// The greatest `p` of any head.
    TERSA_GROUP_MAX = 1,
    /// The greatest sums of `s` over the heads.
    TERSA_GROUP_LOGIT_SUM = 2,
}

/// The rule with this number.
pub(crate) fn group_rule(code: u32) -> Result<GroupRule, Failure> {
    match code {
        0 => Ok(GroupRule::SoftmaxSum),
        1 => Ok(GroupRule::Max),
        2 => Ok(GroupRule::LogitSum),
        _ => fail!(TERSA_ERR_ARGUMENT, "{code} is no tersa_group_rule"),
    }
}

/// How the index of a KV head is kept.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tersa_index_params {
    /// Set by `tersa_index_params_init`.
    pub struct_size: u32,
    /// Elements of a key.
    pub head_dim: u32,
    /// Query heads that share the KV head. To be set; `tersa_index_params_init` leaves 0.
    pub group: u32,
    /// First tokens, always attended to.
    pub sinks: u32,
    /// Last tokens before the current one, always attended to.
    pub window: tersa_extent,
    /// Tokens selected among the others at each step.
    pub budget: tersa_extent,
    /// Codes of a key: the sub-spaces that it is cut into.
    pub m: u32,
    /// Bits of a code: 4, 6 or 8.
    pub nbits: u32,
    /// A `tersa_group_rule`.
    pub rule: u32,
    /// 1 to learn from the prompt's queries where keys have to be coded well, else 0.
    pub transform: u32,
    /// Bits of the codes for a second look at the keys around the budget's edge: 2, 3 or 4; 0 for no second look.
    pub rerank_bits: u32,
    /// 1 to start training at rows drawn at random, as the paper does; 0 for k-means++.
    pub random_rows: u32,
    /// The share of the keys that gets the second look.
    pub rerank_band: f64,
    /// Iterations of training, at most.
    pub iterations: u32,
    /// Keys that training looks at for each centroid, at most; 0 for all.
    pub sample: u32,
    /// Seed of every random choice of training.
    pub seed: u64,
    /// Seed of the second look's rotation.
    pub rerank_seed: u64,
    /// New keys before a refresh is due, at least.
    pub refresh_at_least: u32,
    /// Drift: tokens after which a new key's coding error weighs half as much.
    pub drift_half_life: u32,
    /// Growth: a refresh is due when there are more keys than the index was built for, by this share of them; 0 for drift.
    pub refresh_growth: f64,
    /// Drift: a refresh is due when new keys' errors are so many times those of the trained ones; 0 for never. Not looked at with growth.
    pub drift_refresh_at: f64,
}

// SAFETY: numbers only.
unsafe impl Versioned for tersa_index_params {
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        // Every version has these fields; what matters comes from a preset.
        let none = tersa_extent { unit: 0, tokens: 0, share: 0.0 };
        Self {
            struct_size: 0,
            head_dim: 0,
            group: 0,
            sinks: 0,
            window: none,
            budget: none,
            m: 0,
            nbits: 0,
            rule: 0,
            transform: 0,
            rerank_bits: 0,
            random_rows: 0,
            rerank_band: 0.0,
            iterations: 0,
            sample: 0,
            seed: 0,
            rerank_seed: 0,
            refresh_at_least: 0,
            drift_half_life: 0,
            refresh_growth: 0.0,
            drift_refresh_at: 0.0,
        }
    }
}

impl tersa_index_params {
    fn new(config: &PqConfig) -> Self {
        let PqConfig { shape, sinks, window, budget, rule, transform, rerank, training, refresh } = config;
        let (at_least, growth, drift) = match *refresh {
            Refresh::Growth { share, at_least } => (at_least, share, None),
            Refresh::Drift(params) => (params.at_least, 0.0, Some(params)),
            _ => (0, 0.0, None),
        };
        Self {
            head_dim: saturate(shape.d()),
            sinks: saturate(*sinks),
            window: tersa_extent::new(*window),
            budget: tersa_extent::new(*budget),
            m: saturate(shape.m()),
            nbits: shape.nbits().into(),
            rule: match rule {
                GroupRule::Max => tersa_group_rule::TERSA_GROUP_MAX as u32,
                GroupRule::LogitSum => tersa_group_rule::TERSA_GROUP_LOGIT_SUM as u32,
                _ => tersa_group_rule::TERSA_GROUP_SOFTMAX_SUM as u32,
            },
            transform: (*transform).into(),
            rerank_bits: rerank.map_or(0, |r| r.bits.into()),
            random_rows: training.random_rows.into(),
            rerank_band: rerank.map_or(0.0, |r| r.band),
            iterations: training.iterations,
            sample: if training.sample == usize::MAX { 0 } else { saturate(training.sample) },
            seed: training.seed,
            rerank_seed: rerank.map_or(0, |r| r.seed),
            refresh_at_least: at_least,
            drift_half_life: drift.map_or(0, |d| d.half_life),
            refresh_growth: growth,
            drift_refresh_at: drift.map_or(0.0, |d| d.refresh_at.into()),
            ..Self::defaults()
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "a ratio, for which f32 is enough")]
    fn refresh(&self) -> Refresh {
        let at_least = self.refresh_at_least;
        if self.refresh_growth != 0.0 {
            return Refresh::Growth { share: self.refresh_growth, at_least };
        }
        if self.drift_refresh_at == 0.0 {
            return Refresh::Never;
        }
        let (half_life, refresh_at) = (self.drift_half_life, self.drift_refresh_at as f32);
        Refresh::Drift(DriftParams { half_life, refresh_at, at_least })
    }

    pub(super) fn config(&self) -> Result<PqConfig, Failure> {
        let flag = |value: u32, what: &str| match value {
            0 | 1 => Ok(value == 1),
            _ => fail!(TERSA_ERR_ARGUMENT, "{what} is {value}: 0 or 1 is expected"),
        };
        if !(1..=MOST_HEADS).contains(&(self.group as usize)) {
            return fail!(
                TERSA_ERR_ARGUMENT,
                "group is {}: 1 to {MOST_HEADS} query heads are expected",
                self.group
            );
        }
        if !(1..=1 << 16).contains(&self.head_dim) {
            return fail!(TERSA_ERR_ARGUMENT, "head_dim is {}: 1 to 65536 is expected", self.head_dim);
        }
        let byte = |value: u32| u8::try_from(value).unwrap_or(u8::MAX);
        let rerank = Rerank { bits: byte(self.rerank_bits), band: self.rerank_band, seed: self.rerank_seed };
        let config = PqConfig {
            shape: PqShape::new(self.head_dim as usize, self.m as usize, byte(self.nbits))?,
            sinks: self.sinks as usize,
            window: self.window.extent("window")?,
            budget: self.budget.extent("budget")?,
            rule: group_rule(self.rule)?,
            transform: flag(self.transform, "transform")?,
            rerank: (self.rerank_bits > 0).then_some(rerank),
            training: Training {
                iterations: self.iterations,
                sample: if self.sample == 0 { usize::MAX } else { self.sample as usize },
                seed: self.seed,
                random_rows: flag(self.random_rows, "random_rows")?,
            },
            refresh: self.refresh(),
        };
        config.check()?;
        Ok(config)
    }
}

fn saturate(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Sets `*params` to a preset for keys of `head_dim` elements; `preset` is a `tersa_index_preset`. `group` is left 0, to be set.
/// `struct_size` is `sizeof *params`.
///
/// # Safety
/// `params` points to `struct_size` bytes; `err` as everywhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_index_params_init(
    params: *mut tersa_index_params,
    struct_size: usize,
    preset: u32,
    head_dim: u32,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        let preset = match preset {
            0 => Preset::Default,
            1 => Preset::PaperLongBench,
            2 => Preset::PaperInfiniteBench,
            3 => Preset::SkyLight,
            _ => return fail!(TERSA_ERR_ARGUMENT, "{preset} is no tersa_index_preset"),
        };
        // SAFETY: the caller's promise.
        unsafe {
            borrow::init(params, struct_size, "params")?;
            borrow::fill(params, &tersa_index_params::new(&preset.config(head_dim as usize)?), "params")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_come_back_as_they_were() {
        for preset in Preset::ALL {
            let drift = Refresh::Drift(DriftParams { refresh_at: 1.5, ..DriftParams::default() });
            for (head_dim, refresh) in [(64, None), (128, Some(Refresh::Never)), (256, Some(drift))] {
                let mut config = preset.config(head_dim).unwrap();
                config.refresh = refresh.unwrap_or(config.refresh);
                let params = tersa_index_params { group: 3, ..tersa_index_params::new(&config) };
                assert!(params.config().ok() == Some(config));
            }
        }
    }
}
