use super::*;
use crate::cpu::{self, Level};

/// Runs `$body` with `$v` naming the lanes of each level in turn, inside a function that enables its features.
macro_rules! at_every_level {
    ($v:ident => $body:expr) => {
        for level in cpu::levels() {
            match level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => {
                    #[target_feature(enable = "avx2,fma,f16c")]
                    fn run() {
                        type $v = avx2::Avx2;
                        $body
                    }
                    // SAFETY: `levels` gives only levels that detection saw.
                    unsafe { run() }
                }
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => {
                    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,f16c")]
                    fn run() {
                        type $v = avx512::Avx512;
                        $body
                    }
                    // SAFETY: `levels` gives only levels that detection saw.
                    unsafe { run() }
                }
                _ => {
                    type $v = [f32; LANES];
                    $body
                }
            }
        }
    };
}

fn bits(x: [f32; LANES]) -> [u32; LANES] {
    x.map(f32::to_bits)
}

fn out<V: Lanes>(v: V) -> [f32; LANES] {
    let mut x = [0.0; LANES];
    v.store(&mut x);
    x
}

#[test]
fn narrowing_saturates_and_rounds_to_even_as_the_portable_form_does() {
    let values: [f32; LANES] = [
        0.0,
        -0.0,
        1.0,
        65504.0,
        65519.9,
        65520.0,
        -1e9,
        f32::INFINITY,
        f32::NEG_INFINITY,
        6e-8,
        2.9e-8,
        -3e-8,
        1.000_488_3,
        1.001_464_8,
        f32::MAX,
        -2.7,
    ];
    let mut want = ([0; 32], [0; 32]);
    <[f32; LANES]>::load(&values).to_f16(&mut want.0);
    <[f32; LANES]>::load(&values).to_bf16(&mut want.1);
    let half = |i: usize| u16::from_le_bytes([want.0[2 * i], want.0[2 * i + 1]]);
    assert_eq!([half(3), half(5), half(6), half(7)], [0x7bff, 0x7bff, 0xfbff, 0x7bff]);
    assert_eq!([half(12), half(13)], [0x3c00, 0x3c02]);
    assert_eq!(u16::from_le_bytes([want.1[28], want.1[29]]), 0x7f7f);
    at_every_level!(V => {
        let values: [f32; LANES] = [
            0.0, -0.0, 1.0, 65504.0, 65519.9, 65520.0, -1e9, f32::INFINITY, f32::NEG_INFINITY, 6e-8, 2.9e-8, -3e-8,
            1.000_488_3, 1.001_464_8, f32::MAX, -2.7,
        ];
        let mut want = ([0; 32], [0; 32]);
        <[f32; LANES]>::load(&values).to_f16(&mut want.0);
        <[f32; LANES]>::load(&values).to_bf16(&mut want.1);
        let mut got = ([0; 32], [0; 32]);
        V::load(&values).to_f16(&mut got.0);
        V::load(&values).to_bf16(&mut got.1);
        assert_eq!(got, want);
    });
}

#[test]
fn every_binary16_widens_exactly() {
    at_every_level!(V => {
        for first in (0..=u16::MAX).step_by(LANES) {
            let mut bytes = [0; 32];
            for (i, b) in (first..=first + 15).zip(bytes.as_chunks_mut::<2>().0) {
                *b = i.to_le_bytes();
            }
            let (got, want) = (out(V::from_f16(&bytes)), <[f32; LANES]>::from_f16(&bytes));
            for (g, w) in got.iter().zip(want) {
                assert!(g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan());
            }
        }
    });
}

#[test]
#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn arithmetic_has_the_same_bits_as_the_portable_form() {
    at_every_level!(V => {
        let mut rng = crate::num::rng::Xoshiro256pp::new(3);
        for _ in 0..100 {
            let mut draw = || -> [f32; LANES] {
                core::array::from_fn(|_| ((rng.f64() - 0.5) * 1e3) as f32)
            };
            let (a, b) = (draw(), draw());
            let masks = core::array::from_fn(|i| if i % 3 == 0 { 1 << 31 } else { 0 });
            type S = [f32; LANES];
            let (va, vb) = (V::load(&a), V::load(&b));
            let (sa, sb) = (S::load(&a), S::load(&b));
            assert_eq!(bits(out(va.add(vb))), bits(sa.add(sb)));
            assert_eq!(bits(out(va.sub(vb))), bits(sa.sub(sb)));
            assert_eq!(bits(out(va.mul(vb))), bits(sa.mul(sb)));
            assert_eq!(bits(out(va.div(vb))), bits(sa.div(sb)));
            assert_eq!(bits(out(va.mul(va).sqrt())), bits(sa.mul(sa).sqrt()));
            assert_eq!(bits(out(va.flip(&masks))), bits(sa.flip(&masks)));
            assert_eq!(bits(out(va.clamp(100.0))), bits(sa.clamp(100.0)));
            assert_eq!(va.sum().to_bits(), sa.sum().to_bits());
            assert_eq!(bits(out(va.butterfly::<1>())), bits(sa.butterfly::<1>()));
            assert_eq!(bits(out(va.butterfly::<2>())), bits(sa.butterfly::<2>()));
            assert_eq!(bits(out(va.butterfly::<4>())), bits(sa.butterfly::<4>()));
            assert_eq!(bits(out(va.butterfly::<8>())), bits(sa.butterfly::<8>()));
        }
    });
}
