use super::*;
use std::vec;
use std::vec::Vec;

/// A plain type described by its format's numbers: value of the magnitude `m` of a finite pattern, in f64.
struct Format {
    dtype: DType,
    man_bits: u32,
    bias: i32,
    /// The largest finite magnitude pattern.
    largest: u32,
}

const FORMATS: [Format; 4] = [
    Format { dtype: DType::F16, man_bits: 10, bias: 15, largest: 0x7BFF },
    Format { dtype: DType::Bf16, man_bits: 7, bias: 127, largest: 0x7F7F },
    Format { dtype: DType::F8E4m3, man_bits: 3, bias: 7, largest: 0x7E },
    Format { dtype: DType::F8E5m2, man_bits: 2, bias: 15, largest: 0x7B },
];

impl Format {
    fn value(&self, m: u32) -> f64 {
        let (exponent, fraction) =
            ((m >> self.man_bits).cast_signed(), f64::from(m & ((1 << self.man_bits) - 1)));
        let one = f64::from(1u32 << self.man_bits);
        let (scale, power) = if exponent == 0 {
            (fraction / one, 1 - self.bias)
        } else {
            (1.0 + fraction / one, exponent - self.bias)
        };
        scale * 2.0f64.powi(power)
    }

    fn width(&self) -> usize {
        self.dtype.block_bytes()
    }

    fn sign(&self) -> u32 {
        1 << (8 * self.width() - 1)
    }

    fn widen(&self, pattern: u32) -> f32 {
        let mut out = [0.0];
        to_f32(self.dtype, &pattern.to_le_bytes()[..self.width()], &mut out).unwrap();
        out[0]
    }

    fn narrow(&self, x: f32) -> u32 {
        let mut out = [0; 4];
        from_f32(self.dtype, &[x], &mut out[..self.width()]).unwrap();
        u32::from_le_bytes(out)
    }
}

#[test]
fn every_finite_pattern_widens_exactly_and_comes_back() {
    for f in FORMATS {
        for m in 0..=f.largest {
            for (pattern, want) in [(m, f.value(m)), (m | f.sign(), -f.value(m))] {
                let wide = f.widen(pattern);
                assert_eq!(f64::from(wide).to_bits(), want.to_bits(), "{} {pattern:#x}", f.dtype);
                assert_eq!(f.narrow(wide), pattern, "{}", f.dtype);
            }
        }
    }
}

#[test]
fn narrowing_rounds_to_nearest_and_ties_to_even() {
    for f in FORMATS {
        for m in 0..f.largest {
            // The middle of two neighbours is an f32 except between f32 subnormals' own bf16 neighbours, where it
            // is one too: bf16 keeps 7 of 23 bits.
            #[allow(clippy::cast_possible_truncation, reason = "exact, asserted below")]
            let middle = f64::midpoint(f.value(m), f.value(m + 1)) as f32;
            assert_eq!(f64::from(middle), f64::midpoint(f.value(m), f.value(m + 1)));
            let even = if m % 2 == 0 { m } else { m + 1 };
            for (x, want) in [(middle.next_down(), m), (middle, even), (middle.next_up(), m + 1)] {
                assert_eq!(f.narrow(x), want, "{} {x:e}", f.dtype);
                assert_eq!(f.narrow(-x), want | f.sign(), "{} -{x:e}", f.dtype);
            }
        }
    }
}

#[test]
fn finite_values_beyond_the_range_saturate() {
    for f in FORMATS {
        let largest = f.widen(f.largest);
        for x in [largest, largest.next_up(), largest * 1.03, f32::MAX] {
            if x.is_finite() {
                assert_eq!(f.narrow(x), f.largest, "{} {x:e}", f.dtype);
                assert_eq!(f.narrow(-x), f.largest | f.sign());
            }
        }
    }
}

#[test]
fn infinities_stay_where_the_type_has_them() {
    for f in FORMATS {
        let got = f.widen(f.narrow(f32::NEG_INFINITY));
        let want = if f.dtype == DType::F8E4m3 { -448.0 } else { f32::NEG_INFINITY };
        assert_eq!(got, want, "{}", f.dtype);
    }
}

#[test]
fn nan_stays_nan_with_its_sign() {
    for f in FORMATS {
        let first_nan = f.largest + if f.dtype == DType::F8E4m3 { 1 } else { 2 };
        for m in first_nan..f.sign() {
            for pattern in [m, m | f.sign()] {
                let wide = f.widen(pattern);
                assert!(wide.is_nan(), "{} {pattern:#x}", f.dtype);
                assert_eq!(wide.is_sign_negative(), pattern & f.sign() != 0);
                assert!(f.widen(f.narrow(wide)).is_nan());
                assert_eq!(f.narrow(wide) & f.sign(), pattern & f.sign());
            }
        }
        // A signalling NaN whose payload lies below what the target keeps must not become an infinity.
        assert!(f.widen(f.narrow(f32::from_bits(0x7F80_0001))).is_nan(), "{}", f.dtype);
    }
}

#[test]
fn agrees_with_the_half_crate() {
    for bits in 0..=u16::MAX {
        let (h, b) = (half::f16::from_bits(bits), half::bf16::from_bits(bits));
        if !h.is_nan() {
            assert_eq!(f16_to_f32(bits).to_bits(), h.to_f32().to_bits());
        }
        if !b.is_nan() {
            assert_eq!(bf16_to_f32(bits).to_bits(), b.to_f32().to_bits());
        }
    }
}

#[test]
fn f32_keeps_every_bit() {
    let x = [f32::from_bits(0x7F80_0001), -0.0, f32::MIN_POSITIVE / 4.0];
    let (mut bytes, mut back) = ([0; 12], [0.0; 3]);
    from_f32(DType::F32, &x, &mut bytes).unwrap();
    to_f32(DType::F32, &bytes, &mut back).unwrap();
    assert_eq!(x.map(f32::to_bits), back.map(f32::to_bits));
}

#[test]
fn wrong_lengths_are_refused() {
    for dtype in DType::ALL {
        for (elements, len_bytes) in
            [(32, dtype.bytes_for(32).unwrap() - 1), (31, dtype.bytes_for(32).unwrap())]
        {
            let want = Err(ConvertError::Length { dtype, elements, len_bytes });
            assert_eq!(to_f32(dtype, &vec![0; len_bytes], &mut vec![0.0; elements]), want);
            assert_eq!(from_f32(dtype, &vec![0.0; elements], &mut vec![0; len_bytes]), want);
        }
        assert_eq!(to_f32(dtype, &[], &mut []), Ok(()));
        assert_eq!(from_f32(dtype, &[], &mut []), Ok(()));
    }
}

#[test]
fn block_types_refuse_what_is_not_finite() {
    for dtype in DType::ALL.into_iter().filter(|t| !t.is_plain()) {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x: Vec<f32> = vec![1.0; 96];
            (x[50], x[70]) = (bad, bad);
            let got = from_f32(dtype, &x, &mut vec![0; dtype.bytes_for(96).unwrap()]);
            assert_eq!(got, Err(ConvertError::NonFinite { index: 50 }));
        }
    }
}
