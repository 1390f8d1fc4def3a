//! Which tokens the rows of a stream are: positions and sequences of llama.cpp's cells.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Positions of rows, as runs of consecutive ones: memory follows the runs that a file lists, never the count of rows
/// that it claims.
#[derive(Clone, Debug)]
pub struct Positions {
    /// First position and count, never 0.
    runs: Arc<[(i32, u32)]>,
    /// The rows meant, of those that the runs cover.
    rows: Range<usize>,
}

impl Positions {
    /// From runs `(first, count)`; `None` unless they cover exactly `n` rows and every position is an `i32`.
    #[must_use]
    pub fn from_runs(runs: &[(i32, u32)], n: usize) -> Option<Self> {
        let total: u64 = runs.iter().map(|&(_, n)| u64::from(n)).sum();
        let sound = |&(first, n): &(i32, u32)| n == 0 || first.checked_add_unsigned(n - 1).is_some();
        (total == n as u64 && runs.iter().all(sound))
            .then(|| Self { runs: runs.iter().copied().filter(|r| r.1 > 0).collect(), rows: 0..n })
    }

    /// `first`, `first + 1`, ... for `n` rows, as far as they are an `i32`.
    #[must_use]
    pub fn counted(first: usize, n: usize) -> Option<Self> {
        Self::from_runs(&[(i32::try_from(first).ok()?, u32::try_from(n).ok()?)], n)
    }

    /// Rows.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rows.end - self.rows.start
    }

    /// Whether there are no rows.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The positions of some of the rows.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn range(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.len(), "rows {rows:?} of {}", self.len());
        Self { runs: self.runs.clone(), rows: self.rows.start + rows.start..self.rows.start + rows.end }
    }

    /// The runs of the rows meant.
    pub fn runs(&self) -> impl Iterator<Item = (i32, u32)> + Clone + '_ {
        let mut before = 0_usize;
        self.runs.iter().filter_map(move |&(first, n)| {
            let run = before..before + n as usize;
            before = run.end;
            let (from, to) = (self.rows.start.max(run.start), self.rows.end.min(run.end));
            let narrow = |n: usize| u32::try_from(n).ok();
            let skipped = narrow(from.checked_sub(run.start)?)?;
            let n = narrow(to.checked_sub(from)?).filter(|n| *n > 0)?;
            Some((first.checked_add_unsigned(skipped)?, n))
        })
    }

    /// Whether row `i` is position `i`, so that the list says nothing.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        let mut next = 0_i64;
        self.runs().all(|(first, n)| {
            let here = next;
            next += i64::from(n);
            i64::from(first) == here
        })
    }

    /// Whether positions never fall.
    #[must_use]
    pub fn is_sorted(&self) -> bool {
        let ends = self.runs().map(|(first, n)| i64::from(first) + i64::from(n) - 1);
        ends.zip(self.runs().skip(1)).all(|(last, (next, _))| last <= i64::from(next))
    }

    /// The position of each row in turn.
    pub fn iter(&self) -> impl Iterator<Item = i32> + Clone + '_ {
        self.runs().flat_map(|(first, n)| (0..n).map(move |i| first.saturating_add_unsigned(i)))
    }
}

impl FromIterator<i32> for Positions {
    fn from_iter<I: IntoIterator<Item = i32>>(positions: I) -> Self {
        let mut runs: Vec<(i32, u32)> = Vec::new();
        let mut n = 0;
        for p in positions {
            n += 1;
            match runs.last_mut() {
                Some((first, n)) if first.checked_add_unsigned(*n) == Some(p) => *n += 1,
                _ => runs.push((p, 1)),
            }
        }
        Self { runs: runs.into(), rows: 0..n }
    }
}

impl PartialEq for Positions {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Positions {}

/// The sequences that each row belongs to, where a cache holds several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequences {
    /// Where each row's list ends in `ids`.
    ends: Arc<[u32]>,
    ids: Arc<[i32]>,
    rows: Range<usize>,
}

