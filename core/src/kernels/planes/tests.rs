use super::*;
use crate::cpu;
use crate::num::rng::Xoshiro256pp;
use std::vec;
use std::vec::Vec;

fn bytes(n: usize) -> Vec<u8> {
    let mut rng = Xoshiro256pp::new(9);
    (0..n).map(|_| u8::try_from(rng.below(256)).unwrap()).collect()
}

fn planes_follow_their_definition<const N: usize>() {
    for n in [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000] {
        for offset in [0, 1] {
            let source = &bytes(n * N + offset)[offset..];
            for level in cpu::levels() {
                // Guards at both ends of each plane.
                let mut planes: Vec<Vec<u8>> = vec![vec![0xAA; n + 2]; N];
                let mut parts = planes.iter_mut().map(|p| &mut p[1..=n]);
                split::<N>(level, source, core::array::from_fn(|_| parts.next().unwrap()));
                for (j, plane) in planes.iter().enumerate() {
                    assert!((0..n).all(|i| plane[1 + i] == source[i * N + j]), "{level}, {n} elements");
                    assert_eq!((plane[0], plane[n + 1]), (0xAA, 0xAA));
                }
                let mut back = vec![0xAA; n * N + 2];
                merge::<N>(level, core::array::from_fn(|j| &planes[j][1..=n]), &mut back[1..=n * N]);
                assert_eq!(&back[1..=n * N], source, "{level}, {n} elements");
                assert_eq!((back[0], back[n * N + 1]), (0xAA, 0xAA));
            }
        }
    }
}

#[test]
fn two_planes_follow_their_definition() {
    planes_follow_their_definition::<2>();
}

#[test]
fn four_planes_follow_their_definition() {
    planes_follow_their_definition::<4>();
}

#[test]
fn transpose_follows_its_definition() {
    for height in [0, 1, 15, 16, 17, 32, 63, 64, 65, 252] {
        for width in [1, 15, 16, 17, 63, 64, 65, 80, 96, 128, 130] {
            let source = bytes(height * width);
            for level in cpu::levels() {
                let mut turned = vec![0; source.len()];
                transpose(level, &source, width, &mut turned);
                for r in 0..height {
                    for c in 0..width {
                        assert_eq!(
                            turned[c * height + r],
                            source[r * width + c],
                            "{level} {height} x {width}"
                        );
                    }
                }
            }
        }
    }
}
