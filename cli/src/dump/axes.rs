//! Which axis of an array is what, and the streams that follow from it.
//!
//! In order of weight: an order that was given, numbers that are known (heads, tokens, head size), the convention of a
//! naming, and last the sizes: a cache has more tokens than heads. Whatever nobody said is reported as an assumption,
//! and where nothing decides the dump is refused with both readings.

use anyhow::{Context, Result, bail, ensure};
use tersa_core::num::DType;
use tersa_core::view::{KvShape, KvStrides};

use super::known::Known;
use super::options::{Axis, AxisOrder};
use super::tensor::Tensor;
use super::{Content, DumpStream, Kind};

/// More layers, sequences or streams than this are a damaged header, not a dump.
const MAX_STREAMS: usize = 1 << 20;

/// The order of the axes of `tensors`, which all have one rank. An assumption goes to `content`.
pub(crate) fn decide(
    tensors: &[(Kind, &Tensor)],
    known: &Known,
    convention: Option<&str>,
    content: &mut Content,
) -> Result<AxisOrder> {
    let first = tensors.first().context("no tensors")?.1;
    let rank = first.rank();
    if let Some((_, odd)) = tensors.iter().find(|(_, t)| t.rank() != rank) {
        bail!("`{}` has {rank} axes and `{}` has {}", first.name, odd.name, odd.rank());
    }
    if let Some(order) = &known.layout {
        return given(order, first, tensors, known);
    }
    let all: &[&str] = match rank {
        2 => &["t(hd)"],
        3 => &["htd", "thd", "bt(hd)"],
        4 => &["bhtd", "bthd", "hbtd"],
        _ => bail!("`{}` has shape {:?}; keys and values have 2 to 4 axes", first.name, first.shape),
    };
    let mut left: Vec<AxisOrder> = all.iter().map(|s| parse(s)).collect();
    // With three axes, heads side by side are believed only if the last axis cannot be one head.
    let one_head = |t: &Tensor| known.head_dim.is_none_or(|d| t.shape.last() == Some(&d));
    let possible = |o: &AxisOrder, known: &Known| {
        tensors.iter().all(|&(kind, t)| {
            fits(o, kind, t, known) && !(rank == 3 && o.position(Axis::HeadDim).is_some() && one_head(t))
        })
    };
    // Layers with a sliding window have fewer tokens than metadata says of the whole.
    let any_tokens = Known { n_tokens: None, ..known.clone() };
    let known = if left.iter().any(|o| possible(o, known)) { known } else { &any_tokens };
    left.retain(|o| possible(o, known));
    if let Some(source) = known.source.clone().filter(|_| left.len() < all.len() || rank == 2) {
        content.assume(source);
    }
    match (left.as_slice(), convention.map(parse)) {
        ([], _) => bail!(
            "`{}` has shape {:?}, which fits none of {} with {}",
            first.name,
            first.shape,
            all.join(", "),
            said(known)
        ),
        ([only], _) => Ok(only.clone()),
        (_, Some(order)) if left.contains(&order) => {
            content.assume(format!("axes read as {} by the tensors' names", in_words(&order)));
            Ok(order)
        }
        _ => by_size(&left, tensors, content),
    }
}

fn given(order: &AxisOrder, first: &Tensor, tensors: &[(Kind, &Tensor)], known: &Known) -> Result<AxisOrder> {
    let mut order = order.clone();
    if first.rank() == order.axes().len() + 1 && order.position(Axis::Batch).is_none() {
        order = parse(&format!("b{order}"));
    }
    let n = order.axes().len();
    ensure!(n == first.rank(), "layout {order} has {n} axes, `{}` has shape {:?}", first.name, first.shape);
    ensure!(
        order.position(Axis::Layer).is_none() && order.position(Axis::KeyValue).is_none(),
        "layout {order} is of an array with every layer; `{}` is one layer's",
        first.name
    );
    for &(kind, t) in tensors {
        ensure!(
            fits(&order, kind, t, known),
            "`{}` of shape {:?} is not {order} with {}",
            t.name,
            t.shape,
            said(known)
        );
    }
    Ok(order)
}

