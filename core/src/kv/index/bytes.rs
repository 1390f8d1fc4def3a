//! An index as bytes, for the index section of a container; `docs/format.md`, section 8, is the authority.

use super::{IndexParams, PqIndex, Trained};
use crate::kv::KvError;
use crate::kv::drift::DriftMonitor;
use crate::pq::{Codebook, KeyTransform};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The only layout there is.
const LAYOUT: u32 = 1;

/// Which tokens of a sequence an index is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexPlace {
    /// The token of its first key.
    pub first: u64,
    /// Tokens of the prompt, which windows and budgets may depend on.
    pub prompt: u64,
}

impl PqIndex {
    /// The index as bytes. Cost: one pass over the codes.
    #[must_use]
    pub fn to_bytes(&self, place: IndexPlace) -> Vec<u8> {
        let shape = self.params.shape;
        let mut out = Vec::new();
        let mut put = |bytes: &[u8]| out.extend_from_slice(bytes);
        let count = |n: usize| u32::try_from(n).expect("a shape's numbers are at most 65536").to_le_bytes();
        put(&LAYOUT.to_le_bytes());
        put(&count(shape.d()));
        put(&count(shape.m()));
        let bits = self.params.rerank.map_or(0, |r| r.bits);
        let transform = self.trained.as_ref().is_some_and(|t| !t.transform.is_identity());
        put(&[shape.nbits(), bits, transform.into(), self.trained.is_some().into()]);
        put(&self.params.rerank.map_or(0, |r| r.seed).to_le_bytes());
        put(&place.first.to_le_bytes());
        put(&(self.len() as u64).to_le_bytes());
        put(&place.prompt.to_le_bytes());
        let Some(trained) = &self.trained else {
            put(&[0; 32]);
            return out;
        };
        put(&(trained.tokens as u64).to_le_bytes());
        put(&trained.drift.seen().to_le_bytes());
        let (before, recent) = trained.drift.errors();
        put(&before.to_le_bytes());
        put(&recent.to_le_bytes());
        let mut append = |n: usize, fill: &mut dyn FnMut(&mut [u8]) -> bool| {
            let at = out.len();
            out.resize(at + n, 0);
            let fits = fill(&mut out[at..]);
            debug_assert!(fits, "sized for it");
        };
        let transform = &trained.transform;
        append(transform.len_bytes(), &mut |to| transform.to_bytes(to).is_ok());
        append(Codebook::len_bytes(shape), &mut |to| trained.codebook.to_bytes(to).is_ok());
        let n = self.len();
        append(n * shape.code_bytes(), &mut |to| self.codes.pack(0..n, to).is_ok());
        if let Some(rerank) = &self.rerank {
            append(n * rerank.record_bytes(), &mut |to| {
                rerank.pack(0..n, to);
                true
            });
        }
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, for an index of `params`. Memory is taken for what the bytes hold and
    /// never for what they claim.
    ///
    /// # Errors
    /// [`KvError::OtherIndex`] if the bytes are of an index of another layout, shape or second level, [`KvError::Corrupt`]
    /// or [`KvError::Pq`] if they are no index.
    pub fn from_bytes(params: IndexParams, bytes: &[u8]) -> Result<(Self, IndexPlace), KvError> {
        let mut fields = Fields(bytes);
        let shape = params.shape;
        let same = |what, same: bool| if same { Ok(()) } else { Err(KvError::OtherIndex { what }) };
        same("layout", fields.u32()? == LAYOUT)?;
        same("dimension", usize::try_from(fields.u32()?) == Ok(shape.d()))?;
        same("sub-quantizers", usize::try_from(fields.u32()?) == Ok(shape.m()))?;
        let [nbits, bits, transform, trained] = fields.array()?;
        same("bits of a code", nbits == shape.nbits())?;
        same("second level", bits == params.rerank.map_or(0, |r| r.bits))?;
        same("transform", transform == 0 || params.transform)?;
        same("seed", fields.u64()? == params.rerank.map_or(0, |r| r.seed))?;
        let first = fields.u64()?;
        let n = fields.u64()?;
        let place = IndexPlace { first, prompt: fields.u64()? };
        let (tokens, seen) = (fields.u64()?, fields.u64()?);
        let errors = [f64::from_le_bytes(fields.array()?), f64::from_le_bytes(fields.array()?)];
        let mut index = Self::new(params)?;
        match trained {
            0 if n == 0 && transform == 0 => return fields.end().map(|()| (index, place)),
            1 => {}
            _ => return Err(KvError::Corrupt { what: "trained is neither yes nor no" }),
        }
        if !errors.iter().all(|e| *e >= 0.0 && e.is_finite()) {
            return Err(KvError::Corrupt { what: "an error is negative or not finite" });
        }
        let d = shape.d();
        let matrices = match transform {
            0 => 0,
            1 => d.checked_mul(8 * d).ok_or(SHORT)?,
            _ => return Err(KvError::Corrupt { what: "a transform is neither there nor not" }),
        };
        let transform = KeyTransform::from_bytes(d, fields.bytes(matrices)?)?;
        let codebook = Codebook::from_bytes(shape, fields.bytes(Codebook::len_bytes(shape))?)?;
        let n = usize::try_from(n).map_err(|_| KvError::Corrupt { what: "there are fewer bytes" })?;
        let codes = fields.rows(n, shape.code_bytes())?;
        if let Some(rerank) = &mut index.rerank {
            let records = fields.rows(n, rerank.record_bytes())?;
            rerank.extend_packed(records)?;
        }
        fields.end()?;
        index.codes.extend_packed(codes, n)?;
        let tokens = usize::try_from(tokens).unwrap_or(usize::MAX);
        let drift = DriftMonitor::restored(index.params.refresh.drift(), errors, seen);
        let (transform, codebook) = (Arc::new(transform), Arc::new(codebook));
        index.trained = Some(Trained { transform, codebook, tokens, drift });
        Ok((index, place))
    }
}

/// What is left of the bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], KvError> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn rows(&mut self, n: usize, bytes: usize) -> Result<&'a [u8], KvError> {
        self.bytes(n.checked_mul(bytes).ok_or(SHORT)?)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], KvError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, KvError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, KvError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn end(&self) -> Result<(), KvError> {
        if self.0.is_empty() { Ok(()) } else { Err(KvError::Corrupt { what: "there are bytes left" }) }
    }
}

