//! A line for each candidate, both axes logarithmic, names at the right ends.

use std::fmt::Write as _;

use super::{BOTTOM, FAMILIES, FONT, HEIGHT, LEFT, LINE, MARK, RIGHT, STYLE, TOP, WIDTH};
use super::{Scales, escaped, mark, text_width, y_ticks};

/// What to draw.
pub(crate) struct Lines<'a> {
    /// First line.
    pub(crate) title: &'a str,
    /// Second line, smaller.
    pub(crate) subtitle: &'a str,
    /// What `x` is.
    pub(crate) x_label: &'a str,
    /// What `y` is.
    pub(crate) y_label: &'a str,
    /// Names of the families that lines are coloured by; at most [`FAMILIES`].
    pub(crate) families: &'a [&'a str],
    /// The candidates.
    pub(crate) lines: &'a [Line],
}

/// One candidate.
pub(crate) struct Line {
    /// Its name.
    pub(crate) label: String,
    /// Index into [`Lines::families`].
    pub(crate) family: usize,
    /// Points; those that are not above 0 in both ways cannot be shown and are left out.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Where values lie on the page: powers of ten at the ends of both axes.
struct Axes {
    x: (f64, f64),
    y: (f64, f64),
    right: f64,
}

impl Axes {
    fn of(lines: &[Line]) -> Self {
        let ends = |values: &mut dyn Iterator<Item = f64>| {
            let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(l, h), v| (l.min(v), h.max(v)));
            if low <= high { (low, high) } else { (0.01, 1.0) }
        };
        let shown = || lines.iter().flat_map(shown);
        let (x_low, x_high) = ends(&mut shown().map(|p| p.0));
        let (y_low, y_high) = ends(&mut shown().map(|p| p.1));
        let names = lines.iter().map(|l| text_width(&l.label)).fold(0.0, f64::max);
        Self {
            x: ((x_low / 1.15).log10(), (x_high * 1.15).log10()),
            y: ((y_low * 0.75).log10(), (y_high * 1.35).log10()),
            right: RIGHT - names - 30.0,
        }
    }

    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let part = |v: f64, (low, high): (f64, f64)| (v.log10() - low) / (high - low);
        (LEFT + part(x, self.x) * (self.right - LEFT), BOTTOM - part(y, self.y) * (BOTTOM - TOP))
    }
}

fn shown(line: &Line) -> impl Iterator<Item = (f64, f64)> {
    line.points.iter().copied().filter(|(x, y)| *x > 0.0 && *y > 0.0 && x.is_finite() && y.is_finite())
}

/// Draws the lines.
#[must_use]
pub(crate) fn svg(plot: &Lines<'_>) -> String {
    let axes = Axes::of(plot.lines);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}\
         .line{{fill:none;stroke-width:1.8;stroke-opacity:.75}}{}</style>\n\
         <rect class=\"bg\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n",
        escaped(plot.title),
        strokes()
    );
    let mut draw = |text: std::fmt::Arguments<'_>| {
        out.write_fmt(text).expect("writing to a string cannot fail");
        out.push('\n');
    };
    draw(format_args!("<text class=\"title\" x=\"24\" y=\"36\">{}</text>", escaped(plot.title)));
    // Long facts are drawn smaller rather than off the page.
    let size = (13.0 * (WIDTH - 48.0) / (text_width(plot.subtitle).max(1.0) * 13.0 / FONT)).min(13.0);
    draw(format_args!(
        "<text class=\"sub\" style=\"font-size:{size:.1}px\" x=\"24\" y=\"57\">{}</text>",
        escaped(plot.subtitle)
    ));
    let mut x = 24.0;
    for (family, name) in plot.families.iter().enumerate().take(FAMILIES) {
        if plot.lines.iter().any(|l| l.family == family) {
            draw(format_args!("{}", mark(x + 6.0, 82.0, family)));
            draw(format_args!(
                "<text class=\"tick\" x=\"{:.1}\" y=\"86\">{}</text>",
                x + 17.0,
                escaped(name)
            ));
            x += text_width(name) * 0.9 + 36.0;
        }
    }
    // Ticks of the horizontal axis are found as those of the vertical one are.
    let ticks =
        |(y_low, y_high): (f64, f64)| y_ticks(&Scales { x_min: 0.0, x_max: 1.0, x_step: 1.0, y_low, y_high });
    let few = axes.x.1 - axes.x.0 < 0.3;
    for (value, labelled) in ticks(axes.x) {
        let (x, _) = axes.at((value, 1.0));
        let class = if labelled { "grid" } else { "minor" };
        draw(format_args!("<path class=\"{class}\" d=\"M{x:.1} {TOP}V{BOTTOM}\"/>"));
        if labelled || few {
            draw(format_args!(
                "<text class=\"tick\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{}\">{value}</text>",
                BOTTOM + 18.0
            ));
        }
    }
    for (value, labelled) in ticks(axes.y) {
        let (_, y) = axes.at((1.0, value));
        let class = if labelled { "grid" } else { "minor" };
        draw(format_args!("<path class=\"{class}\" d=\"M{LEFT} {y:.1}H{:.1}\"/>", axes.right));
        if labelled {
            draw(format_args!(
                "<text class=\"tick\" text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{value}</text>",
                LEFT - 9.0,
                y + 4.0
            ));
        }
    }
    draw(format_args!(
        "<text class=\"axis\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{}\">{}</text>",
        f64::midpoint(LEFT, axes.right),
        BOTTOM + 44.0,
        escaped(plot.x_label)
    ));
    draw(format_args!(
        "<text class=\"axis\" text-anchor=\"middle\" transform=\"translate(22 {}) rotate(-90)\">{}</text>",
        f64::midpoint(TOP, BOTTOM),
        escaped(plot.y_label)
    ));
    for line in plot.lines {
        let family = line.family.min(FAMILIES - 1);
        let mut spots: Vec<(f64, f64)> = shown(line).map(|p| axes.at(p)).collect();
        spots.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut path = String::new();
        for (x, y) in &spots {
            write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { "M" } else { "L" })
                .expect("writing to a string cannot fail");
        }
        draw(format_args!("<path class=\"line s{family}\" d=\"{path}\"/>"));
        spots.iter().for_each(|&(x, y)| draw(format_args!("{}", mark(x, y, family))));
    }
    for (line, from, y) in names(plot.lines, &axes) {
        let x = axes.right + 16.0;
        draw(format_args!(
            "<path class=\"lead\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"/><text class=\"label\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
            from.0 + MARK + 2.0,
            from.1,
            x - 3.0,
            y,
            y + 4.0,
            escaped(&line.label)
        ));
    }
    out.push_str("</svg>\n");
    out
}

