//! Which tensor holds the keys or values of which layer, by its name.
//!
//! There is no official naming; what is seen in the wild (`past_key_values.{i}.key`, `k_{i}`, `layers.{i}.keys`,
//! `key_cache.{i}`, ...) is a layer number and a word for keys or values, in either order. This project's own exports
//! are `k.L{i}`, `v.L{i}` and `q.L{i}`, with `.p{part}` behind it where there are several caches.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

use super::Kind;
use super::options::NameMap;
use super::tensor::Tensor;

/// What a tensor's name says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Keys,
    Values,
    Queries,
}

/// Tensors by layer, as indices into the list that was given.
#[derive(Debug, Default)]
pub(crate) struct Assigned {
    /// Keys and values of each part's layers.
    pub(crate) layers: BTreeMap<(u32, u32), [Option<usize>; 2]>,
    /// Queries of layers.
    pub(crate) queries: BTreeMap<u32, usize>,
}

impl Assigned {
    /// Part, layer, kind and tensor of every stream.
    pub(crate) fn streams(&self) -> impl Iterator<Item = (u32, u32, Kind, usize)> + '_ {
        self.layers.iter().flat_map(|(&(part, layer), kv)| {
            let kinds = [Kind::K, Kind::V].into_iter().zip(kv);
            kinds.filter_map(move |(kind, t)| Some((part, layer, kind, (*t)?)))
        })
    }

    /// Takes `index` for a layer's `role`; returns the tensor that had it.
    fn put(&mut self, part: u32, layer: u32, role: Role, index: usize) -> Option<usize> {
        match role {
            Role::Keys => self.layers.entry((part, layer)).or_default()[0].replace(index),
            Role::Values => self.layers.entry((part, layer)).or_default()[1].replace(index),
            Role::Queries => self.queries.insert(layer, index),
        }
    }
}

/// Sorts tensors into layers by `map`, or by what their names say.
pub(crate) fn assign(tensors: &[Tensor], map: Option<&NameMap>) -> Result<Assigned> {
    let assigned = match map {
        Some(map) => by_map(tensors, map)?,
        None if tensors.iter().any(|t| own_name(&t.name).is_some()) => {
            collect(tensors, |t| own_name(&t.name))?
        }
        None => by_words(tensors)?,
    };
    for ((_, layer), [k, v]) in &assigned.layers {
        let name = |t: &Option<usize>| t.map_or("", |t| &tensors[t].name);
        // A map that names one kind only is on purpose.
        let both = map.is_none_or(|m| m.k.is_some() && m.v.is_some());
        ensure!(
            !both || (k.is_some() && v.is_some()),
            "layer {layer} has only `{}{}`; name the tensors with --map 'K=...{{i}}...,V=...{{i}}...'",
            name(k),
            name(v)
        );
    }
    Ok(assigned)
}

fn by_map(tensors: &[Tensor], map: &NameMap) -> Result<Assigned> {
    let mut out = Assigned::default();
    for (index, t) in tensors.iter().enumerate() {
        for (role, template) in [(Role::Keys, &map.k), (Role::Values, &map.v)] {
            if let Some(layer) = template.as_ref().and_then(|n| n.layer_of(&t.name))
                && let Some(old) = out.put(0, layer, role, index)
            {
                bail!("both `{}` and `{}` are mapped to layer {layer}", tensors[old].name, t.name);
            }
        }
    }
    ensure!(!out.layers.is_empty(), "no tensor matches the map; there are {}", some_names(tensors));
    Ok(out)
}

/// Names may hold several numbers (`model2.layers.5.key`): the first one that tells all tensors apart is the layer's.
fn by_words(tensors: &[Tensor]) -> Result<Assigned> {
    let mut clash = None;
    for run in 0..MAX_NUMBERS {
        match by_number(tensors, run) {
            Ok(a) if a.layers.is_empty() => {}
            Ok(a) => return Ok(a),
            Err(e) => clash = clash.or(Some(e)),
        }
    }
    clash.map_or(Ok(Assigned::default()), Err)
}

/// More numbers than this in one name are not looked at.
const MAX_NUMBERS: usize = 4;

