use super::{Element, ErrorSums, LANES, Lanes};

pub(super) fn error_sums<E: Element>(x: &[u8], y: &[u8]) -> ErrorSums {
    let mut lanes = Lanes::default();
    for (x, y) in x.chunks(LANES * E::BYTES).zip(y.chunks(LANES * E::BYTES)) {
        for (i, (x, y)) in x.chunks_exact(E::BYTES).zip(y.chunks_exact(E::BYTES)).enumerate() {
            let (x, y) = (f64::from(E::get(x)), f64::from(E::get(y)));
            let d = x - y;
            lanes.sq[i] += x * x;
            lanes.err[i] += d * d;
            let a = d.abs();
            lanes.max[i] = if a > lanes.max[i] { a } else { lanes.max[i] };
        }
    }
    lanes.total()
}
