//! What was measured: tables, JSON, the plot.

use std::fmt;

use clap::ValueEnum as _;
use serde_json::{Value, json};

use super::spec::FAMILIES;
use super::{Cell, Measured, Report, Row};
use crate::attention::mean_and_p95;
use crate::plot::lines::{Line, Lines, svg};
use crate::report::{Table, error, runs};

/// Means over queries and heads, and the error that 95 % do not exceed.
struct Summary {
    recall: f64,
    mass: f64,
    error: f64,
    p95: f64,
}

impl Summary {
    fn of(m: &Measured) -> Self {
        let (error, p95) = mean_and_p95(&m.error);
        Self { recall: mean_and_p95(&m.recall).0, mass: mean_and_p95(&m.mass).0, error, p95 }
    }

    fn to_json(&self) -> Value {
        json!({ "recall": self.recall, "mass": self.mass, "error": self.error, "error_p95": self.p95 })
    }

    fn cells(&self) -> [String; 4] {
        [format!("{:.3}", self.recall), format!("{:.4}", self.mass), error(self.error), error(self.p95)]
    }
}

impl Row {
    /// All layers together, at one budget.
    fn overall(&self, budget: usize) -> Cell {
        let mut all = Cell::default();
        for layer in &self.layers {
            all.shared.merge(&layer[budget].shared);
            all.single.merge(&layer[budget].single);
        }
        all
    }
}

fn cell_json(cell: &Cell) -> Value {
    json!({
        "outputs": cell.single.error.len(),
        "shared": Summary::of(&cell.shared).to_json(),
        "per_query_head": Summary::of(&cell.single).to_json(),
    })
}

impl Report {
    fn about(&self) -> String {
        let window = match self.setting.window {
            w if w < self.n_tokens => format!(", window {w}"),
            _ => String::new(),
        };
        format!(
            "{}: layers {}, {} tokens{window}, {} kv heads x {}, {} query heads each, {}; last {} queries; {} sinks, {} recent",
            self.source,
            runs(&self.layers),
            self.n_tokens,
            self.n_kv_heads,
            self.head_dim,
            self.group,
            self.dtype,
            self.n_queries,
            self.setting.sinks,
            self.setting.recent,
        )
    }

    fn rule(&self) -> String {
        self.setting.rule.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
    }

    /// For machines.
    pub(crate) fn to_json(&self) -> Value {
        let mut rows = Vec::new();
        for (budget, fraction) in self.budgets.iter().enumerate() {
            for row in &self.rows {
                let by_layer = self.layers.iter().zip(&row.layers).map(|(number, cells)| {
                    let mut line = cell_json(&cells[budget]);
                    line["layer"] = json!(number);
                    line
                });
                let mut line = json!({
                    "selector": row.spec.to_string(),
                    "index_bits": row.bits,
                    "budget": fraction,
                    "builds": row.upkeep.builds,
                    "build_us_per_token": row.upkeep.us_per_token(),
                    "k": self.setting.ks[budget],
                });
                let overall = cell_json(&row.overall(budget));
                if let (Value::Object(line), Value::Object(overall)) = (&mut line, overall) {
                    line.extend(overall);
                }
                line["layers"] = by_layer.collect();
                rows.push(line);
            }
        }
        json!({
            "source": self.source,
            "layers": self.layers,
            "n_tokens": self.n_tokens,
            "n_kv_heads": self.n_kv_heads,
            "query_heads_per_kv_head": self.group,
            "head_dim": self.head_dim,
            "dtype": self.dtype,
            "last_queries": self.n_queries,
            "sinks": self.setting.sinks,
            "recent": self.setting.recent,
            "window": self.setting.window,
            "group_rule": self.rule(),
            "seed": self.setting.seed,
            "prefill": self.setting.prefill,
            "rows": rows,
        })
    }

    /// Error against budget, sets shared by the group.
    pub(crate) fn svg(&self) -> String {
        let point = |row: &Row, budget: usize| {
            (100.0 * self.budgets[budget], Summary::of(&row.overall(budget).shared).error)
        };
        let lines: Vec<Line> = self
            .rows
            .iter()
            .map(|row| Line {
                label: row.spec.to_string(),
                family: row.spec.family(),
                points: (0..self.budgets.len()).map(|b| point(row, b)).collect(),
            })
            .collect();
        svg(&Lines {
            title: "What attention to chosen tokens loses",
            subtitle: &self.about(),
            x_label: "tokens chosen, % of all, one set for each kv head",
            y_label: "relative error of a head's output",
            families: &FAMILIES,
            lines: &lines,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.about())?;
        writeln!(
            f,
            "left: one set for each kv head (group rule {}); right: one for each query head",
            self.rule()
        )?;
        for row in self.rows.iter().filter(|row| self.setting.prefill.is_some() && row.upkeep.appended > 0) {
            writeln!(
                f,
                "{}: trained on {} tokens, then {:.1} times anew as others came, {:.0} us for each of those and head",
                row.spec,
                self.setting.prefill.unwrap_or_default(),
                row.upkeep.builds as f64 / row.upkeep.heads as f64,
                row.upkeep.us_per_token()
            )?;
        }
        for (budget, fraction) in self.budgets.iter().enumerate() {
            let mut table = Table::new(&[
                "selector", "bits/key", "recall", "mass", "error", "p95", "recall", "mass", "error", "p95",
            ]);
            for row in &self.rows {
                let cell = row.overall(budget);
                let cells = [&cell.shared, &cell.single].into_iter().flat_map(|m| Summary::of(m).cells());
                table.row([row.spec.to_string(), format!("{:.1}", row.bits)].into_iter().chain(cells));
            }
            write!(
                f,
                "\nbudget {fraction}: {} of {} tokens\n{table}",
                self.setting.ks[budget], self.n_tokens
            )?;
        }
        Ok(())
    }
}
