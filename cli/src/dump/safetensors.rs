//! The safetensors container: named arrays and string metadata.

use anyhow::{Context, Result, bail, ensure};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::{Map, Value};
use tersa_core::num::DType;

use super::tensor::{Tensor, row_major};

/// The arrays of `bytes` in the order of their offsets, and the metadata in the order of its keys.
pub(crate) fn read(bytes: &[u8], file: usize) -> Result<(Vec<Tensor>, Map<String, Value>)> {
    let (header, data) = split(bytes).context("not a whole safetensors file: its header is cut off")?;
    // Through the crate's header type, which checks sizes and offsets; its own opener adds lengths unchecked.
    let header: Metadata = serde_json::from_slice(header).context("damaged safetensors header")?;
    ensure!(
        header.data_len() == data.len(),
        "not a whole safetensors file: tensors need {} bytes, {} follow the header",
        header.data_len(),
        data.len()
    );
    let data_start = bytes.len() - data.len();
    let mut tensors = Vec::new();
    for name in header.offset_keys() {
        let Some(info) = header.info(&name) else { bail!("tensor `{name}` is listed twice") };
        let (start, end) = info.data_offsets;
        ensure!(start <= end && end <= data.len(), "tensor `{name}` lies outside the file");
        tensors.push(Tensor {
            name,
            file,
            offset: data_start + start,
            dtype: dtype(info.dtype),
            strides: row_major(&info.shape),
            shape: info.shape.clone(),
        });
    }
    let mut meta: Vec<(String, Value)> =
        header.metadata().iter().flatten().map(|(k, v)| (k.clone(), Value::String(v.clone()))).collect();
    meta.sort_by(|a, b| a.0.cmp(&b.0));
    Ok((tensors, meta.into_iter().collect()))
}

/// Whether `bytes` begin as a safetensors file: a length that fits, then a JSON object.
pub(crate) fn sniff(bytes: &[u8]) -> bool {
    split(bytes).is_some_and(|(header, _)| header.starts_with(b"{"))
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)
}

fn dtype(dtype: Dtype) -> Result<DType, String> {
    match dtype {
        Dtype::F32 => Ok(DType::F32),
        Dtype::F16 => Ok(DType::F16),
        Dtype::BF16 => Ok(DType::Bf16),
        Dtype::F8_E4M3 => Ok(DType::F8E4m3),
        Dtype::F8_E5M2 => Ok(DType::F8E5m2),
        other => Err(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn tensors_come_in_file_order_with_absolute_offsets() {
        let header = r#"{"b":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16]},
            "__metadata__":{"y":"1","x":"2"},"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}"#;
        let (tensors, meta) = read(&file(header, 16), 3).unwrap();
        assert_eq!(tensors.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((tensors[1].offset, tensors[1].file), (8 + header.len() + 4, 3));
        assert_eq!(tensors[1].strides, [3, 1]);
        assert_eq!(tensors[0].dtype, Err("I32".to_owned()));
        assert_eq!(meta.keys().collect::<Vec<_>>(), ["x", "y"]);
    }

    #[test]
    fn lengths_that_disagree_are_refused() {
        let header = r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#;
        for data in [0, 3, 5] {
            assert!(read(&file(header, data), 0).is_err());
        }
        assert!(read(&file(header, 4), 0).is_ok());
        assert!(read(&u64::MAX.to_le_bytes(), 0).is_err());
        // Eight tensors whose lengths add up to more than the address space.
        let huge: Vec<String> = (0..8u64)
            .map(|i| {
                let n = 1u64 << 61;
                let (from, to) = (i.wrapping_mul(n), (i + 1).wrapping_mul(n).wrapping_sub(u64::from(i == 7)));
                format!(r#""t{i}":{{"dtype":"U8","shape":[{}],"data_offsets":[{from},{to}]}}"#, to - from)
            })
            .collect();
        assert!(read(&file(&format!("{{{}}}", huge.join(",")), 0), 0).is_err());
    }
}
