//! Readers and output layouts on the files in `tests/data`.
#![allow(clippy::cast_possible_truncation, reason = "small test files")]

use std::path::PathBuf;

mod formats;
mod layouts;
mod llama;

use super::*;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(name)
}

fn read(name: &str, options: &OpenOptions) -> Result<Dump> {
    open(&[data(name)], options)
}

fn smollm2() -> OpenOptions {
    OpenOptions { head_dim: Some(64), ..OpenOptions::default() }
}

/// One row of a stream as `f32`.
fn row(dump: &Dump, stream: usize, head: usize, token: usize) -> Vec<f32> {
    let view = dump.view(stream).unwrap();
    let mut bytes = vec![0; view.shape().row_bytes()];
    view.copy_rows(head, token..token + 1, &mut bytes);
    match view.shape().dtype {
        DType::F16 => bytes.chunks_exact(2).map(|b| f16([b[0], b[1]])).collect(),
        DType::Bf16 => bytes
            .chunks_exact(2)
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16))
            .collect(),
        DType::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        DType::Q8_0 => bytes
            .chunks_exact(34)
            .flat_map(|b| b[2..].iter().map(|q| f16([b[0], b[1]]) * f32::from(q.cast_signed())))
            .collect(),
        DType::Q4_0 => bytes
            .chunks_exact(18)
            .flat_map(|b| {
                let value = |q: u8| f16([b[0], b[1]]) * (f32::from(q) - 8.0);
                b[2..].iter().map(move |q| value(q & 15)).chain(b[2..].iter().map(move |q| value(q >> 4)))
            })
            .collect(),
        other => panic!("{other}"),
    }
}

fn f16(bytes: [u8; 2]) -> f32 {
    half::f16::from_le_bytes(bytes).to_f32()
}
