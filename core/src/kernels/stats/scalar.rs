use super::{Bf16, Element, ErrorSums, F16, F32, LANES, Lanes, Plain};

pub(super) fn error_sums(plain: Plain, x: &[u8], y: Option<&[u8]>) -> ErrorSums {
    let mut lanes = Lanes::default();
    // Without a second side there is no error to be had from the first one.
    let y = y.unwrap_or(x);
    match plain {
        Plain::F32 => add::<F32>(&mut lanes, x, y),
        Plain::F16 => add::<F16>(&mut lanes, x, y),
        Plain::Bf16 => add::<Bf16>(&mut lanes, x, y),
    }
    lanes.total()
}

/// Adds further elements, the first of which belongs to accumulator 0.
pub(super) fn add<E: Element>(lanes: &mut Lanes, x: &[u8], y: &[u8]) {
    for (x, y) in x.chunks(LANES * E::BYTES).zip(y.chunks(LANES * E::BYTES)) {
        for (i, (x, y)) in x.chunks_exact(E::BYTES).zip(y.chunks_exact(E::BYTES)).enumerate() {
            let (x, y) = (f64::from(E::get(x)), f64::from(E::get(y)));
            let d = x - y;
            lanes.sq[i] += x * x;
            lanes.err[i] += d * d;
            lanes.max[i] = if d * d > lanes.max[i] { d * d } else { lanes.max[i] };
        }
    }
}
