//! numpy's array file: a magic, a Python literal that describes the array, its bytes.
//!
//! The header is parsed here because the crate at hand multiplies hostile shapes unchecked and its parser of Python
//! literals recurses without a limit; the grammar that arrays need is a dictionary of three keys.

use anyhow::{Context, Result, bail, ensure};
use tersa_core::num::DType;

use super::tensor::{Tensor, column_major, len_bytes, row_major};

const MAGIC: &[u8] = b"\x93NUMPY";

/// Whether `bytes` begin as an array file.
pub(crate) fn sniff(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The array in `bytes`, which lie at `base` of source file `file`, and a note if its type had to be guessed.
pub(crate) fn read(name: &str, bytes: &[u8], file: usize, base: usize) -> Result<(Tensor, Option<String>)> {
    let (text, data) =
        split(bytes).context("not a whole .npy file: its header is cut off or of an unknown version")?;
    let header = std::str::from_utf8(text)
        .ok()
        .and_then(parse)
        .context("damaged .npy header, or one of a structured type")?;
    let (dtype, element) = element_type(&header.descr)?;
    let len = len_bytes(&header.shape, element);
    ensure!(
        len == Some(data.len()),
        "an array of shape {:?} and type {} does not fill the {} bytes that follow its header",
        header.shape,
        header.descr,
        data.len()
    );
    let note = (header.descr.ends_with("V2")).then(|| {
        format!("`{name}` holds {}, which is how numpy stores bfloat16: read as that", header.descr)
    });
    let strides = if header.fortran_order { column_major(&header.shape) } else { row_major(&header.shape) };
    let offset = base + (bytes.len() - data.len());
    Ok((Tensor { name: name.to_owned(), file, offset, dtype, shape: header.shape, strides }, note))
}

/// The header's text and what follows.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (version, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<2>()?;
    match version {
        [1, 0] => {
            let (len, rest) = rest.split_first_chunk()?;
            rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))
        }
        [2 | 3, 0] => {
            let (len, rest) = rest.split_first_chunk()?;
            rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)
        }
        _ => None,
    }
}

/// The type and its bytes; types that are no cache's are kept by name, big-endian ones are refused.
fn element_type(descr: &str) -> Result<(Result<DType, String>, usize)> {
    let mut chars = descr.chars();
    let (order, rest) = (chars.next(), chars.as_str());
    ensure!(order != Some('>'), "the array is big-endian ({descr}); convert it first");
    ensure!(matches!(order, Some('<' | '|')), "the array is of an unknown type, `{descr}`");
    Ok(match rest {
        "f4" => (Ok(DType::F32), 4),
        "f2" => (Ok(DType::F16), 2),
        "V2" => (Ok(DType::Bf16), 2),
        _ => {
            let size = rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).parse().ok();
            let size: usize =
                size.filter(|_| !rest.starts_with(['U', 'O'])).with_context(|| format!("type {descr}"))?;
            (Err(format!("numpy's {descr}")), size)
        }
    })
}

#[derive(Debug, PartialEq)]
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// Parses `{'descr': '<f2', 'fortran_order': False, 'shape': (3, 4), }`, keys in any order.
fn parse(text: &str) -> Option<Header> {
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim_start();
    while !rest.is_empty() {
        let (key, tail) = literal(rest)?;
        let value = tail.trim_start().strip_prefix(':')?.trim_start();
        rest = match key {
            "descr" => {
                let (v, tail) = literal(value)?;
                descr = Some(v.to_owned());
                tail
            }
            "fortran_order" => {
                let (v, tail) = match value.strip_prefix("True") {
                    Some(tail) => (true, tail),
                    None => (false, value.strip_prefix("False")?),
                };
                fortran_order = Some(v);
                tail
            }
            "shape" => {
                let (list, tail) = value.strip_prefix('(')?.split_once(')')?;
                let list = list.trim();
                let list = list.strip_suffix(',').unwrap_or(list);
                let sizes = list.split(',').filter(|_| !list.is_empty()).map(|n| n.trim().parse().ok());
                shape = Some(sizes.collect::<Option<Vec<usize>>>()?);
                tail
            }
            _ => return None,
        }
        .trim_start();
        match rest.strip_prefix(',') {
            Some(tail) => rest = tail.trim_start(),
            None if rest.is_empty() => {}
            None => return None,
        }
    }
    Some(Header { descr: descr?, fortran_order: fortran_order?, shape: shape? })
}

