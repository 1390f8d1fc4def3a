//! The algorithm of a row, for any lanes.

use super::{Coder, Fit, Plain, Shape};
use crate::kernels::hadamard::{self, MAX_DIM, inverse_root, windows};
use crate::kernels::lanes::{self, LANES, Lanes};

/// Sums of squares outside this range mean that something may have overflowed, underflowed or not been finite:
/// such a row is taken again with care. The range leaves 2^27 on either side for what was summed.
const USUAL_POWER: core::ops::Range<f32> = {
    let low = f32::from_bits((127 - 80) << 23);
    let high = f32::from_bits((127 + 100) << 23);
    low..high
};

/// Sixteen elements of a row, as stored.
pub(super) trait Element {
    const BYTES: usize;
    /// Whether a sum of squares of 0 means a row of zeros: no square of what this type can hold underflows.
    const ZERO_IS_ZERO: bool;
    fn load<V: Lanes>(bytes: &[u8]) -> V;
    fn store<V: Lanes>(v: V, bytes: &mut [u8]);
}

const EXACT: &str = "the caller cuts sixteen elements";

struct F16;
struct Bf16;
struct F32;

impl Element for F16 {
    const BYTES: usize = 2;
    // Steps of 2^-24, and with a mean of ratios to something as large, differences above 2^-60.
    const ZERO_IS_ZERO: bool = true;
    #[inline(always)]
    fn load<V: Lanes>(bytes: &[u8]) -> V {
        V::from_f16(bytes.try_into().expect(EXACT))
    }
    #[inline(always)]
    fn store<V: Lanes>(v: V, bytes: &mut [u8]) {
        v.to_f16(bytes.try_into().expect(EXACT));
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;
    const ZERO_IS_ZERO: bool = false;
    #[inline(always)]
    fn load<V: Lanes>(bytes: &[u8]) -> V {
        V::from_bf16(bytes.try_into().expect(EXACT))
    }
    #[inline(always)]
    fn store<V: Lanes>(v: V, bytes: &mut [u8]) {
        v.to_bf16(bytes.try_into().expect(EXACT));
    }
}

impl Element for F32 {
    const BYTES: usize = 4;
    const ZERO_IS_ZERO: bool = false;
    #[inline(always)]
    fn load<V: Lanes>(bytes: &[u8]) -> V {
        let mut x = [0.0; LANES];
        x.iter_mut().zip(bytes.as_chunks().0).for_each(|(x, b)| *x = f32::from_ne_bytes(*b));
        V::load(&x)
    }
    #[inline(always)]
    fn store<V: Lanes>(v: V, bytes: &mut [u8]) {
        let mut x = [0.0; LANES];
        v.clamp(f32::MAX).store(&mut x);
        bytes.as_chunks_mut().0.iter_mut().zip(x).for_each(|(b, x)| *b = x.to_ne_bytes());
    }
}

/// Elements `16 * i..` of an array that is long enough for the head dimension.
#[inline(always)]
fn sixteen<T>(x: &[T], i: usize) -> &[T; LANES] {
    x[LANES * i..LANES * (i + 1)].try_into().expect(EXACT)
}

#[inline(always)]
pub(super) fn encode<V: Coder>(
    shape: &Shape<'_>,
    plain: Plain,
    fit: Fit,
    src: &[u8],
    scales: &mut [f32],
    codes: &mut [u8],
) -> Result<(), usize> {
    match plain {
        Plain::F16 => encode_rows::<V, F16>(shape, fit, src, scales, codes),
        Plain::Bf16 => encode_rows::<V, Bf16>(shape, fit, src, scales, codes),
        Plain::F32 => encode_rows::<V, F32>(shape, fit, src, scales, codes),
    }
}

#[inline(always)]
fn encode_rows<V: Coder, E: Element>(
    shape: &Shape<'_>,
    fit: Fit,
    src: &[u8],
    scales: &mut [f32],
    codes: &mut [u8],
) -> Result<(), usize> {
    let d = shape.head_dim;
    let row_bytes = shape.quantizer.row_bytes(d);
    assert!(src.len() == scales.len() * d * E::BYTES && codes.len() == scales.len() * row_bytes);
    let mut at = 0;
    while at < scales.len() {
        let rest = (&src[at * d * E::BYTES..], &mut scales[at..], &mut codes[at * row_bytes..]);
        at += match d {
            64 => encode_fast::<V, E, 4>(shape, fit, rest.0, rest.1, rest.2),
            128 => encode_fast::<V, E, 8>(shape, fit, rest.0, rest.1, rest.2),
            256 => encode_fast::<V, E, 16>(shape, fit, rest.0, rest.1, rest.2),
            _ => 0,
        };
        if at < scales.len() {
            let row = &src[at * d * E::BYTES..(at + 1) * d * E::BYTES];
            let codes = &mut codes[at * row_bytes..(at + 1) * row_bytes];
            scales[at] = encode_any::<V, E>(shape, fit, row, codes).ok_or(at)?;
            at += 1;
        }
    }
    Ok(())
}

/// Rows of `16 * N` elements, a power of two that fits the registers. Stops at a row of unusual power and returns
/// how many came before it.
///
/// Sixteen rows are transformed and measured, then sixteen quantized: a row's way through its sum, root and
/// quotient takes longer than its arithmetic, and one row after the other the core's window of instructions in
/// flight would be full before the next row starts.
#[inline(always)]
fn encode_fast<V: Coder, E: Element, const N: usize>(
    shape: &Shape<'_>,
    fit: Fit,
    src: &[u8],
    scales: &mut [f32],
    codes: &mut [u8],
) -> usize {
    let row_bytes = shape.quantizer.row_bytes(N * LANES);
    let gain = inverse_root(N * LANES);
    let mut transformed = [[V::splat(0.0); N]; LANES];
    let blocks = src.chunks(LANES * N * LANES * E::BYTES).zip(scales.chunks_mut(LANES));
    for (block, (rows, scales)) in blocks.enumerate() {
        let mut powers = [0.0; LANES];
        let rows = rows.chunks_exact(N * LANES * E::BYTES);
        for ((row, z), power) in rows.zip(&mut transformed).zip(&mut powers) {
            *z = transform::<V, E, N>(shape, row);
            *power = dot(z, z);
        }
        let usual = |p: &f32| USUAL_POWER.contains(p) || (E::ZERO_IS_ZERO && *p == 0.0);
        let n = powers[..scales.len()].iter().take_while(|p| usual(p)).count();
        let (rms, k) = units::<V>(shape, &powers);
        for (r, scale) in scales[..n].iter_mut().enumerate() {
            let codes = &mut codes[(block * LANES + r) * row_bytes..];
            *scale = quantize(shape, fit, &transformed[r], powers[r], rms[r], k[r], codes) * gain;
        }
        if n < scales.len() {
            return block * LANES + n;
        }
    }
    scales.len()
}

/// The row less the mean, signs flipped, through the Hadamard transform.
#[inline(always)]
fn transform<V: Coder, E: Element, const N: usize>(shape: &Shape<'_>, row: &[u8]) -> [V; N] {
    let mut z = [V::splat(0.0); N];
    for (j, z) in z.iter_mut().enumerate() {
        *z = E::load(&row[LANES * E::BYTES * j..LANES * E::BYTES * (j + 1)]);
        if let Some(mean) = shape.mean {
            *z = z.sub(V::load(sixteen(mean, j)));
        }
        *z = z.flip(sixteen(shape.signs, j));
    }
    lanes::hadamard(&mut z);
    z
}

/// Root mean squares of rows, and what brings their coordinates to fixed point (0 for rows of zeros).
#[inline(always)]
#[allow(clippy::cast_precision_loss, reason = "at most 1024 elements")]
fn units<V: Lanes>(shape: &Shape<'_>, powers: &[f32; LANES]) -> ([f32; LANES], [f32; LANES]) {
    let (mut rms, mut k) = ([0.0; LANES], [0.0; LANES]);
    let root = V::load(powers).div(V::splat(shape.head_dim as f32)).sqrt();
    root.store(&mut rms);
    V::splat(shape.quantizer.one).div(root).store(&mut k);
    k.iter_mut().zip(&rms).for_each(|(k, rms)| *k = if *rms == 0.0 { 0.0 } else { *k });
    (rms, k)
}

/// One row of any length and magnitude, through memory; `None` if it is not finite.
#[inline(always)]
fn encode_any<V: Coder, E: Element>(
    shape: &Shape<'_>,
    fit: Fit,
    row: &[u8],
    codes: &mut [u8],
) -> Option<f32> {
    let d = shape.head_dim;
    let n = d.div_ceil(LANES);
    let mut x = [0.0f32; MAX_DIM];
    load_row::<V, E>(row, &mut x);
    for (i, x) in x.as_chunks_mut().0[..n].iter_mut().enumerate() {
        let mut v = V::load(x);
        if let Some(mean) = shape.mean {
            v = v.sub(V::load(sixteen(mean, i)));
        }
        v.flip(sixteen(shape.signs, i)).store(x);
    }
    let peak = x[..d].iter().fold(0, |peak, x| peak.max(x.to_bits() & 0x7fff_ffff));
    if peak >= f32::INFINITY.to_bits() {
        return None;
    }
    // Powers of two bring rows that are far from 1 close to it and back.
    let exponent = if peak == 0 { 0 } else { libm::ilogbf(f32::from_bits(peak)) };
    let far = if exponent.abs() > 30 { exponent } else { 0 };
    let (near, rest) = (far / 2, far - far / 2);
    if far != 0 {
        let (a, b) = (power_of_two(-near), power_of_two(-rest));
        x[..d].iter_mut().for_each(|x| *x = *x * a * b);
    }
    let (first, second) = windows(d);
    let mut gain = inverse_root(first.len());
    hadamard::block::<V>(&mut x[first.clone()]);
    if let Some(second) = second {
        scale(&mut x[first], gain);
        hadamard::block::<V>(&mut x[second.clone()]);
        scale(&mut x[second], gain);
        gain = 1.0;
    }
    let mut z = [V::splat(0.0); MAX_DIM / LANES];
    for (z, x) in z[..n].iter_mut().zip(x.as_chunks().0) {
        *z = V::load(x);
    }
    let mut powers = [0.0; LANES];
    powers[0] = dot(&z[..n], &z[..n]);
    let (rms, k) = units::<V>(shape, &powers);
    // Whole registers are packed here, so that a row that ends within one does not touch the next.
    let mut packed = [0; MAX_DIM + 64];
    let factor = quantize(shape, fit, &z[..n], powers[0], rms[0], k[0], &mut packed);
    codes.copy_from_slice(&packed[..codes.len()]);
    let used = d * shape.quantizer.nbits as usize % 8;
    if let (Some(last), 1..) = (codes.last_mut(), used) {
        *last &= (1 << used) - 1;
    }
    let factor = factor * gain * power_of_two(near) * power_of_two(rest);
    Some(factor.min(f32::MAX))
}

/// Codes of a transformed row, and the factor that decodes it apart from the transform's own.
#[inline(always)]
fn quantize<V: Coder>(
    shape: &Shape<'_>,
    fit: Fit,
    z: &[V],
    power: f32,
    rms: f32,
    k: f32,
    codes: &mut [u8],
) -> f32 {
    V::quantize(z, k, shape.quantizer, codes);
    if fit == Fit::Norm || rms == 0.0 { rms } else { refit(shape, fit, z, power, codes) }
}

/// The factor from a second look at the codes, 64 at a time so that their levels stay in registers.
#[inline(always)]
fn refit<V: Coder>(shape: &Shape<'_>, fit: Fit, z: &[V], power: f32, codes: &[u8]) -> f32 {
    const REGISTERS: usize = 4;
    let step = REGISTERS * LANES * shape.quantizer.nbits as usize / 8;
    let (mut along, mut square) = (V::splat(0.0), V::splat(0.0));
    for (i, z) in z.chunks(REGISTERS).enumerate() {
        let mut levels = [V::splat(0.0); REGISTERS];
        let levels = &mut levels[..z.len()];
        V::dequantize(&codes[i * step..], shape.quantizer, levels);
        let end = shape.head_dim - i * REGISTERS * LANES;
        if let (true, Some(last)) = (end < z.len() * LANES, levels.last_mut()) {
            let mut x = [0.0; LANES];
            last.store(&mut x);
            x[end % LANES..].fill(0.0); // lanes beyond the row have codes, too
            *last = V::load(&x);
        }
        for (z, c) in z.iter().zip(levels) {
            along = along.add(z.mul(*c));
            square = square.add(c.mul(*c));
        }
    }
    match fit {
        Fit::Unbiased => power / along.sum(),
        _ => along.sum() / square.sum(),
    }
}

/// Sixteen running sums, element `i` in number `i mod 16`, then [`Lanes::sum`].
#[inline(always)]
fn dot<V: Lanes>(a: &[V], b: &[V]) -> f32 {
    let mut sums = V::splat(0.0);
    for (a, b) in a.iter().zip(b) {
        sums = sums.add(a.mul(*b));
    }
    sums.sum()
}

fn scale(x: &mut [f32], factor: f32) {
    x.iter_mut().for_each(|x| *x *= factor);
}

/// `2^e` for `-126 <= e <= 127`.
fn power_of_two(e: i32) -> f32 {
    f32::from_bits((127 + e).cast_unsigned() << 23)
}

#[inline(always)]
fn load_row<V: Lanes, E: Element>(row: &[u8], x: &mut [f32; MAX_DIM]) {
    for (bytes, x) in row.chunks(LANES * E::BYTES).zip(x.as_chunks_mut().0) {
        let mut whole = [0; 4 * LANES];
        whole[..bytes.len()].copy_from_slice(bytes);
        E::load::<V>(&whole[..LANES * E::BYTES]).store(x);
    }
}

#[inline(always)]
pub(super) fn add_rows<V: Lanes>(head_dim: usize, plain: Plain, rows: &[u8], share: f32, sums: &mut [f32]) {
    match plain {
        Plain::F16 => add::<V, F16>(head_dim, rows, share, sums),
        Plain::Bf16 => add::<V, Bf16>(head_dim, rows, share, sums),
        Plain::F32 => add::<V, F32>(head_dim, rows, share, sums),
    }
}

#[inline(always)]
fn add<V: Lanes, E: Element>(head_dim: usize, rows: &[u8], share: f32, sums: &mut [f32]) {
    let (share, step) = (V::splat(share), LANES * E::BYTES);
    let (whole, last) = sums.as_chunks_mut::<LANES>().0.split_at_mut(head_dim / LANES);
    // Four sums run side by side, since one addition waits for the last.
    for (i, sums) in whole.chunks_mut(4).enumerate() {
        let mut acc = [V::splat(0.0); 4];
        acc.iter_mut().zip(sums.iter()).for_each(|(acc, s)| *acc = V::load(s));
        for row in rows.chunks_exact(head_dim * E::BYTES) {
            let part = &row[4 * step * i..];
            for (acc, bytes) in acc[..sums.len()].iter_mut().zip(part.chunks_exact(step)) {
                *acc = acc.add(E::load::<V>(bytes).mul(share));
            }
        }
        acc.iter().zip(sums).for_each(|(acc, s)| acc.store(s));
    }
    if let Some(last) = last.first_mut() {
        let mut acc = V::load(last);
        for row in rows.chunks_exact(head_dim * E::BYTES) {
            let mut bytes = [0; 4 * LANES];
            let tail = &row[head_dim / LANES * step..];
            bytes[..tail.len()].copy_from_slice(tail);
            acc = acc.add(E::load::<V>(&bytes[..step]).mul(share));
        }
        acc.store(last);
    }
}

#[inline(always)]
pub(super) fn decode<V: Coder>(
    shape: &Shape<'_>,
    plain: Plain,
    scales: &[f32],
    codes: &[u8],
    out: &mut [u8],
) {
    match plain {
        Plain::F16 => decode_rows::<V, F16>(shape, scales, codes, out),
        Plain::Bf16 => decode_rows::<V, Bf16>(shape, scales, codes, out),
        Plain::F32 => decode_rows::<V, F32>(shape, scales, codes, out),
    }
}

#[inline(always)]
fn decode_rows<V: Coder, E: Element>(shape: &Shape<'_>, scales: &[f32], codes: &[u8], out: &mut [u8]) {
    let d = shape.head_dim;
    let row_bytes = shape.quantizer.row_bytes(d);
    assert!(out.len() == scales.len() * d * E::BYTES && codes.len() == scales.len() * row_bytes);
    match d {
        64 => decode_fast::<V, E, 4>(shape, scales, codes, out),
        128 => decode_fast::<V, E, 8>(shape, scales, codes, out),
        256 => decode_fast::<V, E, 16>(shape, scales, codes, out),
        _ => {
            let rows = out.chunks_exact_mut(d * E::BYTES).zip(codes.chunks_exact(row_bytes));
            for ((row, codes), scale) in rows.zip(scales) {
                decode_any::<V, E>(shape, *scale, codes, row);
            }
        }
    }
}

#[inline(always)]
fn decode_fast<V: Coder, E: Element, const N: usize>(
    shape: &Shape<'_>,
    scales: &[f32],
    codes: &[u8],
    out: &mut [u8],
) {
    let row_bytes = shape.quantizer.row_bytes(N * LANES);
    let gain = inverse_root(N * LANES);
    for (i, (row, scale)) in out.chunks_exact_mut(N * LANES * E::BYTES).zip(scales).enumerate() {
        let mut z = [V::splat(0.0); N];
        V::dequantize(&codes[i * row_bytes..], shape.quantizer, &mut z);
        lanes::hadamard(&mut z);
        let factor = V::splat(scale * gain);
        for (j, z) in z.into_iter().enumerate() {
            let mut x = z.flip(sixteen(shape.signs, j)).mul(factor);
            if let Some(mean) = shape.mean {
                x = x.add(V::load(sixteen(mean, j)));
            }
            E::store(x, &mut row[LANES * E::BYTES * j..LANES * E::BYTES * (j + 1)]);
        }
    }
}

#[inline(always)]
fn decode_any<V: Coder, E: Element>(shape: &Shape<'_>, factor: f32, codes: &[u8], row: &mut [u8]) {
    let d = shape.head_dim;
    let n = d.div_ceil(LANES);
    let mut packed = [0; MAX_DIM + 64];
    packed[..codes.len()].copy_from_slice(codes);
    let mut z = [V::splat(0.0); MAX_DIM / LANES];
    V::dequantize(&packed, shape.quantizer, &mut z[..n]);
    let mut x = [0.0f32; MAX_DIM];
    for (z, x) in z[..n].iter().zip(x.as_chunks_mut().0) {
        z.store(x);
    }
    let (first, second) = windows(d);
    let mut gain = inverse_root(first.len());
    if let Some(second) = second {
        hadamard::block::<V>(&mut x[second.clone()]);
        scale(&mut x[second], gain);
        hadamard::block::<V>(&mut x[first.clone()]);
        scale(&mut x[first], gain);
        gain = 1.0;
    } else {
        hadamard::block::<V>(&mut x[first]);
    }
    let factor = V::splat(factor * gain);
    let elements = row.chunks_mut(LANES * E::BYTES);
    for (i, (bytes, x)) in elements.zip(x.as_chunks().0).enumerate() {
        let mut v = V::load(x).flip(sixteen(shape.signs, i)).mul(factor);
        if let Some(mean) = shape.mean {
            v = v.add(V::load(sixteen(mean, i)));
        }
        let mut whole = [0; 4 * LANES];
        E::store(v, &mut whole[..LANES * E::BYTES]);
        bytes.copy_from_slice(&whole[..bytes.len()]);
    }
}