fn by_number(tensors: &[Tensor], run: usize) -> Result<Assigned> {
    collect(tensors, |t| role_of(&t.name, run).map(|(layer, role)| (0, layer, role)))
}

fn collect(tensors: &[Tensor], role: impl Fn(&Tensor) -> Option<(u32, u32, Role)>) -> Result<Assigned> {
    let mut out = Assigned::default();
    for (index, t) in tensors.iter().enumerate() {
        let Some((part, layer, role)) = role(t) else { continue };
        if let Some(old) = out.put(part, layer, role, index) {
            bail!(
                "`{}` and `{}` both look like layer {layer}; say which is meant with --map 'K=...{{i}}...,V=...{{i}}...'",
                tensors[old].name,
                t.name
            );
        }
    }
    Ok(out)
}

/// Part, layer and role of this project's own names.
fn own_name(name: &str) -> Option<(u32, u32, Role)> {
    let (role, rest) = name.split_once(".L")?;
    let role = match role {
        "k" => Role::Keys,
        "v" => Role::Values,
        "q" => Role::Queries,
        _ => return None,
    };
    let (layer, part) = rest.split_once(".p").unwrap_or((rest, "0"));
    Some((part.parse().ok()?, layer.parse().ok()?, role))
}

/// The layer and role that `name` spells, taking its `run`-th number for the layer.
fn role_of(name: &str, run: usize) -> Option<(u32, Role)> {
    if let Some((layer, item)) = name.split_once('.')
        && layer.bytes().all(|b| b.is_ascii_digit())
        && (item == "0" || item == "1")
    {
        // mlx: item 0 is keys, item 1 values.
        let role = if item == "0" { Role::Keys } else { Role::Values };
        return (run == 0).then_some((layer.parse().ok()?, role));
    }
    let words: Vec<&str> = words(name).collect();
    // Weights of a model, and scales that belong to quantized tensors, have names much like these.
    if words.iter().any(|w| NOT_A_CACHE.iter().any(|n| w.eq_ignore_ascii_case(n))) {
        return None;
    }
    let number = words
        .iter()
        .enumerate()
        .filter(|(_, w)| w.starts_with(|c: char| c.is_ascii_digit()))
        .map(|(at, _)| at)
        .nth(run)?;
    let role = words[number..]
        .iter()
        .find_map(|w| word_role(w))
        .or_else(|| words[..number].iter().rev().find_map(|w| word_role(w)))?;
    Some((words[number].parse().ok()?, role))
}

const NOT_A_CACHE: [&str; 8] = ["weight", "bias", "proj", "scale", "scales", "biases", "zeros", "norm"];

fn word_role(word: &str) -> Option<Role> {
    let is = |list: &[&str]| list.iter().any(|w| word.eq_ignore_ascii_case(w));
    if is(&["k", "key", "keys"]) {
        Some(Role::Keys)
    } else if is(&["v", "value", "values"]) {
        Some(Role::Values)
    } else if is(&["q", "query", "queries"]) {
        Some(Role::Queries)
    } else {
        None
    }
}

/// Runs of letters and runs of digits.
fn words(name: &str) -> impl Iterator<Item = &str> {
    let class = |c: char| {
        if c.is_ascii_digit() {
            1
        } else if c.is_alphabetic() {
            2
        } else {
            0
        }
    };
    let mut rest = name;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c| class(c) == 0);
        let first = class(rest.chars().next()?);
        let end = rest.find(|c| class(c) != first).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        rest = tail;
        Some(word)
    })
}

/// The axis order that goes with a naming, where its users agree on one.
pub(crate) fn convention(names: &[&str], rank: usize) -> Option<&'static str> {
    let all = |test: &dyn Fn(&str) -> bool| names.iter().all(|n| test(n));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    // Caches of Hugging Face's and mlx's models.
    let exported = |n: &str| n.starts_with("past_key") || n.starts_with("present") || n.starts_with("past.");
    let short = |n: &str| n.strip_prefix("k_").or(n.strip_prefix("v_")).is_some_and(digits);
    let flat = |n: &str| n.split('.').all(digits);
    // This project's own.
    let ours = |n: &str| own_name(n).is_some();
    match rank {
        4 if all(&exported) || all(&short) || all(&flat) => Some("bhtd"),
        3 if all(&ours) => Some("htd"),
        _ => None,
    }
}

