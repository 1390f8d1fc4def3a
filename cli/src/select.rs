//! The part of a dump that is to be packed: layers, tokens and heads.

use std::ops::Range;

use anyhow::Result;
use tersa_core::view::{KvShape, KvView};

use crate::args::SelectArgs;
use crate::dump::{Dump, DumpStream, Positions};
use crate::exit::Fault;

/// One stream of the selection.
pub struct Part<'a> {
    /// The stream as it will be stored: shape, positions and place are those of the selection.
    pub stream: DumpStream,
    /// Its rows: one view of all heads, or, where the heads lie at uneven distances, one view for each head.
    views: Vec<KvView<'a>>,
}

impl<'a> Part<'a> {
    /// The stream's rows: one view of all heads, or, where these lie at uneven distances, one view for each head.
    #[must_use]
    pub fn views(&self) -> &[KvView<'a>] {
        &self.views
    }

    /// Copies the rows of `head` for `tokens` side by side into `out`.
    ///
    /// # Panics
    /// As [`KvView::copy_rows`].
    pub fn copy_rows(&self, head: usize, tokens: Range<usize>, out: &mut [u8]) {
        match &self.views[..] {
            [all] => all.copy_rows(head, tokens, out),
            one_each => one_each[head].copy_rows(0, tokens, out),
        }
    }

    /// Bytes of the rows.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.stream.len_bytes()
    }
}

/// The streams that `select` leaves of `dump`, in the dump's order.
///
/// # Errors
/// If nothing is left, or the dump holds a tensor that does not lie within its file.
pub fn select<'a>(dump: &'a Dump, select: &SelectArgs) -> Result<Vec<Part<'a>>> {
    let mut parts = Vec::new();
    for (i, stream) in dump.streams.iter().enumerate() {
        if select.layers.as_ref().is_some_and(|l| !l.contains(stream.layer as usize)) {
            continue;
        }
        // Checks that the tensor lies within its file, so that the arithmetic below stays within bounds.
        dump.view(i)?;
        let heads: Vec<usize> = (0..stream.shape.n_kv_heads)
            .filter(|&h| select.heads.as_ref().is_none_or(|set| set.contains(h)))
            .collect();
        let tokens = match &select.tokens {
            Some(range) => range.within(stream.shape.n_tokens),
            None => 0..stream.shape.n_tokens,
        };
        if heads.is_empty() || (tokens.is_empty() && stream.shape.n_tokens != 0) {
            continue;
        }
        parts.push(narrow(dump, stream, &heads, tokens)?);
    }
    if parts.is_empty() && !dump.streams.is_empty() {
        return Err(Fault::usage(
            "nothing is selected; look with `tersa inspect` which layers, tokens and heads there are",
        ));
    }
    Ok(parts)
}

fn narrow<'a>(
    dump: &'a Dump,
    stream: &DumpStream,
    heads: &[usize],
    tokens: Range<usize>,
) -> Result<Part<'a>> {
    let (shape, strides) = (stream.shape, stream.strides);
    let mut out = stream.clone();
    out.shape.n_tokens = tokens.len();
    out.shape.n_kv_heads = heads.len();
    out.positions = match &stream.positions {
        Some(positions) => Some(positions.range(tokens.clone())),
        // Rows are positions, so the rows that are left must keep theirs.
        None if tokens.start > 0 => Positions::counted(tokens.start, tokens.len()),
        None => None,
    };
    out.sequences = stream.sequences.as_ref().map(|s| s.range(tokens.clone()));
    // Heads at equal distances and any token range are the same memory seen through other strides.
    let step = heads.get(1).map_or(1, |second| second - heads[0]);
    let even = heads.windows(2).all(|w| w[1] - w[0] == step);
    let first_of = |head: usize| {
        let elements = tokens.start * strides.token + head * strides.head;
        stream.offset + elements / shape.dtype.block_len() * shape.dtype.block_bytes()
    };
    let data = |head: usize| dump.files[stream.file].bytes.get(first_of(head)..).unwrap_or_default();
    out.offset = first_of(heads[0]);
    out.strides.head *= step;
    let views = if even {
        vec![KvView::new(data(heads[0]), out.shape, out.strides)?]
    } else {
        let one = KvShape { n_kv_heads: 1, ..out.shape };
        heads.iter().map(|&h| KvView::new(data(h), one, strides)).collect::<Result<_, _>>()?
    };
    Ok(Part { stream: out, views })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::{FileBytes, Kind, SourceFile, SourceFormat};
    use tersa_core::num::DType;
    use tersa_core::view::KvStrides;

    /// Element (token, head, dim) is `100 * token + 10 * head + dim`.
    fn dump() -> Dump {
        let shape = KvShape { dtype: DType::F32, n_tokens: 4, n_kv_heads: 4, head_dim: 2 };
        let mut bytes = Vec::new();
        for (token, head, dim) in (0..32).map(|i| (i / 8, i / 2 % 4, i % 2)) {
            #[allow(clippy::cast_precision_loss, reason = "small numbers")]
            bytes.extend_from_slice(&((100 * token + 10 * head + dim) as f32).to_le_bytes());
        }
        let stream = |layer| DumpStream {
            part: 0,
            layer,
            kind: Kind::K,
            shape,
            file: 0,
            offset: 0,
            strides: KvStrides::token_major(&shape),
            hadamard: 0,
            positions: Positions::counted(5, 4),
            sequences: None,
        };
        Dump {
            files: vec![SourceFile { path: "x".into(), name: "x".into(), bytes: FileBytes::Owned(bytes) }],
            streams: vec![stream(0), stream(3)],
            queries: Vec::new(),
            others: Vec::new(),
            format: SourceFormat::Npy,
            meta: serde_json::Map::new(),
            assumptions: Vec::new(),
            heads_known: true,
            rotation_known: true,
        }
    }

    fn values(part: &Part<'_>, tokens: Range<usize>) -> Vec<f32> {
        let mut out = Vec::new();
        for head in 0..part.stream.shape.n_kv_heads {
            let mut rows = vec![0; tokens.len() * 8];
            part.copy_rows(head, tokens.clone(), &mut rows);
            out.extend(rows.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())));
        }
        out
    }

    #[test]
    fn even_and_uneven_heads_give_the_selected_rows() {
        let dump = dump();
        let args = |heads: &str| SelectArgs {
            layers: Some("3".parse().unwrap()),
            tokens: Some("1..3".parse().unwrap()),
            heads: Some(heads.parse().unwrap()),
        };
        let even = select(&dump, &args("1,3")).unwrap();
        assert_eq!(even.len(), 1);
        assert_eq!(even[0].stream.layer, 3);
        assert_eq!(even[0].stream.positions, Positions::counted(6, 2));
        assert_eq!(values(&even[0], 1..2), [210.0, 211.0, 230.0, 231.0]);
        let uneven = select(&dump, &args("0,1,3")).unwrap();
        assert_eq!(uneven[0].views().len(), 3);
        assert_eq!(values(&uneven[0], 0..1), [100.0, 101.0, 110.0, 111.0, 130.0, 131.0]);
    }

    #[test]
    fn an_empty_selection_is_refused() {
        let none = SelectArgs { layers: Some("9".parse().unwrap()), ..SelectArgs::default() };
        assert!(select(&dump(), &none).is_err());
        assert_eq!(select(&dump(), &SelectArgs::default()).unwrap().len(), 2);
    }
}
