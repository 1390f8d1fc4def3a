//! Seeded random numbers whose streams never change: equal seeds give equal files, on every machine and in every
//! version.

use super::hash::mix64;

/// splitmix64's increment: 2^64 divided by the golden ratio, made odd.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// Blackman and Vigna's xoshiro256++: 256 bits of state, period 2^256 - 1. Not for secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xoshiro256pp {
    state: [u64; 4],
}

impl Xoshiro256pp {
    /// The generator whose state is the first four outputs of splitmix64 from `seed`, as its authors advise.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        let s1 = seed.wrapping_add(GAMMA);
        let s2 = s1.wrapping_add(GAMMA);
        let s3 = s2.wrapping_add(GAMMA);
        let s4 = s3.wrapping_add(GAMMA);
        // Never the forbidden all-zero state: `mix64` is a bijection of four different values.
        Self { state: [mix64(s1), mix64(s2), mix64(s3), mix64(s4)] }
    }

    /// The next 64 random bits.
    pub const fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number in `0..n`, each with equal probability (Lemire's method: one multiplication, a division only when
    /// a draw may have to be refused).
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "there is no number below 0");
        let mut product = u128::from(self.next_u64()) * u128::from(n);
        if low_half(product) < n {
            let refuse_under = n.wrapping_neg() % n; // 2^64 mod n
            while low_half(product) < refuse_under {
                product = u128::from(self.next_u64()) * u128::from(n);
            }
        }
        high_half(product)
    }

    /// A number in `[0, 1)`: a random multiple of 2^-53.
    #[allow(clippy::cast_precision_loss, reason = "53 bits are exact in f64")]
    pub fn f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn low_half(product: u128) -> u64 {
    product as u64
}

#[allow(clippy::cast_possible_truncation, reason = "64 bits remain after the shift")]
const fn high_half(product: u128) -> u64 {
    (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_reference_stream() {
        let mut rng = Xoshiro256pp { state: [1, 2, 3, 4] };
        for want in [
            41_943_041,
            58_720_359,
            3_588_806_011_781_223,
            3_591_011_842_654_386,
            9_228_616_714_210_784_205,
            9_973_669_472_204_895_162,
            14_011_001_112_246_962_877,
            12_406_186_145_184_390_807,
            15_849_039_046_786_891_736,
            10_450_023_813_501_588_000,
        ] {
            assert_eq!(rng.next_u64(), want);
        }
    }

    #[test]
    fn seeds_through_splitmix64() {
        let want = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
        ];
        assert_eq!(Xoshiro256pp::new(1_234_567).state, want);
    }

    #[test]
    fn below_reaches_every_number_about_equally_often() {
        let mut rng = Xoshiro256pp::new(7);
        let mut seen = [0_u32; 6];
        for _ in 0..60_000 {
            seen[usize::try_from(rng.below(6)).unwrap()] += 1;
        }
        // Five standard deviations of a binomial with n = 60000, p = 1/6 are 456.
        assert!(seen.iter().all(|n| n.abs_diff(10_000) < 456), "{seen:?}");
        assert_eq!(rng.below(1), 0);
    }

    #[test]
    fn below_refuses_the_draws_that_would_bias_it() {
        // With n = 3 * 2^62 a quarter of all draws is refused; without refusal the residues 0 mod 3 come twice as
        // often as the others.
        let n = 3_u64 << 62;
        let mut rng = Xoshiro256pp::new(11);
        let zero = (0..30_000).filter(|_| rng.below(n).is_multiple_of(3)).count();
        assert!(zero.abs_diff(10_000) < 410, "{zero}"); // five standard deviations
    }

    #[test]
    fn unit_interval_is_half_open_and_filled() {
        let mut rng = Xoshiro256pp::new(3);
        let (mut least, mut most, mut sum) = (1.0_f64, 0.0_f64, 0.0);
        for _ in 0..10_000 {
            let x = rng.f64();
            assert!((0.0..1.0).contains(&x));
            (least, most, sum) = (least.min(x), most.max(x), sum + x);
        }
        assert!(least < 0.002 && most > 0.998 && (sum / 10_000.0 - 0.5).abs() < 0.015);
    }
}
