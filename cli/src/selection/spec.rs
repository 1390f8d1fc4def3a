//! Names of selectors and budgets on the command line.

use std::fmt;
use std::str::FromStr;

use tersa_core::kv::drift::DriftParams;
use tersa_core::kv::{Preset, Refresh};

use super::Selector;
use super::peers::{Exact, ExactV, H2o, Quest, Random, Recent, SnapKv, SparQ};
use super::pq::Pq;

/// One selector by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spec {
    /// The true scores.
    Exact,
    /// True probability times the length of the value.
    ExactV,
    /// Bounds of pages of so many tokens.
    Quest(usize),
    /// So many channels of the keys.
    SparQ(usize),
    /// Attention of the last prompt queries.
    SnapKv,
    /// Accumulated attention.
    H2o,
    /// The most recent tokens.
    Recent,
    /// Any tokens.
    Random,
    /// Product quantization.
    Pq(Pq),
}

/// What `all` stands for, and what an unknown name is told.
const ALL: [Spec; 13] = [
    Spec::Exact,
    Spec::ExactV,
    Spec::Quest(16),
    Spec::SparQ(8),
    Spec::SparQ(16),
    Spec::SnapKv,
    Spec::H2o,
    Spec::Recent,
    Spec::Random,
    Spec::Pq(Pq::Preset(Preset::PaperLongBench)),
    Spec::Pq(Pq::Preset(Preset::PaperInfiniteBench)),
    Spec::Pq(Pq::Plain { m: 16, nbits: 4, rerank: 0 }),
    Spec::Pq(Pq::Preset(Preset::Default)),
];

/// The forms that are understood.
const KNOWN: &str = "all, exact, exact-v, quest[:PAGE], sparq:R, snapkv, h2o, recent, random, \
                     pq:{m}x{4,6,8}[+r{2,3,4}], paper-longbench, paper-infinitebench, skylight, default";

impl Spec {
    /// The selector of this name.
    pub(crate) fn selector(self) -> Box<dyn Selector> {
        match self {
            Self::Exact => Box::new(Exact),
            Self::ExactV => Box::new(ExactV),
            Self::Quest(page) => Box::new(Quest { page }),
            Self::SparQ(r) => Box::new(SparQ { r }),
            Self::SnapKv => Box::new(SnapKv),
            Self::H2o => Box::new(H2o),
            Self::Recent => Box::new(Recent),
            Self::Random => Box::new(Random),
            Self::Pq(pq) => Box::new(pq),
        }
    }

    /// Index of the family in [`FAMILIES`].
    pub(crate) fn family(self) -> usize {
        match self {
            Self::Exact | Self::ExactV => 0,
            Self::Quest(_) => 1,
            Self::SparQ(_) => 2,
            Self::Pq(Pq::Plain { rerank: 0, .. }) => 3,
            Self::Pq(Pq::Preset(preset)) if preset != Preset::Default => 3,
            Self::Pq(_) => 4,
            Self::SnapKv | Self::H2o | Self::Recent | Self::Random => 5,
        }
    }
}

/// Families of selectors, in the order of a plot's colours.
pub(crate) const FAMILIES: [&str; 6] =
    ["true scores", "Quest", "SparQ", "product quantization", "with re-rank", "chosen once"];

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::ExactV => f.write_str("exact-v"),
            Self::Quest(page) => write!(f, "quest:{page}"),
            Self::SparQ(r) => write!(f, "sparq:{r}"),
            Self::SnapKv => f.write_str("snapkv"),
            Self::H2o => f.write_str("h2o"),
            Self::Recent => f.write_str("recent"),
            Self::Random => f.write_str("random"),
            Self::Pq(Pq::Plain { m, nbits, rerank: 0 }) => write!(f, "pq:{m}x{nbits}"),
            Self::Pq(Pq::Plain { m, nbits, rerank }) => write!(f, "pq:{m}x{nbits}+r{rerank}"),
            Self::Pq(Pq::Preset(preset)) => f.write_str(preset.name()),
        }
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let unknown = || format!("no selector `{s}`; known: {KNOWN}");
        let count = |n: &str| match n.parse::<usize>() {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(format!("`{s}`: `{n}` is not a whole number above 0")),
        };
        match s.split_once(':') {
            None => match s {
                "exact" => Ok(Self::Exact),
                "exact-v" => Ok(Self::ExactV),
                "quest" => Ok(Self::Quest(16)),
                "snapkv" => Ok(Self::SnapKv),
                "h2o" => Ok(Self::H2o),
                "recent" => Ok(Self::Recent),
                "random" => Ok(Self::Random),
                _ => Preset::from_name(s).map(|p| Self::Pq(Pq::Preset(p))).ok_or_else(unknown),
            },
            Some(("quest", page)) => Ok(Self::Quest(count(page)?)),
            Some(("sparq", r)) => Ok(Self::SparQ(count(r)?)),
            Some(("pq", shape)) => {
                let (codes, rerank) = shape.split_once("+r").unwrap_or((shape, "0"));
                let (m, nbits) = codes.split_once('x').ok_or_else(unknown)?;
                let one_of = |n: &str, these: &[u8]| {
                    n.parse()
                        .ok()
                        .filter(|n| these.contains(n))
                        .ok_or_else(|| format!("`{s}`: `{n}` is none of {these:?}"))
                };
                let rerank = if rerank == "0" { 0 } else { one_of(rerank, &[2, 3, 4])? };
                Ok(Self::Pq(Pq::Plain { m: count(m)?, nbits: one_of(nbits, &[4, 6, 8])?, rerank }))
            }
            _ => Err(unknown()),
        }
    }
}

