//! A stream's codecs out of a container.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::chunk::StreamCodec;
use super::{CodecError, CodecSpec, Side, SpecError, StoredSideError, TileCodec, prepare};
use crate::format::{FormatError, Head, ReadAt, ReadError, Reader};

/// Why a stream's codecs cannot be made ready.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub enum OpenError<E> {
    /// The container could not be read, is not sound, or has no such stream.
    Read(ReadError<E>),
    /// A codec that this release does not know.
    Spec(SpecError),
    /// Side data that does not serve its codec.
    Side(StoredSideError),
    /// Rows that the codec does not serve, or side data of another length.
    Codec(CodecError),
}

impl<E: core::fmt::Display> core::fmt::Display for OpenError<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Read(e) => e.fmt(f),
            Self::Spec(e) => e.fmt(f),
            Self::Side(e) => e.fmt(f),
            Self::Codec(e) => e.fmt(f),
        }
    }
}

impl<E: core::error::Error> core::error::Error for OpenError<E> {}

impl<E> From<ReadError<E>> for OpenError<E> {
    fn from(e: ReadError<E>) -> Self {
        Self::Read(e)
    }
}

impl StreamCodec {
    /// The codecs that stream number `stream` of a container was written with, ready to decode its chunks. Heads whose records
    /// are equal share one. Reads the stream's head records, their side data and its exact tokens.
    ///
    /// # Errors
    /// [`OpenError`] says which of these does not serve.
    pub fn open<R: ReadAt>(reader: &Reader<R>, stream: usize) -> Result<Self, OpenError<R::Error>> {
        let count = reader.streams().len();
        let Some(info) = reader.streams().get(stream) else {
            let no_such = FormatError::NoSuch { what: "stream", index: stream, count };
            return Err(ReadError::Format(no_such).into());
        };
        let mut made: Vec<(Head, Arc<dyn TileCodec>)> = Vec::new();
        let mut codecs = Vec::new();
        for head in reader.heads(stream)? {
            if let Some((_, codec)) = made.iter().find(|(other, _)| *other == head) {
                codecs.push(codec.clone());
                continue;
            }
            let spec: CodecSpec = reader.codecs()[head.codec as usize].parse().map_err(OpenError::Spec)?;
            let side = Side::from_stored(reader.side(&head)?, spec, info.shape.head_dim);
            let side = side.map_err(OpenError::Side)?;
            let codec = prepare(spec, info.shape.head_dim, info.shape.dtype, &side);
            let codec: Arc<dyn TileCodec> = codec.map_err(OpenError::Codec)?.into();
            made.push((head, codec.clone()));
            codecs.push(codec);
        }
        let exact = reader.exact(stream)?;
        Self::new(info.shape.dtype, info.shape.head_dim, codecs, exact).map_err(OpenError::Codec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Kind, StreamEntry, StreamInfo, Writer};
    use crate::num::DType;
    use crate::view::KvShape;
    use alloc::vec;

    /// A container of one stream of no tokens, whose two heads have this codec and side data.
    fn container(codec: &str, side: &Side) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        let codec = writer.codec(codec).unwrap();
        let head = Head { codec, side: writer.write_side(&side.to_stored()).unwrap() };
        let shape = KvShape { dtype: DType::F16, n_tokens: 0, n_kv_heads: 2, head_dim: 64 };
        let info = StreamInfo { part: 0, layer: 0, kind: Kind::K, shape, chunk_tokens: 256, hadamard: 0 };
        let stream =
            StreamEntry { info, heads: vec![head; 2], exact: None, stats: vec![Default::default(); 2] };
        writer.finish(&[stream], "{}", None).unwrap()
    }

    fn open(bytes: &[u8], stream: usize) -> Result<StreamCodec, OpenError<crate::format::PastEnd>> {
        StreamCodec::open(&Reader::open(bytes).unwrap(), stream)
    }

    #[test]
    fn what_does_not_serve_is_named() {
        let side = |spec: &str| Side::make(spec.parse().unwrap(), 64, 7, None).unwrap();
        let good = container("had+lm4", &side("had+lm4"));
        assert_eq!(open(&good, 0).unwrap().n_kv_heads(), 2);
        assert!(matches!(
            open(&good, 1).err(),
            Some(OpenError::Read(ReadError::Format(FormatError::NoSuch { index: 1, count: 1, .. })))
        ));
        let error = |codec: &str, side: &Side| open(&container(codec, side), 0).err();
        let plain = Side::default();
        assert!(matches!(error("lm4+future", &plain), Some(OpenError::Spec(_))));
        assert!(matches!(error("pq:8x4", &plain), Some(OpenError::Side(_))));
        assert!(matches!(error("had+lm4", &plain), Some(OpenError::Codec(_))));
    }
}
