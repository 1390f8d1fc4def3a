//! Spending bits where they reduce error most.
//!
//! Every stream offers choices: so many bytes for such a relative squared error. Keys and values of all layers weigh
//! alike by their *relative* error, which makes streams of different scale comparable; a policy file is the way to
//! say that some matter more.

/// One codec for one stream, measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Bytes of the whole stream.
    pub bytes: u64,
    /// Squared error over squared norm.
    pub sq_error: f64,
}

/// The choices of one stream on its lower hull of bytes against error: rising bytes, falling error, and every next
/// byte buys less. The numbers are indices into `choices`.
#[must_use]
pub fn lower_hull(choices: &[Choice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..choices.len()).collect();
    order.sort_by(|&a, &b| {
        let (x, y) = (choices[a], choices[b]);
        x.bytes.cmp(&y.bytes).then(x.sq_error.total_cmp(&y.sq_error)).then(a.cmp(&b))
    });
    let gain = |from: usize, to: usize| slope(choices[from], choices[to]);
    let mut hull: Vec<usize> = Vec::new();
    for i in order {
        if hull.last().is_some_and(|&last| choices[i].sq_error >= choices[last].sq_error) {
            continue;
        }
        while let [.., a, b] = hull[..] {
            if gain(a, b) > gain(b, i) {
                break;
            }
            hull.pop();
        }
        // Equal bytes and less error cannot come here: the sort put the better one first.
        hull.push(i);
    }
    hull
}

/// Error bought for each byte.
#[allow(clippy::cast_precision_loss, reason = "sizes compare well enough with 53 bits")]
fn slope(from: Choice, to: Choice) -> f64 {
    (from.sq_error - to.sq_error) / (to.bytes.saturating_sub(from.bytes).max(1)) as f64
}

/// The choice of every stream with the least sum of errors for at most `budget` bytes, found by taking the steepest
/// step of all hulls while it fits: optimal for every budget that a whole number of steps meets, and never more than
/// one step worse otherwise. `None` if even the smallest choices are too big.
#[must_use]
pub fn spend(streams: &[Vec<Choice>], budget: u64) -> Option<Vec<usize>> {
    let hulls: Vec<Vec<usize>> = streams.iter().map(|c| lower_hull(c)).collect();
    let mut at = vec![0usize; streams.len()];
    let mut spent: u64 = hulls.iter().zip(streams).map(|(h, c)| h.first().map_or(0, |&i| c[i].bytes)).sum();
    if spent > budget {
        return None;
    }
    let step = |s: usize, at: usize| {
        let (from, to) = (*hulls[s].get(at)?, *hulls[s].get(at + 1)?);
        Some((streams[s][from], streams[s][to]))
    };
    // A stream whose next step does not fit is done: its later steps are dearer still.
    let mut open: Vec<usize> = (0..streams.len()).collect();
    loop {
        let best = open
            .iter()
            .filter_map(|&s| step(s, at[s]).map(|(from, to)| (slope(from, to), s, to.bytes - from.bytes)))
            .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        let Some((_, s, cost)) = best else { break };
        if spent + cost <= budget {
            spent += cost;
            at[s] += 1;
        } else {
            open.retain(|&o| o != s);
        }
    }
    Some(hulls.iter().zip(&at).map(|(h, &a)| h.get(a).copied().unwrap_or(0)).collect())
}

/// The cheapest choice of every stream with a relative squared error of at most `sq_error`; `None` where no choice
/// is good enough.
#[must_use]
pub fn cheapest_within(choices: &[Choice], sq_error: f64) -> Option<usize> {
    let good = (0..choices.len()).filter(|&i| choices[i].sq_error <= sq_error);
    good.min_by(|&a, &b| {
        let (x, y) = (choices[a], choices[b]);
        x.bytes.cmp(&y.bytes).then(x.sq_error.total_cmp(&y.sq_error)).then(a.cmp(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn choices(points: &[(u64, f64)]) -> Vec<Choice> {
        points.iter().map(|&(bytes, sq_error)| Choice { bytes, sq_error }).collect()
    }

    #[test]
    fn the_hull_drops_what_another_choice_or_a_mix_beats() {
        // (30, 5.0) lies above the line from (20, 4.0) to (40, 1.0); (25, 3.9) too.
        let c = choices(&[(40, 1.0), (10, 10.0), (30, 5.0), (20, 4.0), (25, 3.9), (20, 6.0), (50, 1.0)]);
        assert_eq!(lower_hull(&c), [1, 3, 0]);
        assert_eq!(lower_hull(&[]), [0; 0]);
    }

    #[test]
    fn bytes_go_where_they_help_most() {
        let flat = choices(&[(10, 0.2), (20, 0.19)]);
        let steep = choices(&[(10, 0.5), (20, 0.1)]);
        assert_eq!(spend(&[flat.clone(), steep.clone()], 30), Some(vec![0, 1]));
        assert_eq!(spend(&[flat.clone(), steep.clone()], 40), Some(vec![1, 1]));
        assert_eq!(spend(&[flat, steep], 19), None);
    }

    #[test]
    fn the_cheapest_good_enough_choice_is_taken() {
        let c = choices(&[(10, 0.5), (30, 0.01), (20, 0.1), (20, 0.05)]);
        assert_eq!(cheapest_within(&c, 0.1), Some(3));
        assert_eq!(cheapest_within(&c, 0.01), Some(1));
        assert_eq!(cheapest_within(&c, 0.001), None);
    }

    fn stream() -> impl Strategy<Value = Vec<Choice>> {
        prop::collection::vec((1u64..40, 0.0f64..1.0), 1..5)
            .prop_map(|v| v.into_iter().map(|(bytes, sq_error)| Choice { bytes, sq_error }).collect())
    }

    proptest! {
        /// Against trying every combination: the plan fits, and its error exceeds the best one by no more than the
        /// largest single step saves.
        #[test]
        fn spending_is_within_one_step_of_the_best(streams in prop::collection::vec(stream(), 1..5), budget in 1u64..160) {
            let mut best: Option<f64> = None;
            let mut index = vec![0usize; streams.len()];
            'all: loop {
                let picked = || index.iter().zip(&streams).map(|(&i, s)| s[i]);
                if picked().map(|c| c.bytes).sum::<u64>() <= budget {
                    let error: f64 = picked().map(|c| c.sq_error).sum();
                    best = Some(best.map_or(error, |b| b.min(error)));
                }
                for (i, s) in index.iter_mut().zip(&streams) {
                    *i += 1;
                    if *i < s.len() {
                        continue 'all;
                    }
                    *i = 0;
                }
                break;
            }
            let plan = spend(&streams, budget);
            prop_assert_eq!(plan.is_some(), best.is_some());
            if let (Some(plan), Some(best)) = (plan, best) {
                let picked = || plan.iter().zip(&streams).map(|(&i, s)| s[i]);
                prop_assert!(picked().map(|c| c.bytes).sum::<u64>() <= budget);
                let steps = streams.iter().flat_map(|s| {
                    let hull = lower_hull(s);
                    hull.windows(2).map(|w| s[w[0]].sq_error - s[w[1]].sq_error).collect::<Vec<_>>()
                });
                let largest = steps.fold(0.0, f64::max);
                prop_assert!(picked().map(|c| c.sq_error).sum::<f64>() <= best + largest + 1e-12);
            }
        }
    }
}
