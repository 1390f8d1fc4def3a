//! What was measured: tables, JSON, the plot.

use serde_json::{Value, json};

use super::pool::Shape;
use crate::plot::lines::{Line, Lines, svg};
use crate::report::Table;
use crate::selection::{Pq, Spec};

/// Times of a step, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) tables: f64,
    pub(super) scan: f64,
    pub(super) choose: f64,
    pub(super) attend: f64,
    pub(super) step: f64,
    pub(super) dense: f64,
    pub(super) spread: f64,
}

/// One line of the report.
pub(super) struct Row {
    pub(super) selector: Spec,
    pub(super) context: usize,
    pub(super) budget: f64,
    pub(super) k: usize,
    pub(super) times: Times,
}

/// What an index costs to make and to keep.
pub(super) struct Built {
    pub(super) selector: Spec,
    pub(super) context: usize,
    pub(super) bits: f64,
    pub(super) seconds: f64,
    pub(super) bytes: usize,
}

fn us(seconds: f64) -> String {
    format!("{:.1}", seconds * 1e6)
}

pub(super) fn tables(
    about: &str,
    contexts: &[usize],
    rows: &[Row],
    built: &[Built],
    shape: &Shape,
) -> String {
    let mut text = format!("{about}\nmicroseconds for a step of one kv head\n");
    for &context in contexts {
        let here = || rows.iter().filter(|r| r.context == context);
        let dense = here().next().map_or(f64::NAN, |r| r.times.dense);
        let row_bytes = [(shape.keys, shape.head_dim), (shape.values, shape.value_dim)]
            .iter()
            .map(|(t, dim)| t.bytes_for(*dim).unwrap_or(0))
            .sum::<usize>();
        text += &format!(
            "\n{context} tokens: dense {} us, {:.1} GB/s\n",
            us(dense),
            (context * row_bytes) as f64 / dense / 1e9
        );
        let mut table = Table::new(&[
            "selector", "budget", "tokens", "tables", "scan", "choose", "attend", "step", "x dense", "spread",
        ]);
        for row in here() {
            let t = &row.times;
            table.row([
                row.selector.to_string(),
                row.budget.to_string(),
                row.k.to_string(),
                us(t.tables),
                us(t.scan),
                us(t.choose),
                us(t.attend),
                us(t.step),
                format!("{:.2}", t.dense / t.step),
                format!("{:.0}%", 100.0 * t.spread),
            ]);
        }
        text += &table.to_string();
        for index in built.iter().filter(|b| b.context == context) {
            text += &format!(
                "{}: {} bits a key, {:.1} bytes a token with codebooks, made in {:.1} ms a head\n",
                index.selector,
                index.bits,
                index.bytes as f64 / context as f64,
                index.seconds * 1e3
            );
        }
    }
    text
}

impl Row {
    pub(super) fn to_json(&self) -> Value {
        let t = &self.times;
        json!({
            "selector": self.selector.to_string(),
            "context": self.context,
            "budget": self.budget,
            "k": self.k,
            "tables_us": t.tables * 1e6,
            "scan_us": t.scan * 1e6,
            "choose_us": t.choose * 1e6,
            "attend_us": t.attend * 1e6,
            "step_us": t.step * 1e6,
            "dense_us": t.dense * 1e6,
            "speedup": t.dense / t.step,
            "spread": t.spread,
        })
    }
}

impl Built {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "selector": self.selector.to_string(),
            "context": self.context,
            "index_bits": self.bits,
            "bytes_a_head": self.bytes,
            "build_ms": self.seconds * 1e3,
        })
    }
}

pub(super) fn plot(about: &str, rows: &[Row]) -> String {
    let mut lines: Vec<Line> = Vec::new();
    let mut add = |label: String, family: usize, x: usize, y: f64| {
        let point = (x as f64, y * 1e6);
        match lines.iter_mut().find(|l| l.label == label) {
            Some(line) if line.points.iter().any(|p| p.0 == point.0) => {}
            Some(line) => line.points.push(point),
            None => lines.push(Line { label, family, points: vec![point] }),
        }
    };
    for row in rows {
        add("dense".into(), 0, row.context, row.times.dense);
        let family = if matches!(row.selector, Spec::Pq(Pq::Preset(_))) { 2 } else { 1 };
        add(format!("{} {}", row.selector, row.budget), family, row.context, row.times.step);
    }
    svg(&Lines {
        title: "A decode step of one kv head",
        subtitle: about,
        x_label: "tokens",
        y_label: "microseconds",
        families: &["all tokens", "plain index", "preset"],
        lines: &lines,
    })
}
