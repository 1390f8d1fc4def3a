use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

fn any_spec() -> impl Strategy<Value = CodecSpec> {
    let lm = (
        any::<bool>(),
        prop::sample::select(&[2u8, 3, 4, 5, 6, 8][..]),
        prop::sample::select(&[ScaleRule::Norm, ScaleRule::Unbiased, ScaleRule::LeastSquares][..]),
    )
        .prop_map(|(mean, bits, scale)| CodecSpec::lm(mean, bits, scale));
    let int = (
        prop::sample::select(&[2u8, 4, 8][..]),
        prop::sample::select(&[GroupAxis::Channel, GroupAxis::Token][..]),
        prop::sample::select(&[32u16, 64, 128][..]),
    )
        .prop_map(|(bits, axis, group)| CodecSpec::int(bits, axis, group));
    let pq = (1u16.., prop::sample::select(&[4u8, 6, 8][..]))
        .prop_map(|(m, nbits)| CodecSpec::plain(Quantizer::Pq { m, nbits }));
    prop_oneof![prop::sample::select(CodecSpec::catalog()), lm, int, pq]
}

proptest! {
    #[test]
    fn a_spec_comes_back_from_its_text(spec in any_spec()) {
        prop_assert_eq!(spec.to_string().parse(), Ok(spec));
    }

    #[test]
    fn a_pair_comes_back_from_its_text(k in any_spec(), v in any_spec()) {
        let pair = KvSpec { k, v };
        prop_assert_eq!(pair.to_string().parse(), Ok(pair));
        prop_assert_eq!(format!("v={v},k={k}").parse(), Ok(pair));
    }

    #[test]
    fn what_parses_is_already_in_canonical_form(
        s in "(mean\\+)?(had\\+)?(raw|lossless|q[48]_0|lm[0-9]{1,2}|int[248][ct](32|64|128)|pq:[0-9]{1,3}x[468])(\\+ls|\\+unbiased)?"
    ) {
        if let Ok(spec) = s.parse::<CodecSpec>() {
            prop_assert_eq!(spec.to_string(), s);
        }
    }

    #[test]
    fn any_text_is_answered_without_panic(s in ".{0,40}") {
        let _ = s.parse::<KvSpec>().map_err(|e| e.to_string());
    }
}

#[test]
fn catalog_has_no_duplicates_and_every_family() {
    let names: Vec<String> = CodecSpec::catalog().iter().map(ToString::to_string).collect();
    for (i, name) in names.iter().enumerate() {
        assert!(!names[..i].contains(name), "{name} appears twice");
    }
    for family in
        ["raw", "lossless", "q8_0", "had+q4_0", "had+lm4", "mean+had+lm", "+unbiased", "+ls", "int", "pq:"]
    {
        assert!(names.iter().any(|n| n.contains(family)), "no {family}");
    }
}

#[test]
fn kivi_stands_for_channels_of_keys_and_tokens_of_values() {
    assert_eq!("kivi2g64".parse::<KvSpec>().unwrap().to_string(), "k=int2c64,v=int2t64");
}

#[test]
fn every_error_says_what_is_allowed() {
    let message = |s: &str| s.parse::<KvSpec>().unwrap_err().to_string();
    for (spec, expected) in [
        ("zip", "had+lm{2,3,4,5,6,8}"),
        ("lm", "no codec or stage is named 'lm'"),
        ("had+lm04", "'lm04'"),
        ("had+lm7", "2, 3, 4, 5, 6 or 8"),
        ("had+lm300", "300 bits"),
        ("lm4", "had+lm4"),
        ("int3c32", "2, 4 or 8"),
        ("int4x32", "'int4x32'"),
        ("int4c33", "groups of 33 are not offered; there are 32, 64 and 128"),
        ("kivi5g32", "kivi does not come with 5 bits"),
        ("kivi4g16", "32, 64 and 128"),
        ("pq:16x5", "4, 6 or 8"),
        ("pq:0x8", "at least 1"),
        ("pq:16", "'pq:16'"),
        ("had+raw", "it goes before q8_0, q4_0 and lm"),
        ("had+int4c32", "had does not apply to 'int4c32'"),
        ("mean+q4_0", "mean+had+lm3"),
        ("mean+had+q4_0", "mean does not apply to 'q4_0'"),
        ("q4_0+ls", "after had+lm only"),
        ("had+lm4+ls+unbiased", "'unbiased' cannot follow"),
        ("had+mean+lm4", "the order is mean+had+codec"),
        ("had", "a codec is missing"),
        ("", "a codec is missing"),
        ("k=raw", "one k=SPEC and one v=SPEC"),
        ("k=raw,k=raw", "one k=SPEC and one v=SPEC"),
        ("k=raw,raw", "'raw' does not fit"),
        ("a-name-that-is-longer-than-any-codec", "'a-name-that-is-longer-...'"),
    ] {
        let said = message(spec);
        assert!(said.contains(expected), "{spec:?}: {said}");
    }
}

#[test]
fn nominal_rates_are_those_of_the_layouts() {
    let rate = |s: &str, d| s.parse::<CodecSpec>().unwrap().bits_per_value(d, DType::F16);
    assert_eq!(rate("raw", 64), 16.0);
    assert_eq!(rate("had+q4_0", 64), 4.5);
    assert_eq!(rate("had+lm4", 64), 4.25);
    assert_eq!(rate("int4c32", 64), 5.0);
    assert_eq!(rate("int4t64", 96), 4.0 + 2.0 * 32.0 / 96.0);
    assert_eq!(rate("pq:16x8", 64), 2.0);
    assert_eq!(CodecSpec::RAW.bits_per_value(64, DType::Q8_0), 8.5);
}