impl Sequences {
    /// From each row's list, one after another; `None` if all rows belong to the same one sequence.
    #[must_use]
    pub fn new(ends: Vec<u32>, ids: Vec<i32>) -> Option<Self> {
        let one_each = ends.iter().zip(1..).all(|(end, i)| *end == i);
        if one_each && ids.windows(2).all(|w| w[0] == w[1]) {
            return None;
        }
        let rows = 0..ends.len();
        Some(Self { ends: ends.into(), ids: ids.into(), rows })
    }

    /// The sequences of some of the rows.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn range(&self, rows: Range<usize>) -> Self {
        let end = self.rows.start + rows.end;
        assert!(rows.start <= rows.end && end <= self.rows.end, "rows {rows:?} of {:?}", self.rows);
        Self { rows: self.rows.start + rows.start..end, ..self.clone() }
    }

    /// The list of each row in turn.
    fn iter(&self) -> impl Iterator<Item = &[i32]> + '_ {
        let start = |i: usize| if i == 0 { 0 } else { self.ends[i - 1] as usize };
        self.rows.clone().map(move |i| &self.ids[start(i)..self.ends[i] as usize])
    }

    /// For each row, how far its position lies behind the last one of its sequence, the least of them where it
    /// belongs to several; `None` for rows of no sequence.
    pub(crate) fn behind_last(&self, positions: impl Iterator<Item = i64> + Clone) -> Vec<Option<i64>> {
        let mut last: HashMap<i32, i64> = HashMap::new();
        for (ids, p) in self.iter().zip(positions.clone()) {
            for id in ids {
                last.entry(*id).and_modify(|last| *last = p.max(*last)).or_insert(p);
            }
        }
        let behind = |(ids, p): (&[i32], i64)| ids.iter().map(|id| last[id] - p).min();
        self.iter().zip(positions).map(behind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_what_the_list_was_and_can_be_cut_anywhere() {
        let list = [188, 189, 190, 0, 1, 7, 7, i32::MAX];
        let all: Positions = list.into_iter().collect();
        assert_eq!(all.runs().collect::<Vec<_>>(), [(188, 3), (0, 2), (7, 1), (7, 1), (i32::MAX, 1)]);
        for start in 0..=list.len() {
            for end in start..=list.len() {
                let part = all.range(start..end);
                assert_eq!(part.iter().collect::<Vec<_>>(), list[start..end]);
                assert_eq!((part.len(), part.is_empty()), (end - start, end == start));
                assert_eq!(part, list[start..end].iter().copied().collect());
                assert_eq!(part.is_sorted(), list[start..end].is_sorted());
                assert_eq!(
                    part.is_counted(),
                    part.is_empty() || list[start..end] == [0, 1][..part.len().min(2)]
                );
                if let Some(shorter) = end.checked_sub(start + 1) {
                    assert_eq!(part.range(1..1 + shorter).iter().collect::<Vec<_>>(), list[start + 1..end]);
                }
            }
        }
    }

    #[test]
    fn runs_must_cover_the_rows_and_stay_numbers() {
        assert!(Positions::from_runs(&[(0, 3), (9, 1)], 4).is_some());
        assert!(Positions::from_runs(&[(0, 3), (9, 1)], 5).is_none());
        assert!(Positions::from_runs(&[(i32::MAX, 2)], 2).is_none());
        assert!(Positions::from_runs(&[(0, u32::MAX); 9], 7).is_none());
        // A claim of four thousand million rows takes no more memory than one of one row.
        let many = Positions::from_runs(&[(-5, 1 << 31)], 1 << 31).unwrap();
        assert_eq!(many.range((1 << 31) - 1..1 << 31).iter().collect::<Vec<_>>(), [i32::MAX - 5]);
    }

    #[test]
    fn each_sequence_has_its_own_last_row() {
        // Rows: 0 of both, 1 and 2 of the first, 7 of the second, one of none.
        let of = Sequences::new(vec![2, 3, 4, 5, 5], vec![0, 1, 0, 0, 1]).unwrap();
        let positions = [0, 1, 2, 7, 4].into_iter();
        assert_eq!(of.behind_last(positions.clone()), [Some(2), Some(1), Some(0), Some(0), None]);
        assert_eq!(of.range(0..2).behind_last(positions.take(2)), [Some(0), Some(0)]);
        assert_eq!(Sequences::new(vec![1, 2, 3], vec![4; 3]), None, "one sequence is none to tell apart");
    }
}