/// Colours of the families once more, for strokes.
fn strokes() -> String {
    let light = ["1f6feb", "c4500c", "1a7f4b", "8250df", "bf3989", "6e7781"];
    let dark = ["6cb0ff", "ff9c57", "56d38e", "c09bff", "ff8fc7", "9198a1"];
    let rules = |colours: [&str; FAMILIES]| -> String {
        colours.iter().enumerate().map(|(i, c)| format!(".s{i}{{stroke:#{c}}}")).collect()
    };
    format!("{}@media (prefers-color-scheme:dark){{{}}}\n", rules(light), rules(dark))
}

/// Each line's rightmost mark and the height of its name: as near as the others allow.
fn names<'a>(lines: &'a [Line], axes: &Axes) -> Vec<(&'a Line, (f64, f64), f64)> {
    let last = |line: &'a Line| {
        let spot = shown(line).map(|p| axes.at(p)).max_by(|a, b| a.0.total_cmp(&b.0))?;
        Some((line, spot, spot.1))
    };
    let mut names: Vec<_> = lines.iter().filter_map(last).collect();
    names.sort_by(|a, b| a.2.total_cmp(&b.2));
    // Down from the top, then up from the bottom: what is pushed off the page comes back.
    let mut floor = f64::NEG_INFINITY;
    for name in &mut names {
        name.2 = name.2.max(floor);
        floor = name.2 + LINE;
    }
    let mut ceiling = BOTTOM + 30.0;
    for name in names.iter_mut().rev() {
        name.2 = name.2.min(ceiling);
        ceiling = name.2 - LINE;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(label: &str, points: &[(f64, f64)]) -> Line {
        Line { label: label.into(), family: 1, points: points.to_vec() }
    }

    #[test]
    fn names_keep_apart_and_stay_on_the_page() {
        let lines: Vec<Line> =
            (0..20).map(|i| line("x", &[(1.0, 0.5), (20.0, 0.01 + 1e-4 * f64::from(i))])).collect();
        let axes = Axes::of(&lines);
        let placed = names(&lines, &axes);
        assert_eq!(placed.len(), 20);
        for pair in placed.windows(2) {
            assert!(pair[1].2 - pair[0].2 >= LINE - 1e-9);
        }
        assert!(placed.iter().all(|p| p.2 > TOP - LINE && p.2 < HEIGHT));
    }

    #[test]
    fn what_cannot_be_shown_is_left_out() {
        let lines = [line("a<b", &[(1.0, 0.0), (2.0, f64::NAN)]), line("c", &[(10.0, 0.1)])];
        let plot = Lines {
            title: "t",
            subtitle: "",
            x_label: "",
            y_label: "",
            families: &["f", "g"],
            lines: &lines,
        };
        let drawn = svg(&plot);
        assert!(!drawn.contains("NaN") && !drawn.contains("inf") && drawn.ends_with("</svg>\n"), "{drawn}");
        assert!(drawn.contains(">c</text>") && !drawn.contains("a<b"));
        assert!(svg(&Lines { lines: &[], ..plot }).ends_with("</svg>\n"));
    }
}