/// A few tensor names for a message.
pub(crate) fn some_names(tensors: &[Tensor]) -> String {
    const SHOWN: usize = 5;
    let mut text = tensors.iter().take(SHOWN).map(|t| format!("`{}`", t.name)).collect::<Vec<_>>().join(", ");
    match tensors.len() {
        0 => text.push_str("no tensors"),
        n if n > SHOWN => text.push_str(&format!(" and {} more", n - SHOWN)),
        _ => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tersa_core::num::DType;

    fn tensors(names: &[&str]) -> Vec<Tensor> {
        let one = |n: &&str| Tensor {
            name: (*n).to_owned(),
            file: 0,
            offset: 0,
            dtype: Ok(DType::F16),
            shape: vec![],
            strides: vec![],
        };
        names.iter().map(one).collect()
    }

    #[test]
    fn every_naming_seen_in_the_wild_is_understood() {
        for (k, v) in [
            ("past_key_values.7.key", "past_key_values.7.value"),
            ("present.7.key", "present.7.value"),
            ("k_7", "v_7"),
            ("7.0", "7.1"),
            ("layer_7_key", "layer_7_value"),
            ("layers.7.keys", "layers.7.values"),
            ("key_cache.7", "value_cache.7"),
            ("layer_7.k", "layer_7.v"),
            ("k.L7", "v.L7"),
            ("Layer7.Key", "Layer7.Value"),
            ("cache_k_l7", "cache_v_l7"),
            ("K7", "V7"),
            ("past_key_values_7_key_states", "past_key_values_7_value_states"),
        ] {
            let list = tensors(&[k, v]);
            let a = assign(&list, None).unwrap();
            assert_eq!(a.layers, BTreeMap::from([((0, 7), [Some(0), Some(1)])]), "{k}");
        }
    }

    #[test]
    fn queries_are_found_beside_keys_and_other_tensors_are_left_alone() {
        let list = tensors(&["tokens", "k.L3", "q.L3", "v.L3", "model.layers.0.self_attn.k_proj.weight"]);
        let a = assign(&list, None).unwrap();
        assert_eq!(a.layers, BTreeMap::from([((0, 3), [Some(1), Some(3)])]));
        assert_eq!(a.queries, BTreeMap::from([(3, 2)]));
    }

    #[test]
    fn the_number_that_tells_tensors_apart_is_the_layer() {
        let list = tensors(&["m2.layers.0.key", "m2.layers.0.value", "m2.layers.1.key", "m2.layers.1.value"]);
        assert_eq!(assign(&list, None).unwrap().layers.keys().map(|k| k.1).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn lonely_and_clashing_tensors_are_refused_with_advice() {
        for names in [&["k_0", "v_0", "k_1"][..], &["a.0.key", "b.0.key", "a.0.value", "b.0.value"]] {
            let message = assign(&tensors(names), None).unwrap_err().to_string();
            assert!(message.contains("--map"), "{message}");
        }
        assert!(assign(&tensors(&["tokens", "x"]), None).unwrap().layers.is_empty());
    }

    #[test]
    fn own_names_may_say_a_part() {
        let a = assign(&tensors(&["k.L0.p1", "v.L0.p1", "k.L0.p0", "v.L0.p0", "layer.5.key"]), None).unwrap();
        assert_eq!(a.layers, BTreeMap::from([((0, 0), [Some(2), Some(3)]), ((1, 0), [Some(0), Some(1)])]));
    }

    #[test]
    fn a_map_may_name_keys_only() {
        let map = "K=c{i}".parse().unwrap();
        let a = assign(&tensors(&["c0", "c1", "d1"]), Some(&map)).unwrap();
        assert_eq!(a.layers, BTreeMap::from([((0, 0), [Some(0), None]), ((0, 1), [Some(1), None])]));
        let both = "K=c{i},V=d{i}".parse().unwrap();
        assert!(assign(&tensors(&["c0", "c1", "d1"]), Some(&both)).is_err());
    }
}