/// Selectors separated by commas; `all` is every one at its usual size. Each is measured once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Specs(pub(crate) Vec<Spec>);

impl FromStr for Specs {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let mut specs = Vec::new();
        for name in s.split([',', ' ']).filter(|n| !n.is_empty()) {
            let these = if name == "all" { ALL.to_vec() } else { vec![name.parse()?] };
            specs.extend(these.into_iter().filter(|s| !specs.contains(s)).collect::<Vec<_>>());
        }
        if specs.is_empty() { Err(format!("no selector is named; known: {KNOWN}")) } else { Ok(Self(specs)) }
    }
}

/// Parts of the tokens that may be chosen, as fractions.
#[derive(Clone, Debug, PartialEq)]
pub struct Budgets(pub(crate) Vec<f64>);

impl FromStr for Budgets {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let fraction = |t: &str| match t.trim().parse::<f64>() {
            Ok(f) if f > 0.0 && f <= 1.0 => Ok(f),
            _ => Err(format!("`{t}` is not a fraction of the tokens above 0 and up to 1; write 0.2,0.1")),
        };
        s.split(',').map(fraction).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(","))
    }
}

/// When indexes are built anew as tokens are appended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct When(pub(crate) Option<Refresh>);

impl FromStr for When {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let unknown = || format!("`{s}` is none of preset, never, growth:SHARE, drift[:RATIO]");
        let above = |t: &str, least: f32| {
            t.parse().ok().filter(|x: &f32| *x > least && x.is_finite()).ok_or_else(unknown)
        };
        Ok(Self(match s.split_once(':') {
            None if s == "preset" => None,
            None if s == "never" => Some(Refresh::Never),
            None if s == "drift" => Some(Refresh::Drift(DriftParams::default())),
            Some(("drift", ratio)) => {
                Some(Refresh::Drift(DriftParams { refresh_at: above(ratio, 1.0)?, ..DriftParams::default() }))
            }
            Some(("growth", share)) => {
                Some(Refresh::Growth { share: above(share, 0.0)?.into(), at_least: 1 })
            }
            _ => return Err(unknown()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_printed() {
        for spec in ALL {
            assert_eq!(spec.to_string().parse(), Ok(spec));
        }
        assert_eq!("quest".parse(), Ok(Spec::Quest(16)));
        let reranked = Spec::Pq(Pq::Plain { m: 16, nbits: 4, rerank: 2 });
        assert_eq!(("pq:16x4+r2".parse(), reranked.to_string()), (Ok(reranked), "pq:16x4+r2".into()));
        for bad in [
            "",
            "qest",
            "quest:0",
            "sparq",
            "sparq:x",
            "exact:3",
            "pq:2",
            "pq:2x5",
            "pq:0x4",
            "pq:4x8+r5",
            "pq:4x8+2",
        ] {
            assert!(bad.parse::<Spec>().is_err(), "{bad:?} must be refused");
        }
        assert!("qest".parse::<Spec>().unwrap_err().contains("quest[:PAGE]"));
    }

    #[test]
    fn lists_hold_each_selector_once() {
        let specs: Specs = "random,all,quest:32".parse().unwrap();
        assert_eq!(specs.0.len(), ALL.len() + 1);
        assert_eq!((specs.0[0], specs.0[1]), (Spec::Random, Spec::Exact));
        assert!(",".parse::<Specs>().is_err());
    }

    #[test]
    fn times_of_building_anew_are_read() {
        assert_eq!("preset".parse(), Ok(When(None)));
        assert_eq!("never".parse(), Ok(When(Some(Refresh::Never))));
        assert_eq!("growth:0.125".parse(), Ok(When(Some(Refresh::Growth { share: 0.125, at_least: 1 }))));
        assert!(matches!("drift:1.5".parse(), Ok(When(Some(Refresh::Drift(p)))) if p.refresh_at == 1.5));
        for bad in ["", "growth", "growth:0", "growth:-1", "growth:nan", "drift:1", "never:1", "preset:2"] {
            assert!(bad.parse::<When>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn budgets_are_fractions() {
        assert_eq!("0.2, 1,0.01".parse::<Budgets>().unwrap().to_string(), "0.2,1,0.01");
        for bad in ["", "0", "1.1", "-0.1", "NaN", "0.1,", "20%"] {
            assert!(bad.parse::<Budgets>().is_err(), "{bad:?} must be refused");
        }
    }
}