/// Whether what is known allows this reading.
fn fits(order: &AxisOrder, kind: Kind, t: &Tensor, known: &Known) -> bool {
    let is = |axis, number: Option<usize>| {
        order.position(axis).is_none_or(|at| number.is_none_or(|n| t.shape[at] == n))
    };
    // Values may have another head size than keys.
    let head_dim = known.head_dim.filter(|_| kind == Kind::K);
    let rows = order.position(Axis::HeadDim).is_none_or(|at| {
        let width = t.shape[at];
        let divides = |n: Option<usize>| n.is_none_or(|n| width.is_multiple_of(n));
        let exact = known.n_kv_heads.zip(head_dim).is_none_or(|(n, d)| n.checked_mul(d) == Some(width));
        divides(known.n_kv_heads) && divides(head_dim) && exact
    });
    is(Axis::Head, known.n_kv_heads) && is(Axis::Token, known.n_tokens) && is(Axis::Dim, head_dim) && rows
}

fn by_size(left: &[AxisOrder], tensors: &[(Kind, &Tensor)], content: &mut Content) -> Result<AxisOrder> {
    let size = |o: &AxisOrder, axis, t: &Tensor| o.position(axis).map_or(1, |at| t.shape[at]);
    let every = |test: &dyn Fn(&Tensor) -> bool| tensors.iter().all(|(_, t)| test(t));
    let mut left: Vec<&AxisOrder> = left.iter().collect();
    // A second axis of size one is a batch in one reading and a single head in another; otherwise heads come after
    // the batch.
    if !every(&|t| t.rank() == 4 && t.shape[0] != 1 && t.shape[1] == 1) {
        left.retain(|o| o.axes()[0] != Axis::Head || o.axes()[1] != Axis::Batch);
    }
    left.retain(|o| every(&|t| size(o, Axis::Token, t) > size(o, Axis::Head, t)));
    let first = tensors[0].1;
    match left.as_slice() {
        [only] => {
            content.assume(format!(
                "axes of shape {:?} read as {}: a cache has more tokens than heads; --layout says otherwise",
                first.shape,
                in_words(only)
            ));
            Ok((*only).clone())
        }
        [] => ambiguous(first, &candidates_for_message(first.rank())),
        several => ambiguous(first, &several.iter().map(|o| (*o).clone()).collect::<Vec<_>>()),
    }
}

fn candidates_for_message(rank: usize) -> Vec<AxisOrder> {
    if rank == 3 { vec![parse("htd"), parse("thd")] } else { vec![parse("bhtd"), parse("bthd")] }
}

fn ambiguous(t: &Tensor, readings: &[AxisOrder]) -> Result<AxisOrder> {
    let readings: Vec<String> = readings.iter().map(|o| format!("{} (--layout {o})", in_words(o))).collect();
    bail!("`{}` of shape {:?} can be {}; say which", t.name, t.shape, readings.join(" or "))
}

fn parse(order: &str) -> AxisOrder {
    order.parse().expect("the orders in this file are well formed")
}

fn in_words(order: &AxisOrder) -> String {
    let words: Vec<&str> = order
        .axes()
        .iter()
        .map(|a| match a {
            Axis::Layer => "layers",
            Axis::KeyValue => "keys and values",
            Axis::Batch => "batch",
            Axis::Token => "tokens",
            Axis::Head => "heads",
            Axis::Dim => "dim",
            Axis::HeadDim => "heads x dim",
        })
        .collect();
    format!("[{}]", words.join(", "))
}