/// A quoted string without escapes, and what follows it.
fn literal(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// A header for an array of `shape` and little-endian `descr`, padded so that `before` bytes, it and the data begin
/// at a multiple of 64.
pub(crate) fn header(descr: &str, shape: &[usize], before: u64) -> Result<Vec<u8>> {
    let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let comma = if shape.len() == 1 { "," } else { "" };
    let mut text =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}", sizes.join(", "));
    let fixed = MAGIC.len() + 4;
    while !(before + (fixed + text.len() + 1) as u64).is_multiple_of(64) {
        text.push(' ');
    }
    text.push('\n');
    let Ok(len) = u16::try_from(text.len()) else { bail!("{} axes are too many for .npy", shape.len()) };
    Ok([MAGIC, &[1, 0], &len.to_le_bytes(), text.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_in_any_order_and_spacing_are_read() {
        let wanted = Header { descr: "<f2".into(), fortran_order: true, shape: vec![2, 3] };
        assert_eq!(
            parse("{'descr': '<f2', 'fortran_order': True, 'shape': (2, 3), }  \n").as_ref(),
            Some(&wanted)
        );
        assert_eq!(parse("{\"shape\":(2,3),'fortran_order':True,'descr':'<f2'}").as_ref(), Some(&wanted));
        assert_eq!(parse("{'descr': '<f2', 'fortran_order': True, 'shape': (5,)}").unwrap().shape, [5]);
        assert_eq!(parse("{'descr': '<f2', 'fortran_order': True, 'shape': ()}").unwrap().shape, [0; 0]);
        for bad in [
            "",
            "{}",
            "{'descr': [('a', '<f2')], 'fortran_order': True, 'shape': (2,)}",
            "{'descr': '<f2', 'fortran_order': True, 'shape': (-2,)}",
            "{'descr': '<f2', 'fortran_order': True, 'shape': (2,) 'x'}",
            "{'descr': '<f2', 'fortran_order': maybe, 'shape': (2,)}",
            "{'descr': '<f2', 'fortran_order': True}",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn written_headers_read_back_and_align_the_data() {
        for before in [0u8, 7, 63] {
            let mut bytes = header("<f2", &[3, 5], before.into()).unwrap();
            assert_eq!((usize::from(before) + bytes.len()) % 64, 0);
            bytes.extend_from_slice(&[0; 30]);
            let (t, note) = read("a", &bytes, 2, 100).unwrap();
            assert_eq!(
                (t.shape.as_slice(), t.strides.as_slice(), t.dtype.clone()),
                (&[3, 5][..], &[5, 1][..], Ok(DType::F16))
            );
            assert_eq!((t.offset, note), (100 + bytes.len() - 30, None));
            bytes.pop();
            assert!(read("a", &bytes, 0, 0).is_err());
        }
    }

    #[test]
    fn other_types_keep_their_name_and_foreign_order_is_refused() {
        assert_eq!(element_type("<i8").unwrap(), (Err("numpy's <i8".into()), 8));
        assert_eq!(element_type("<V2").unwrap(), (Ok(DType::Bf16), 2));
        for bad in [">f2", "|O", "<U3", "", "f", "é2"] {
            assert!(element_type(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shapes_whose_product_overflows_are_refused() {
        let bytes = header("<f2", &[usize::MAX, usize::MAX, 2], 0).unwrap();
        assert!(read("a", &bytes, 0, 0).is_err());
    }
}
