//! How long training may take: a number of iterations, a clock, or the paper's fitted time model.

/// How long [`train`](super::train()) may iterate. At least one iteration is run, so that centroids are means.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum IterBudget<'a> {
    /// At most so many iterations.
    Fixed(u32),
    /// Until so much time has passed since the call, looked at between iterations, and at most `at_most` iterations.
    #[cfg(feature = "std")]
    Deadline {
        /// The time from the call on.
        after: core::time::Duration,
        /// Iterations that are enough in any case.
        at_most: u32,
    },
    /// Until `expired` says so, asked between iterations, and at most `at_most` iterations: a deadline by the caller's
    /// clock, or a way to cancel.
    Until {
        /// Whether time is up.
        expired: &'a dyn Fn() -> bool,
        /// Iterations that are enough in any case.
        at_most: u32,
    },
    /// As many as end before the device finishes the next layer, by fitted times. On a CPU or in a shared server a real
    /// deadline is the better choice.
    Model(TimeModel),
}

impl core::fmt::Debug for IterBudget<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Fixed(n) => f.debug_tuple("Fixed").field(n).finish(),
            #[cfg(feature = "std")]
            Self::Deadline { after, at_most } => {
                f.debug_struct("Deadline").field("after", after).field("at_most", at_most).finish()
            }
            Self::Until { at_most, .. } => {
                f.debug_struct("Until").field("at_most", at_most).finish_non_exhaustive()
            }
            Self::Model(model) => f.debug_tuple("Model").field(model).finish(),
        }
    }
}

/// PQCache's times of clustering and of a layer's computation, in seconds (arXiv 2407.12820, adaptive k-means):
/// `t_clus(s, T) = alpha1 + beta1 s T` for `T` iterations on `s` tokens, `t_comp(s) = alpha2 + beta2 s + gamma2 s^2`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeModel {
    /// Seconds of clustering that do not depend on the iterations.
    pub alpha1: f64,
    /// Seconds for a token and an iteration.
    pub beta1: f64,
    /// Seconds of a layer that do not depend on the tokens.
    pub alpha2: f64,
    /// Seconds of a layer for a token.
    pub beta2: f64,
    /// Seconds of a layer for the square of the tokens.
    pub gamma2: f64,
}

impl TimeModel {
    /// Iterations of the authors' code at least.
    pub const LEAST: u32 = 3;
    /// Iterations of the authors' code at most.
    pub const MOST: u32 = 300;

    /// `T_max = (gamma2 s^2 + beta2 s + alpha2 - alpha1) / (beta1 s)`, rounded down and kept within
    /// [`LEAST`](Self::LEAST) and [`MOST`](Self::MOST); [`LEAST`](Self::LEAST) where that is no number.
    ///
    /// ```
    /// use tersa_core::pq::TimeModel;
    ///
    /// // A layer of Llama-3.1-8B on an RTX 4090, as the paper's code has it, and 0.2 us a token and iteration.
    /// let layer = TimeModel {
    ///     alpha1: 1e-4, beta1: 2e-7, alpha2: 4.22124e-4, beta2: 2.53902e-6, gamma2: 4.75329e-11,
    /// };
    /// assert_eq!(layer.iterations(32_768), 20); // 135 ms of computation
    /// ```
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "counts of tokens are far below 2^53, and the result is kept within 3 and 300"
    )]
    pub fn iterations(&self, n_tokens: usize) -> u32 {
        let s = n_tokens as f64;
        let t = (self.gamma2 * s * s + self.beta2 * s + self.alpha2 - self.alpha1) / (self.beta1 * s);
        // `as` turns a NaN into 0 and saturates.
        (t as u32).clamp(Self::LEAST, Self::MOST)
    }
}

/// Asked between iterations whether to go on.
pub(super) struct Clock<'a> {
    at_most: u32,
    expired: Option<&'a dyn Fn() -> bool>,
    #[cfg(feature = "std")]
    end: Option<std::time::Instant>,
}

impl<'a> Clock<'a> {
    /// Starts now, for `n` rows.
    pub(super) fn start(budget: IterBudget<'a>, n: usize) -> Self {
        let (at_most, expired) = match budget {
            IterBudget::Fixed(at_most) => (at_most, None),
            #[cfg(feature = "std")]
            IterBudget::Deadline { at_most, .. } => (at_most, None),
            IterBudget::Until { expired, at_most } => (at_most, Some(expired)),
            IterBudget::Model(model) => (model.iterations(n), None),
        };
        #[cfg(feature = "std")]
        let end = match budget {
            // A time beyond what the clock can tell never comes.
            IterBudget::Deadline { after, .. } => std::time::Instant::now().checked_add(after),
            _ => None,
        };
        Self {
            at_most,
            expired,
            #[cfg(feature = "std")]
            end,
        }
    }

    /// Whether `iterations` are enough.
    pub(super) fn is_over(&self, iterations: u32) -> bool {
        if iterations >= self.at_most || self.expired.is_some_and(|expired| expired()) {
            return true;
        }
        #[cfg(feature = "std")]
        if self.end.is_some_and(|end| std::time::Instant::now() >= end) {
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_gives_the_papers_times_within_the_codes_limits() {
        // Spec 3.1: 24 ms at 8K, 135 ms at 32K, 1.15 s at 128K for a layer of Llama-3.1-8B.
        let layer = TimeModel {
            alpha1: 0.0,
            beta1: 1e-3,
            alpha2: 4.22124e-4,
            beta2: 2.53902e-6,
            gamma2: 4.75329e-11,
        };
        for (s, ms) in [(8192.0, 24.0), (32768.0, 135.0), (131_072.0, 1150.0)] {
            // With `beta1 = 1 ms / s` an iteration is a millisecond.
            let model = TimeModel { beta1: 1e-3 / s, ..layer };
            let want = (layer.gamma2 * s * s + layer.beta2 * s + layer.alpha2) * 1e3;
            assert!((want / ms - 1.0).abs() < 0.02, "{want} ms at {s}");
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and small")]
            let want = (want as u32).min(TimeModel::MOST);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number")]
            let got = model.iterations(s as usize);
            assert_eq!(got, want);
        }
        let slow = TimeModel { beta1: 1.0, ..layer };
        assert_eq!(slow.iterations(8192), TimeModel::LEAST);
        assert_eq!(layer.iterations(0), TimeModel::MOST, "a layer's time and no tokens");
        let nothing = TimeModel { alpha1: 0.0, beta1: 0.0, alpha2: 0.0, beta2: 0.0, gamma2: 0.0 };
        assert_eq!(nothing.iterations(100), TimeModel::LEAST);
    }
}
