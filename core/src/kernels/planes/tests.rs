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
fn bases_are_the_majority_sign_over_the_mean() {
    for (n, width) in [(1, 1), (3, 5), (256, 64), (40, 130), (33, 200)] {
        let plane = bytes(n * width);
        let want: Vec<u8> = (0..width)
            .map(|c| {
                let column = plane.iter().skip(c).step_by(width);
                let negative = column.clone().filter(|b| **b >= 0x80).count();
                let mean = column.map(|b| usize::from(b & 0x7f)).sum::<usize>() / n;
                u8::try_from(mean).unwrap() | u8::from(negative * 2 > n) << 7
            })
            .collect();
        for level in cpu::levels() {
            let mut bases = vec![0; width];
            column_bases(level, &plane, &mut bases);
            assert_eq!(bases, want, "{level}, {n} x {width}");
        }
        let mut moved = plane.clone();
        subtract_columns(&mut moved, &want);
        assert!((0..n * width).all(|i| moved[i] == plane[i].wrapping_sub(want[i % width])));
        add_columns(&mut moved, &want);
        assert_eq!(moved, plane);
    }
}
