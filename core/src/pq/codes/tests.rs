use super::*;
use crate::num::rng::Xoshiro256pp;
use proptest::prelude::*;

fn random(rng: &mut Xoshiro256pp, shape: PqShape, n: usize) -> Vec<u8> {
    (0..n * shape.m()).map(|_| u8::try_from(rng.below(shape.ksub() as u64)).unwrap()).collect()
}

/// Everything that can be read, against plain rows.
fn assert_same(codes: &Codes, rows: &[u8], what: &str) {
    let (shape, m) = (codes.shape(), codes.shape().m());
    assert_eq!(codes.len(), rows.len() / m, "{what}");
    let mut got = vec![0; rows.len()];
    for (i, out) in got.chunks_exact_mut(m).enumerate() {
        codes.get(i, out);
    }
    assert!(got == rows, "{what} {shape:?}");
    if let Some(cells) = codes.cells() {
        let mut want = vec![0; 4096];
        for pair in rows.chunks_exact(2) {
            want[usize::from(pair[0]) * 64 + usize::from(pair[1])] += 1;
        }
        assert!(cells == want, "{what}");
    }
}

fn shapes() -> impl Iterator<Item = PqShape> {
    let m = [1, 2, 3, 8, 9, 16];
    [4, 6, 8].into_iter().flat_map(move |nbits| m.map(|m| PqShape::new(32, m, nbits).unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_history_reads_like_plain_rows(seed: u64, which in 0..18_usize) {
        let shape = shapes().nth(which).unwrap();
        let m = shape.m();
        let mut rng = Xoshiro256pp::new(seed);
        let below = |rng: &mut Xoshiro256pp, n: usize| usize::try_from(rng.below(n as u64 + 1)).unwrap();
        let (mut codes, mut rows) = (Codes::new(shape), Vec::new());
        let mut fork: Option<(Codes, Vec<u8>)> = None;
        for _ in 0..24 {
            match rng.below(7) {
                0..3 => {
                    let n = below(&mut rng, 1500);
                    let new = random(&mut rng, shape, n);
                    codes.extend(&new).unwrap();
                    rows.extend_from_slice(&new);
                }
                3 => {
                    let len = below(&mut rng, codes.len() + 10);
                    codes.truncate(len);
                    rows.truncate(len * m);
                }
                4 => {
                    let end = below(&mut rng, codes.len());
                    let start = below(&mut rng, end);
                    codes.remove(start..end).unwrap();
                    rows.drain(start * m..end * m);
                }
                5 if !codes.is_empty() => {
                    let at = below(&mut rng, codes.len() - 1);
                    let new = random(&mut rng, shape, 1);
                    codes.set(at, &new).unwrap();
                    rows[at * m..][..m].copy_from_slice(&new);
                }
                _ => {
                    if let Some((codes, rows)) = &fork {
                        assert_same(codes, rows, "a fork's origin");
                    }
                    fork = Some((codes.clone(), rows.clone()));
                }
            }
            prop_assert_eq!(codes.len() * m, rows.len());
        }
        assert_same(&codes, &rows, "codes");
        if let Some((codes, rows)) = &fork {
            assert_same(codes, rows, "fork");
        }
        let end = below(&mut rng, codes.len());
        let start = below(&mut rng, end);
        let mut packed = vec![0xff; (end - start) * shape.code_bytes()];
        codes.pack(start..end, &mut packed).unwrap();
        for (packed, row) in packed.chunks_exact(shape.code_bytes()).zip(rows[start * m..].chunks_exact(m)) {
            let mut want = vec![0; shape.code_bytes()];
            for (i, bit) in row.iter().flat_map(|&c| (0..shape.nbits()).map(move |b| c >> b & 1)).enumerate() {
                want[i / 8] |= bit << (i % 8);
            }
            prop_assert_eq!(packed, want);
        }
        let mut back = Codes::new(shape);
        back.extend_packed(&packed, end - start).unwrap();
        assert_same(&back, &rows[start * m..end * m], "packed");
    }
}

#[test]
fn clones_share_blocks_until_one_side_changes_them() {
    let shape = PqShape::new(32, 2, 6).unwrap();
    let mut codes = Codes::new(shape);
    codes.extend(&vec![1; 2 * (2 * BLOCK + 10)]).unwrap();
    let mut fork = codes.clone();
    fork.extend(&[2, 2]).unwrap();
    let shared = |b: usize| Arc::ptr_eq(&codes.blocks[b], &fork.blocks[b]);
    assert_eq!([shared(0), shared(1), shared(2)], [true, true, false]);
    fork.set(0, &[3, 3]).unwrap();
    let shared = |b: usize| Arc::ptr_eq(&codes.blocks[b], &fork.blocks[b]);
    assert_eq!([shared(0), shared(1)], [false, true]);
}

#[test]
fn memory_is_whole_blocks() {
    for (m, nbits, bytes) in [(2, 6, 2), (4, 8, 4), (16, 4, 8), (32, 4, 16), (9, 4, 8)] {
        let shape = PqShape::new(64, m, nbits).unwrap();
        assert_eq!(Codes::token_bytes(shape), bytes);
        let mut codes = Codes::new(shape);
        let cells = if m == 2 { 4096 * 4 } else { 0 };
        assert_eq!(codes.heap_bytes(), cells);
        codes.extend(&vec![0; (BLOCK + 1) * m]).unwrap();
        let pointers = codes.heap_bytes() - cells - 2 * BLOCK * bytes;
        assert!((32..=64).contains(&pointers), "{pointers}");
        codes.truncate(BLOCK);
        assert_eq!(codes.heap_bytes() - cells - pointers, BLOCK * bytes);
    }
}

#[test]
fn wrong_codes_and_tokens_are_named_and_change_nothing() {
    let shape = PqShape::new(32, 3, 6).unwrap();
    let mut codes = Codes::new(shape);
    codes.extend(&[1, 2, 3, 4, 5, 6]).unwrap();
    assert_eq!(codes.extend(&[1, 2]), Err(PqError::Length { expected: 3, got: 2 }));
    assert_eq!(codes.extend(&[1, 2, 3, 4, 64, 5]), Err(PqError::Code { at: 4, code: 64 }));
    assert_eq!(codes.set(2, &[1, 2, 3]), Err(PqError::Tokens { end: 3, len: 2 }));
    assert_eq!(codes.set(1, &[1, 2]), Err(PqError::Length { expected: 3, got: 2 }));
    assert_eq!(codes.set(1, &[1, 2, 255]), Err(PqError::Code { at: 2, code: 255 }));
    assert_eq!(codes.remove(1..3), Err(PqError::Tokens { end: 3, len: 2 }));
    assert_eq!(codes.pack(0..3, &mut [0; 9]), Err(PqError::Tokens { end: 3, len: 2 }));
    assert_eq!(codes.pack(0..2, &mut [0; 5]), Err(PqError::Length { expected: 6, got: 5 }));
    assert_eq!(codes.extend_packed(&[0; 5], 2), Err(PqError::Length { expected: 6, got: 5 }));
    assert_eq!(codes.extend_packed(&[0, 0, 1, 0, 0, 4], 2), Err(PqError::Padding { row: 1 }));
    assert_same(&codes, &[1, 2, 3, 4, 5, 6], "after errors");
}
