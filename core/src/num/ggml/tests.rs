use crate::num::DType;
use crate::num::convert::{from_f32, to_f32};
use std::vec;
use std::vec::Vec;

/// What llama.cpp's reference functions made of these inputs (`tests/golden/make_ggml_blocks.py`).
const GOLDEN: &str = include_str!("../../../../tests/golden/ggml-blocks.txt");

struct Case {
    dtype: DType,
    name: &'static str,
    input: Vec<f32>,
    block: Vec<u8>,
    decoded: Vec<f32>,
}

fn cases() -> impl Iterator<Item = Case> {
    let bytes = |hex: &str| -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    };
    let floats =
        move |hex: &str| bytes(hex).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    GOLDEN.lines().map(move |line| {
        let fields: Vec<&'static str> = line.split(' ').collect();
        let [dtype, name, input, block, decoded] = fields[..] else { panic!("five fields a line") };
        let dtype = DType::from_name(dtype).unwrap();
        Case { dtype, name, input: floats(input), block: bytes(block), decoded: floats(decoded) }
    })
}

#[test]
fn blocks_decode_to_the_bits_of_llama_cpp() {
    assert_eq!(cases().count(), 6 * 29 - 2);
    for case in cases() {
        let mut got = [0.0; 32];
        to_f32(case.dtype, &case.block, &mut got).unwrap();
        let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got), bits(&case.decoded), "{} {}", case.dtype, case.name);
    }
}

#[test]
fn values_encode_to_the_bytes_of_llama_cpp() {
    for case in cases() {
        let mut got = vec![0; case.block.len()];
        from_f32(case.dtype, &case.input, &mut got).unwrap();
        assert_eq!(got, case.block, "{} {}", case.dtype, case.name);
    }
}

#[test]
fn scales_that_f16_cannot_hold_give_finite_values() {
    for dtype in DType::ALL.into_iter().filter(|t| !t.is_plain()) {
        for scale in [f32::MAX, 1e30, 1e8, 1e-38, 1e-42, f32::from_bits(1)] {
            let x: Vec<f32> = (0..32u8).map(|i| (f32::from(i) - 20.0) / 20.0 * scale).collect();
            let (mut code, mut back) = (vec![0; dtype.block_bytes()], [f32::NAN; 32]);
            from_f32(dtype, &x, &mut code).unwrap();
            to_f32(dtype, &code, &mut back).unwrap();
            assert!(back.iter().all(|v| v.is_finite()), "{dtype} {scale:e}: {back:?}");
        }
    }
}
