//! A codec's saved form: a `.tersa` container without tokens, whose tables name codecs and hold codebooks.

use tersa_core::codec::KvSpec;
use tersa_core::format::{Head, HeadStats, Kind, Reader, Sink, StreamEntry, StreamInfo, Writer};
use tersa_core::num::hash::Xxh64;
use tersa_core::view::KvShape;

use super::{Codec, KindCodec, make};
use crate::status::{Failure, fail};
use crate::stored;

/// Writes `codec` to `sink`.
pub(super) fn save<S: Sink>(codec: &Codec, sink: S) -> Result<S, Failure>
where
    S::Error: Into<Failure>,
{
    let mut writer = Writer::new(sink)?;
    let mut entries = Vec::new();
    for layer in 0..codec.n_layers {
        for (kind, of_kind) in [Kind::K, Kind::V].into_iter().zip(&codec.kinds) {
            let spec = if kind == Kind::K { codec.spec.k } else { codec.spec.v };
            let index = writer.codec(&spec.to_string())?;
            let mut heads = Vec::with_capacity(of_kind.rows.n_kv_heads);
            for head in 0..of_kind.rows.n_kv_heads {
                let side = writer.write_side(&of_kind.side(layer, head).to_stored())?;
                heads.push(Head { codec: index, side });
            }
            let rows = of_kind.rows;
            let shape = KvShape {
                dtype: rows.dtype,
                n_tokens: 0,
                n_kv_heads: rows.n_kv_heads,
                head_dim: rows.head_dim,
            };
            let narrow = |n: usize| u32::try_from(n).expect("capped when the codec was made");
            let (layer, chunk_tokens) = (narrow(layer), narrow(codec.chunk_tokens));
            let info = StreamInfo { part: 0, layer, kind, shape, chunk_tokens, hadamard: 0 };
            let stats = vec![HeadStats::default(); heads.len()];
            entries.push(StreamEntry { info, heads, exact: None, stats });
        }
    }
    Ok(writer.finish(&entries, "{}", None)?)
}

/// Reads what [`save`] wrote.
pub(super) fn load(bytes: &[u8]) -> Result<Codec, Failure> {
    struct Slice<'a>(&'a [u8]);
    impl tersa_core::format::ReadAt for Slice<'_> {
        type Error = Failure;
        fn len(&self) -> Result<u64, Failure> {
            Ok(self.0.len() as u64)
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Failure> {
            match self.0.read_at(offset, buf) {
                Ok(()) => Ok(()),
                Err(e) => fail!(TERSA_ERR_CORRUPT, "{e}"),
            }
        }
    }
    let reader = Reader::open(Slice(bytes))?;
    let foreign = || fail!(TERSA_ERR_CORRUPT, "a container, but not one that tersa_codec_save wrote");
    let infos = reader.streams();
    let has_v = infos.iter().any(|i| i.kind == Kind::V);
    let n_layers = if has_v { infos.len() / 2 } else { infos.len() };
    let Some(first) = infos.first() else { return foreign() };
    let kinds = if has_v { &[Kind::K, Kind::V][..] } else { &[Kind::K] };
    let (mut parts, mut specs) = (Vec::new(), Vec::new());
    for &kind in kinds {
        let (mut streams, mut sides) = (Vec::new(), Vec::new());
        let mut seen = None;
        for layer in 0..n_layers {
            let Some(stream) = u32::try_from(layer).ok().and_then(|layer| reader.find(0, layer, kind)) else {
                return foreign();
            };
            let (info, rows) = (&infos[stream], stored::rows(&reader, stream));
            let opened = stored::open(&reader, stream)?;
            let spec = opened.specs[0];
            let same = seen.is_none_or(|s| s == (rows, spec));
            let alike = opened.specs.iter().all(|s| *s == spec);
            if info.shape.n_tokens != 0 || info.chunk_tokens != first.chunk_tokens || !same || !alike {
                return foreign();
            }
            seen = Some((rows, spec));
            streams.push(opened.codec);
            sides.push(opened.sides);
        }
        let Some((rows, spec)) = seen else { return foreign() };
        specs.push(spec);
        parts.push(KindCodec { rows, streams, sides });
    }
    if infos.len() != n_layers * kinds.len() {
        return foreign();
    }
    let spec = KvSpec { k: specs[0], v: specs[specs.len() - 1] };
    make::finish(spec, n_layers, first.chunk_tokens as usize, parts)
}

/// XXH64 of the saved form.
pub(super) fn fingerprint(codec: &Codec) -> Result<u64, Failure> {
    struct Hash(Xxh64);
    impl Sink for Hash {
        type Error = std::convert::Infallible;
        fn write(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
            self.0.update(bytes);
            Ok(())
        }
    }
    Ok(save(codec, Hash(Xxh64::new(0)))?.0.finish())
}