fn said(known: &Known) -> String {
    let item = |name, n: Option<usize>| n.map(|n| format!("{name} {n}"));
    let items = [
        item("n_kv_heads", known.n_kv_heads),
        item("head_dim", known.head_dim),
        item("n_tokens", known.n_tokens),
    ];
    items.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Adds the streams that `t` holds. `layer` and `kind` are those of a tensor that holds one layer's keys or values.
pub(crate) fn add_streams(
    t: &Tensor,
    order: &AxisOrder,
    known: &Known,
    layer: u32,
    kind: Kind,
    content: &mut Content,
) -> Result<()> {
    let dtype = plain_dtype(t)?;
    let axis = |a| order.position(a).map_or((1, 0), |at| (t.shape[at], t.strides[at]));
    let ((n_layers, layer_stride), (n_kinds, kind_stride)) = (axis(Axis::Layer), axis(Axis::KeyValue));
    let (n_batch, batch_stride) = axis(Axis::Batch);
    ensure!(
        order.position(Axis::KeyValue).is_none() || n_kinds == 2,
        "`{}` of shape {:?} has {n_kinds} where {order} has keys and values",
        t.name,
        t.shape
    );
    let count = n_layers.checked_mul(n_kinds).and_then(|n| n.checked_mul(n_batch));
    ensure!(count.is_some_and(|n| n <= MAX_STREAMS), "`{}` of shape {:?} is no cache", t.name, t.shape);
    let (n_tokens, token) = axis(Axis::Token);
    let (n_kv_heads, head, head_dim, dim) = match order.position(Axis::HeadDim) {
        None => {
            let ((n, head), (d, dim)) = (axis(Axis::Head), axis(Axis::Dim));
            (n, head, d, dim)
        }
        Some(at) => {
            let (n, d) = content.split_row(t.shape[at], known, kind)?;
            (n, d.saturating_mul(t.strides[at]), d, t.strides[at])
        }
    };
    for (l, k, b) in
        (0..n_layers).flat_map(|l| (0..n_kinds).flat_map(move |k| (0..n_batch).map(move |b| (l, k, b))))
    {
        // Nobody follows the strides of an empty array.
        let elements =
            if t.shape.contains(&0) { 0 } else { l * layer_stride + k * kind_stride + b * batch_stride };
        content.streams.push(DumpStream {
            part: number(b)?,
            layer: layer + number(l)?,
            kind: if k == 0 { kind } else { Kind::V },
            shape: KvShape { dtype, n_tokens, n_kv_heads, head_dim },
            file: t.file,
            offset: t.offset + elements * dtype.block_bytes(),
            strides: KvStrides { token, head, dim },
            hadamard: 0,
            positions: None,
            sequences: None,
        });
    }
    Ok(())
}

/// One array that holds every layer's keys and values.
pub(crate) fn add_whole(t: &Tensor, known: &Known, content: &mut Content) -> Result<()> {
    plain_dtype(t)?;
    known.source.iter().for_each(|s| content.assume(s.clone()));
    let order = match &known.layout {
        Some(order) => {
            let n = order.axes().len();
            ensure!(n == t.rank(), "layout {order} has {n} axes, `{}` has shape {:?}", t.name, t.shape);
            ensure!(
                order.position(Axis::KeyValue).is_some(),
                "layout {order} has no axis 2 that tells keys from values"
            );
            order.clone()
        }
        None => decide_whole(t, known, content)?,
    };
    ensure!(
        fits(&order, Kind::K, t, known),
        "`{}` of shape {:?} is not {order} with {}",
        t.name,
        t.shape,
        said(known)
    );
    add_streams(t, &order, known, 0, Kind::K, content)
}

fn decide_whole(t: &Tensor, known: &Known, content: &mut Content) -> Result<AxisOrder> {
    let all: &[&str] = match t.rank() {
        4 => &["2lt(hd)", "2htd", "2thd"],
        5 => &["l2htd", "l2thd", "2lhtd", "2lthd"],
        _ => bail!(
            "`{}` of shape {:?}: one array of all keys and values has 4 or 5 axes; name their order with --layout, as in \
             --layout l2htd, 2lhtd or '2lt(hd)'",
            t.name,
            t.shape
        ),
    };
    let mut left: Vec<AxisOrder> = all.iter().map(|s| parse(s)).collect();
    left.retain(|o| {
        let at = o.position(Axis::KeyValue).expect("every order here has the axis");
        let rows =
            o.position(Axis::HeadDim).is_none() || known.n_kv_heads.is_some() || known.head_dim.is_some();
        t.shape[at] == 2 && rows && fits(o, Kind::K, t, known)
    });
    let size = |o: &AxisOrder, axis| o.position(axis).map_or(0, |at| t.shape[at]);
    if left.len() > 1 {
        left.retain(|o| size(o, Axis::Token) > size(o, Axis::Head));
    }
    match left.as_slice() {
        [only] => {
            content.assume(format!(
                "axes of shape {:?} read as {}; --layout says otherwise",
                t.shape,
                in_words(only)
            ));
            Ok(only.clone())
        }
        [] => ambiguous(t, &all.iter().map(|s| parse(s)).collect::<Vec<_>>()),
        several => ambiguous(t, several),
    }
}

/// The element type of a tensor that is a cache.
pub(crate) fn plain_dtype(t: &Tensor) -> Result<DType> {
    match &t.dtype {
        Ok(dtype) => Ok(*dtype),
        Err(name) => bail!(
            "`{}` holds {name}; caches are read as F32, F16, BF16, F8_E4M3 or F8_E5M2 (dequantize integers first)",
            t.name
        ),
    }
}

/// A count that was checked against [`MAX_STREAMS`].
fn number(n: usize) -> Result<u32> {
    u32::try_from(n).context("more than 2^32 layers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::tensor::row_major;

    fn tensor(shape: &[usize]) -> Tensor {
        Tensor {
            name: "k_0".into(),
            file: 0,
            offset: 0,
            dtype: Ok(DType::F16),
            shape: shape.to_vec(),
            strides: row_major(shape),
        }
    }

    fn read(shape: &[usize], known: &Known, convention: Option<&str>) -> Result<(String, usize), String> {
        let t = tensor(shape);
        let mut content = Content::default();
        decide(&[(Kind::K, &t), (Kind::V, &t)], known, convention, &mut content)
            .map(|o| (o.to_string(), content.assumptions.len()))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn sizes_decide_with_an_assumption() {
        let known = Known::default();
        assert_eq!(read(&[1, 3, 1024, 64], &known, None), Ok(("bhtd".into(), 1)));
        assert_eq!(read(&[1, 1024, 3, 64], &known, None), Ok(("bthd".into(), 1)));
        assert_eq!(read(&[4, 3, 1024, 64], &known, None), Ok(("bhtd".into(), 1)));
        assert_eq!(read(&[1024, 3, 64], &known, None), Ok(("thd".into(), 1)));
        assert_eq!(read(&[1024, 192], &known, None), Ok(("t(hd)".into(), 0)));
    }

    #[test]
    fn known_numbers_decide_without_an_assumption() {
        let heads = Known { n_kv_heads: Some(8), ..Known::default() };
        assert_eq!(read(&[1, 8, 5, 64], &heads, None), Ok(("bhtd".into(), 0)));
        assert_eq!(read(&[1, 5, 8, 64], &heads, Some("bhtd")), Ok(("bthd".into(), 0)));
        assert_eq!(read(&[8, 1, 100, 64], &heads, None), Ok(("hbtd".into(), 0)));
        let tokens = Known { n_tokens: Some(8), ..Known::default() };
        assert_eq!(read(&[8, 32, 64], &tokens, None), Ok(("thd".into(), 0)));
        let dim = Known { head_dim: Some(64), ..Known::default() };
        assert_eq!(read(&[1, 1000, 192], &dim, None), Ok(("bt(hd)".into(), 0)));
    }

    #[test]
    fn nothing_to_decide_by_is_an_error_that_names_both_readings() {
        let known = Known::default();
        for shape in [&[1, 8, 8, 64][..], &[8, 8, 64]] {
            let message = read(shape, &known, None).unwrap_err();
            assert!(message.contains("htd)") && message.contains("thd)"), "{message}");
        }
        let message = read(&[3, 1, 1024, 64], &known, None).unwrap_err();
        assert!(message.contains("--layout bhtd") && message.contains("--layout hbtd"), "{message}");
        assert_eq!(read(&[1, 8, 8, 64], &known, Some("bhtd")), Ok(("bhtd".into(), 1)));
    }

    #[test]
    fn numbers_that_fit_no_reading_are_refused() {
        let known = Known { n_kv_heads: Some(7), head_dim: Some(64), ..Known::default() };
        assert!(read(&[1, 8, 100, 64], &known, Some("bhtd")).unwrap_err().contains("n_kv_heads 7"));
        assert!(read(&[100, 192], &known, None).is_err());
        let layout = Known { layout: Some(parse("thd")), n_kv_heads: Some(3), ..Known::default() };
        assert_eq!(read(&[1, 100, 3, 64], &layout, None), Ok(("bthd".into(), 0)));
        assert!(read(&[100, 4, 64], &layout, None).is_err());
        assert!(read(&[100, 192], &layout, None).is_err());
    }

    #[test]
    fn batch_entries_become_parts_and_whole_arrays_become_layers() {
        let mut content = Content::default();
        let t = tensor(&[2, 3, 10, 4]);
        add_streams(&t, &parse("bhtd"), &Known::default(), 5, Kind::V, &mut content).unwrap();
        let s = &content.streams;
        assert_eq!((s[0].part, s[1].part, s[1].layer, s[1].kind), (0, 1, 5, Kind::V));
        assert_eq!((s[1].offset, s[1].strides.head, s[1].strides.token), (2 * 120, 40, 4));

        let mut content = Content::default();
        let t = tensor(&[2, 5, 10, 12]);
        let known = Known { head_dim: Some(4), layout: Some(parse("2lt(hd)")), ..Known::default() };
        add_whole(&t, &known, &mut content).unwrap();
        let s = &content.streams;
        assert_eq!(s.len(), 10);
        assert_eq!(
            (s[1].layer, s[1].kind, s[1].offset),
            (0, Kind::V, 5 * 120 * 2).min((s[1].layer, s[1].kind, s[1].offset))
        );
        assert_eq!((s[0].shape.n_kv_heads, s[0].shape.head_dim, s[0].strides.head), (3, 4, 4));
    }

    #[test]
    fn one_array_of_everything_is_read_by_where_its_axis_of_two_is() {
        let read = |shape: &[usize], known: &Known| {
            let mut content = Content::default();
            decide_whole(&tensor(shape), known, &mut content)
                .map(|o| o.to_string())
                .map_err(|e| e.to_string())
        };
        let none = Known::default();
        assert_eq!(read(&[4, 2, 3, 100, 64], &none), Ok("l2htd".into()));
        assert_eq!(read(&[2, 4, 3, 100, 64], &none), Ok("2lhtd".into()));
        assert!(read(&[2, 2, 3, 100, 64], &none).unwrap_err().contains("--layout"));
        assert!(read(&[3, 100, 64], &none).is_err());
        let heads = Known { n_kv_heads: Some(3), head_dim: Some(64), ..Known::default() };
        assert_eq!(read(&[2, 4, 100, 192], &heads), Ok("2lt(hd)".into()));
    }

    #[test]
    fn fewer_tokens_than_metadata_says_are_a_window() {
        let known = Known { n_tokens: Some(9000), n_kv_heads: Some(3), ..Known::default() };
        assert_eq!(read(&[1, 3, 512, 64], &known, None), Ok(("bhtd".into(), 0)));
    }

    #[test]
    fn empty_arrays_have_streams_whatever_their_strides() {
        let mut content = Content::default();
        let t = tensor(&[0, 3, 1 << 40, 1 << 40]);
        assert_eq!(t.strides[1], usize::MAX);
        add_streams(&t, &parse("tbhd"), &Known::default(), 0, Kind::K, &mut content).unwrap();
        assert_eq!(content.streams.iter().map(|s| s.offset).collect::<Vec<_>>(), [0; 3]);
    }

    #[test]
    fn empty_arrays_with_huge_axes_are_refused() {
        let mut content = Content::default();
        let t = tensor(&[usize::MAX, 3, 0, 64]);
        assert!(add_streams(&t, &parse("bhtd"), &Known::default(), 0, Kind::K, &mut content).is_err());
    }
}