const SHORT: KvError = KvError::Corrupt { what: "there are fewer bytes" };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::config::Rerank;
    use crate::kv::index::tests::{RERANK, filled};
    use crate::select::GroupRule;
    use alloc::vec;

    /// Bytes before the first array.
    const FIXED: usize = 80;

    fn bytes(rerank: Option<Rerank>) -> (PqIndex, Vec<u8>) {
        let index = filled(70, rerank, GroupRule::SoftmaxSum);
        let bytes = index.to_bytes(IndexPlace { first: 4, prompt: 99 });
        (index, bytes)
    }

    #[test]
    fn an_index_comes_back_as_it_was() {
        let transformed = {
            let mut index =
                PqIndex::new(IndexParams { transform: true, ..bytes(None).0.params().clone() }).unwrap();
            let rows = crate::kv::index::tests::keys(400, 1);
            index.train(&rows, &crate::kv::index::tests::keys(300, 2), 400, None).unwrap();
            let mut scratch = crate::kv::index::EncodeScratch::new(index.params().shape);
            index.extend(&rows[..70 * 32], &mut scratch).unwrap();
            let bytes = index.to_bytes(IndexPlace { first: 4, prompt: 99 });
            (index, bytes, None)
        };
        let plain = [None, Some(RERANK)].map(|rerank| {
            let (index, bytes) = bytes(rerank);
            (index, bytes, rerank)
        });
        for (index, bytes, rerank) in plain.into_iter().chain([transformed]) {
            let (back, place) = PqIndex::from_bytes(index.params().clone(), &bytes).unwrap();
            assert_eq!(place, IndexPlace { first: 4, prompt: 99 });
            assert_eq!(back.to_bytes(place), bytes);
            assert_eq!(back.stats(), index.stats());
            assert!(back.codebook() == index.codebook());
            let record = rerank.map_or(0, |_| 32 * 3 / 8 + 2);
            let matrices = index.transform().unwrap().len_bytes();
            assert_eq!(bytes.len(), FIXED + matrices + 16 * 32 * 4 + 70 * (2 + record), "docs/format.md");
            assert!(back.transform() == index.transform());
        }
        let empty = PqIndex::new(bytes(None).0.params().clone()).unwrap();
        let bytes = empty.to_bytes(IndexPlace::default());
        assert_eq!(bytes.len(), FIXED);
        let (back, _) = PqIndex::from_bytes(empty.params().clone(), &bytes).unwrap();
        assert!(back.codebook().is_none());
    }

    #[test]
    fn other_indexes_are_told_apart() {
        let (index, bytes) = bytes(Some(RERANK));
        let params = index.params();
        let others = [
            IndexParams { rerank: None, ..params.clone() },
            IndexParams { rerank: Some(Rerank { bits: 2, ..RERANK }), ..params.clone() },
            IndexParams { rerank: Some(Rerank { seed: 1, ..RERANK }), ..params.clone() },
            IndexParams { shape: crate::pq::PqShape::new(32, 2, 4).unwrap(), ..params.clone() },
            IndexParams { shape: crate::pq::PqShape::new(32, 4, 6).unwrap(), ..params.clone() },
            IndexParams { shape: crate::pq::PqShape::new(64, 4, 4).unwrap(), ..params.clone() },
        ];
        for other in others {
            let error = PqIndex::from_bytes(other, &bytes).err();
            assert!(matches!(error, Some(KvError::OtherIndex { .. })), "{error:?}");
        }
    }

    #[test]
    fn every_cut_is_an_error_and_no_flip_panics() {
        for rerank in [None, Some(RERANK)] {
            let (index, mut bytes) = bytes(rerank);
            let params = index.params();
            for len in 0..bytes.len() {
                assert!(PqIndex::from_bytes(params.clone(), &bytes[..len]).is_err(), "cut at {len}");
            }
            bytes.push(0);
            assert!(PqIndex::from_bytes(params.clone(), &bytes).is_err());
            bytes.pop();
            for at in 0..bytes.len() {
                for flip in [0x01, 0x80, 0xff] {
                    bytes[at] ^= flip;
                    // Codes have no redundancy; whatever is taken for an index must work as one.
                    if let Ok((index, place)) = PqIndex::from_bytes(params.clone(), &bytes) {
                        assert_eq!(index.len(), 70, "byte {at}");
                        assert_eq!(index.to_bytes(place).len(), bytes.len());
                        let mut out = vec![0; 9];
                        let mut scratch = crate::kv::index::SelectScratch::new(params, 1, 70, 9);
                        let _ = index.select(&[0.5; 32], 1.0, &mut out, &mut scratch);
                        assert!(out.iter().all(|&i| i < 70));
                    }
                    bytes[at] ^= flip;
                }
            }
        }
    }

    #[test]
    fn claimed_counts_take_no_memory() {
        let (index, bytes) = bytes(None);
        for n in [71, u64::from(u32::MAX), 1 << 62, u64::MAX] {
            let mut forged = bytes.clone();
            forged[32..40].copy_from_slice(&n.to_le_bytes());
            let error = PqIndex::from_bytes(index.params().clone(), &forged).err();
            assert_eq!(error, Some(SHORT), "{n}");
        }
    }
}
