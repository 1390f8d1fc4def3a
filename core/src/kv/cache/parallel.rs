//! What takes long, split by heads over the threads of the current rayon pool.

use super::{Buffers, HeadCache, HeadScratch, PqCache, Prompt};
use crate::kv::KvError;
use rayon::iter::{IndexedParallelIterator as _, IntoParallelRefMutIterator as _, ParallelIterator as _};

impl PqCache {
    /// As [`prefill`](Self::prefill), each head by whichever thread is free. Buffers are made for each piece of work.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill), of the first head that failed; the others are done.
    pub fn par_prefill(&mut self, keys: &[u8], values: &[u8], queries: &[f32]) -> Result<(), KvError> {
        let prompt = Prompt::new(self, keys, values, queries)?;
        let scratch = self.scratch(0)?;
        first_error(&mut self.heads, &scratch, |h, head, scratch| {
            prompt.prefill(h, head, &mut Buffers::default(), scratch)
        })
    }

    /// As [`refresh`](Self::refresh), each head by whichever thread is free.
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh), of the first head that failed; the others are done.
    pub fn par_refresh(&mut self) -> Result<(), KvError> {
        let scratch = self.scratch(0)?;
        first_error(&mut self.heads, &scratch, |_, head, scratch| {
            if head.is_refresh_due() { head.refresh(None, scratch) } else { Ok(()) }
        })
    }
}

fn first_error(
    heads: &mut [HeadCache],
    scratch: &HeadScratch,
    work: impl Fn(usize, &mut HeadCache, &mut HeadScratch) -> Result<(), KvError> + Sync,
) -> Result<(), KvError> {
    let heads = heads.par_iter_mut().enumerate();
    let results = heads.map_init(|| scratch.clone(), |scratch, (h, head)| work(h, head, scratch));
    results.collect::<alloc::vec::Vec<_>>().into_iter().collect()
}
