//! How numbers are written for people: one style of rounding everywhere.

use std::fmt;

/// A size in binary units: `512.0 MiB`, `31 B`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        #[allow(clippy::cast_precision_loss, reason = "four digits are shown")]
        let mut v = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while v >= 1023.95 && unit + 1 < UNITS.len() {
            v /= 1024.0;
            unit += 1;
        }
        f.pad(&format!("{v:.1} {}", UNITS[unit]))
    }
}

/// How many times smaller: `16.4x`.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// Bytes before.
    pub from: u64,
    /// Bytes after.
    pub to: u64,
}

impl Ratio {
    /// As a number; 1 for nothing from nothing.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a ratio of sizes needs no more than 53 bits")]
    pub fn get(self) -> f64 {
        if self.from == self.to { 1.0 } else { self.from as f64 / self.to.max(1) as f64 }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = self.get();
        f.pad(&if r < 9.995 { format!("{r:.2}x") } else { format!("{r:.1}x") })
    }
}

/// A relative error with two significant digits: `0`, `0.031`, `6.1e-4`.
#[derive(Clone, Copy, Debug)]
pub struct RelError(pub f64);

impl fmt::Display for RelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = self.0;
        f.pad(&if e == 0.0 {
            "0".into()
        } else if !(0.001..1000.0).contains(&e) {
            format!("{e:.1e}")
        } else if e < 0.00995 {
            format!("{e:.4}")
        } else if e < 0.0995 {
            format!("{e:.3}")
        } else {
            format!("{e:.2}")
        })
    }
}

/// A relative error for tables that are compared line by line: four decimals.
#[must_use]
pub fn error(e: f64) -> String {
    if e == 0.0 { "0".into() } else { format!("{e:.4}") }
}

/// Bytes handled in some time, in decimal units: `1.9 GB/s`.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Bytes handled.
    pub bytes: u64,
    /// Seconds it took.
    pub seconds: f64,
}

impl Rate {
    /// In GB/s.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a rate is shown with two or three digits")]
    pub fn gb_per_s(self) -> f64 {
        self.bytes as f64 / self.seconds.max(1e-9) / 1e9
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = self.gb_per_s();
        f.pad(&match r {
            r if r >= 9.95 => format!("{r:.0} GB/s"),
            r if r >= 0.0995 => format!("{r:.1} GB/s"),
            r if r >= 0.000_995 => format!("{:.0} MB/s", r * 1e3),
            r => format!("{:.0} kB/s", r * 1e6),
        })
    }
}

/// Lines of cells, aligned: text to the left, numbers to the right.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column titles.
    #[must_use]
    pub fn new(titles: &[&str]) -> Self {
        Self { rows: vec![titles.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a line.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &'_ Vec<String>, c: usize| row.get(c).cloned().unwrap_or_default();
        let is_number = |s: &str| s.is_empty() || s == "-" || s.starts_with(|c: char| c.is_ascii_digit());
        for row in &self.rows {
            let mut line = String::new();
            for c in 0..columns {
                let width = self.rows.iter().map(|r| cell(r, c).chars().count()).max().unwrap_or(0);
                // A column is numeric if everything under its title is; the first column is a label.
                let right = c > 0 && self.rows.iter().skip(1).all(|r| is_number(&cell(r, c)));
                let text = cell(row, c);
                line += &if right { format!("{text:>width$}") } else { format!("{text:<width$}") };
                line += "  ";
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// `0-3,7`: numbers in rising order, runs joined.
#[must_use]
pub fn runs(numbers: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &n in numbers {
        match parts.last_mut() {
            Some((_, end)) if *end + 1 == n => *end = n,
            _ => parts.push((n, n)),
        }
    }
    let text = |&(a, b): &(u32, u32)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(Bytes(31).to_string(), "31 B");
        assert_eq!(Bytes(1024).to_string(), "1.0 KiB");
        assert_eq!(Bytes(512 << 20).to_string(), "512.0 MiB");
        assert_eq!(Bytes((1 << 20) - 1).to_string(), "1.0 MiB");
        assert_eq!(Ratio { from: 512, to: 31 }.to_string(), "16.5x");
        assert_eq!(Ratio { from: 4, to: 2 }.to_string(), "2.00x");
        assert_eq!(Ratio { from: 0, to: 0 }.to_string(), "1.00x");
        assert_eq!(RelError(0.0).to_string(), "0");
        assert_eq!(RelError(0.0312).to_string(), "0.031");
        assert_eq!(RelError(0.0051).to_string(), "0.0051");
        assert_eq!(RelError(0.000_61).to_string(), "6.1e-4");
        assert_eq!(RelError(0.25).to_string(), "0.25");
        assert_eq!(Rate { bytes: 1_900_000_000, seconds: 1.0 }.to_string(), "1.9 GB/s");
        assert_eq!(Rate { bytes: 1_900_000, seconds: 1.0 }.to_string(), "2 MB/s");
    }

    #[test]
    fn tables_align_and_runs_join() {
        let mut t = Table::new(&["layer", "bits"]);
        t.row(["0-29".into(), "4.25".into()]);
        t.row(["30".into(), "16".into()]);
        assert_eq!(t.to_string(), "layer  bits\n0-29   4.25\n30       16\n");
        assert_eq!(runs(&[0, 1, 2, 7, 9, 10]), "0-2,7,9-10");
        assert_eq!(runs(&[]), "");
    }
}
