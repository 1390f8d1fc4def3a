//! What happens to rows of activations between the matrix products.

/// Root-mean-square norm of rows as long as `weight`: `x / sqrt(mean(x^2) + eps) * weight`.
#[must_use]
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(weight.len()) {
        let squares: f64 = row.iter().map(|x| f64::from(x * x)).sum();
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "the rounding is meant"
        )]
        let mean = (squares / weight.len() as f64) as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        out.extend(row.iter().zip(weight).map(|(x, w)| x * scale * w));
    }
    out
}

/// `x += y`.
pub fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// The gated activation `gate / (1 + exp(-gate)) * up`.
#[must_use]
pub fn silu_gate(gate: &[f32], up: &[f32]) -> Vec<f32> {
    gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
}

/// The place of the greatest, the first of equals.
#[must_use]
pub fn argmax(x: &[f32]) -> usize {
    let mut best = 0;
    for (i, value) in x.iter().enumerate() {
        if *value > x[best] {
            best = i;
        }
    }
    best
}

/// Rotary positions (Su et al., 2021) over neighbouring pairs, as GGUF files of Llama models have them.
#[derive(Clone, Debug)]
pub struct Rope {
    head_dim: usize,
    /// Radians a token, for each pair.
    steps: Vec<f64>,
}

impl Rope {
    /// For heads of `head_dim` elements; pair `i` turns by `base^(-2i / head_dim)` a token.
    #[must_use]
    pub fn new(head_dim: usize, base: f32) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "a dimension")]
        let step = |i: usize| f64::from(base).powf(-2.0 * i as f64 / head_dim as f64);
        Self { head_dim, steps: (0..head_dim / 2).map(step).collect() }
    }

    /// Turns rows `[tokens][n_heads][head_dim]`, the first of which is of token `first`.
    pub fn apply(&self, rows: &mut [f32], n_heads: usize, first: usize) {
        for (t, token) in rows.chunks_exact_mut(n_heads * self.head_dim).enumerate() {
            #[allow(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                reason = "the rounding is meant"
            )]
            let turn = |step: &f64| {
                let (sin, cos) = (step * (first + t) as f64).sin_cos();
                (sin as f32, cos as f32)
            };
            let turns: Vec<(f32, f32)> = self.steps.iter().map(turn).collect();
            for head in token.chunks_exact_mut(self.head_dim) {
                for (pair, (sin, cos)) in head.chunks_exact_mut(2).zip(&turns) {
                    let (x, y) = (pair[0], pair[1]);
                    pair[0] = x * cos - y * sin;
                    pair[1] = x * sin + y * cos;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_norm_scales_each_row_to_unit_mean_square() {
        let out = rms_norm(&[3.0, -4.0, 1.0, 1.0], &[1.0, 2.0], 0.0);
        let want = [3.0 / 12.5_f32.sqrt(), -8.0 / 12.5_f32.sqrt(), 1.0, 2.0];
        assert!(out.iter().zip(want).all(|(o, w)| (o - w).abs() < 1e-6), "{out:?}");
    }

    #[test]
    fn scores_depend_on_the_distance_of_tokens_only() {
        let rope = Rope::new(8, 10_000.0);
        let score = |a: usize, b: usize| {
            let (mut q, mut k) = ([0.3, -1.0, 0.7, 0.2, 1.1, 0.4, -0.6, 0.9], [0.5; 8]);
            rope.apply(&mut q, 1, a);
            rope.apply(&mut k, 1, b);
            q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>()
        };
        assert!((score(7, 3) - score(1004, 1000)).abs() < 1e-4);
        assert!((score(7, 3) - score(7, 4)).abs() > 1e-3);
    }

    #[test]
    fn the_first_of_equals_wins() {
        assert_eq!(argmax(&[0.0, 2.0, 1.0, 2.0]), 1);
    }
}
