//! A scatter plot of size against error as SVG: one mark and one label for each codec, a step line through those that
//! no other codec beats, a band below the axis for exact ones.
//!
//! Written by hand because labels must not cover one another or a mark, which no plotting crate offers. Colours live in
//! a style sheet with a dark variant, so that the picture fits the page that shows it.

pub(crate) mod lines;

use std::fmt::Write as _;

/// What to draw.
pub(crate) struct Plot<'a> {
    /// First line.
    pub(crate) title: &'a str,
    /// Second line, smaller.
    pub(crate) subtitle: &'a str,
    /// What `x` is.
    pub(crate) x_label: &'a str,
    /// What `y` is.
    pub(crate) y_label: &'a str,
    /// Names of the families that marks are coloured by; at most [`FAMILIES`].
    pub(crate) families: &'a [&'a str],
    /// The marks.
    pub(crate) points: &'a [Point],
}

/// One mark.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    /// Size: linear, 0 or more.
    pub(crate) x: f64,
    /// Error: logarithmic; 0 puts the mark into the band of exact codecs.
    pub(crate) y: f64,
    /// Short text beside it.
    pub(crate) label: String,
    /// Index into [`Plot::families`].
    pub(crate) family: usize,
}

/// Most families that colours and shapes are at hand for.
pub(crate) const FAMILIES: usize = 6;

const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 600.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 900.0;
const TOP: f64 = 112.0;
const BOTTOM: f64 = 490.0;
/// Middle of the band for exact codecs.
const EXACT: f64 = 514.0;
const BAND_END: f64 = 534.0;
const FONT: f64 = 12.5;
const LINE: f64 = 15.0;
const MARK: f64 = 5.5;

const STYLE: &str = "
text{font-family:system-ui,-apple-system,'Segoe UI','Helvetica Neue',Arial,'DejaVu Sans',sans-serif;fill:#24292f}
.bg{fill:#ffffff}.title{font-size:19px;font-weight:600}.sub{font-size:13px;fill:#57606a}
.tick{font-size:12px;fill:#57606a}.axis{font-size:13px;fill:#24292f}.label{font-size:12.5px;paint-order:stroke;stroke:#ffffff;stroke-width:3.5px;stroke-linejoin:round}
.grid{stroke:#d8dee4;stroke-width:1}.minor{stroke:#eef1f4;stroke-width:1}.band{fill:#f6f8fa}
.front{fill:none;stroke:#8c959f;stroke-width:1.6;stroke-dasharray:5 4}.lead{stroke:#8c959f;stroke-width:.8}
.beaten{fill:#6e7781}.halo{stroke:#ffffff;stroke-width:1.5}
.f0{fill:#1f6feb}.f1{fill:#c4500c}.f2{fill:#1a7f4b}.f3{fill:#8250df}.f4{fill:#bf3989}.f5{fill:#6e7781}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.bg{fill:#0d1117}.sub,.tick{fill:#9198a1}.axis{fill:#e6edf3}
.grid{stroke:#30363d}.minor{stroke:#1c2128}.band{fill:#161b22}.front,.lead{stroke:#7d8590}.beaten{fill:#9198a1}
.halo,.label{stroke:#0d1117}
.f0{fill:#6cb0ff}.f1{fill:#ff9c57}.f2{fill:#56d38e}.f3{fill:#c09bff}.f4{fill:#ff8fc7}.f5{fill:#9198a1}}
";

/// A rectangle on the page.
#[derive(Clone, Copy, Debug)]
struct Area {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Area {
    fn overlap(&self, other: &Self) -> f64 {
        let wide = self.right.min(other.right) - self.left.max(other.left);
        let high = self.bottom.min(other.bottom) - self.top.max(other.top);
        wide.max(0.0) * high.max(0.0)
    }

    fn around(x: f64, y: f64, by: f64) -> Self {
        Self { left: x - by, top: y - by, right: x + by, bottom: y + by }
    }
}

/// Where values lie on the page.
struct Scales {
    x_min: f64,
    x_max: f64,
    x_step: f64,
    /// Powers of ten of the lower and the upper end.
    y_low: f64,
    y_high: f64,
}

impl Scales {
    fn of(points: &[Point]) -> Self {
        let x_least = points.iter().map(|p| p.x).fold(f64::INFINITY, f64::min).min(16.0);
        let x_most = points.iter().map(|p| p.x).fold(x_least + 1.0, f64::max);
        let steps = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
        let x_step = steps.into_iter().find(|s| (x_most - x_least) / s <= 18.0).unwrap_or(64.0);
        let errors = || points.iter().map(|p| p.y).filter(|y| *y > 0.0 && y.is_finite());
        let least = errors().fold(f64::INFINITY, f64::min);
        let most = errors().fold(0.0, f64::max);
        let (least, most) = if least <= most { (least, most) } else { (0.01, 1.0) };
        Self {
            x_min: ((x_least - 0.5 * x_step) / x_step).floor().max(0.0) * x_step,
            x_max: ((x_most + 0.4 * x_step) / x_step).ceil() * x_step,
            x_step,
            y_low: (least * 0.75).log10(),
            y_high: (most * 1.5).log10(),
        }
    }

    fn x(&self, x: f64) -> f64 {
        LEFT + (x - self.x_min) / (self.x_max - self.x_min) * (RIGHT - LEFT)
    }

    fn y(&self, y: f64) -> f64 {
        if y <= 0.0 {
            return EXACT;
        }
        BOTTOM - (y.log10() - self.y_low) / (self.y_high - self.y_low) * (BOTTOM - TOP)
    }
}

/// Draws the plot.
#[must_use]
pub(crate) fn svg(plot: &Plot<'_>) -> String {
    let scales = Scales::of(plot.points);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"bg\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n",
        escaped(plot.title)
    );
    let mut draw = |text: std::fmt::Arguments<'_>| {
        out.write_fmt(text).expect("writing to a string cannot fail");
        out.push('\n');
    };
    draw(format_args!("<text class=\"title\" x=\"24\" y=\"36\">{}</text>", escaped(plot.title)));
    draw(format_args!("<text class=\"sub\" x=\"24\" y=\"57\">{}</text>", escaped(plot.subtitle)));
    let mut x = 24.0;
    for (family, name) in plot.families.iter().enumerate().take(FAMILIES) {
        if plot.points.iter().any(|p| p.family == family) {
            draw(format_args!("{}", mark(x + 6.0, 82.0, family)));
            draw(format_args!(
                "<text class=\"tick\" x=\"{:.1}\" y=\"86\">{}</text>",
                x + 17.0,
                escaped(name)
            ));
            x += text_width(name) * 0.9 + 36.0;
        }
    }
    draw(format_args!(
        "<path class=\"front\" d=\"M{x:.1} 82h26\"/><text class=\"tick\" x=\"{:.1}\" y=\"86\">best at its size</text>",
        x + 33.0
    ));

    let exact = plot.points.iter().any(|p| p.y == 0.0);
    let floor = if exact { BAND_END } else { BOTTOM };
    if exact {
        draw(format_args!(
            "<rect class=\"band\" x=\"{LEFT}\" y=\"{BOTTOM}\" width=\"{}\" height=\"{}\"/>\
             <text class=\"tick\" text-anchor=\"end\" x=\"{}\" y=\"{}\">exact</text>",
            RIGHT - LEFT,
            BAND_END - BOTTOM,
            LEFT - 9.0,
            EXACT + 4.0
        ));
    }
    let mut tick = scales.x_min;
    while tick <= scales.x_max {
        let x = scales.x(tick);
        draw(format_args!(
            "<path class=\"minor\" d=\"M{x:.1} {TOP}V{floor}\"/><text class=\"tick\" text-anchor=\"middle\" \
             x=\"{x:.1}\" y=\"{}\">{tick}</text>",
            floor + 18.0
        ));
        tick += scales.x_step;
    }
    for (value, labelled) in y_ticks(&scales) {
        let y = scales.y(value);
        let class = if labelled { "grid" } else { "minor" };
        draw(format_args!("<path class=\"{class}\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>"));
        if labelled {
            draw(format_args!(
                "<text class=\"tick\" text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{value}</text>",
                LEFT - 9.0,
                y + 4.0
            ));
        }
    }
    let (middle_x, middle_y) = (f64::midpoint(LEFT, RIGHT), f64::midpoint(TOP, BOTTOM));
    draw(format_args!(
        "<text class=\"axis\" text-anchor=\"middle\" x=\"{middle_x}\" y=\"{}\">{}</text>",
        floor + 44.0,
        escaped(plot.x_label)
    ));
    draw(format_args!(
        "<text class=\"axis\" text-anchor=\"middle\" transform=\"translate(22 {middle_y}) rotate(-90)\">{}</text>",
        escaped(plot.y_label)
    ));

    let front = unbeaten(plot.points);
    let mut path = String::new();
    for &i in &front {
        let (x, y) = (scales.x(plot.points[i].x), scales.y(plot.points[i].y));
        let step = if path.is_empty() { format!("M{x:.1} {y:.1}") } else { format!("H{x:.1}V{y:.1}") };
        path.push_str(&step);
    }
    draw(format_args!("<path class=\"front\" d=\"{path}\"/>"));

    let spots: Vec<(f64, f64)> = plot.points.iter().map(|p| (scales.x(p.x), scales.y(p.y))).collect();
    let labels = place_labels(plot.points, &spots, floor);
    for ((point, &(x, y)), area) in plot.points.iter().zip(&spots).zip(&labels) {
        // A label that had to go far is tied to its mark.
        let (near_x, near_y) = (x.clamp(area.left, area.right), y.clamp(area.top, area.bottom));
        if (near_x - x).hypot(near_y - y) > MARK + 9.0 {
            draw(format_args!("<path class=\"lead\" d=\"M{x:.1} {y:.1}L{near_x:.1} {near_y:.1}\"/>"));
        }
        draw(format_args!("{}", mark(x, y, point.family)));
    }
    for (i, (point, area)) in plot.points.iter().zip(&labels).enumerate() {
        let class = if front.contains(&i) { "label" } else { "label beaten" };
        draw(format_args!(
            "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            area.left,
            area.bottom - 3.5,
            escaped(&point.label)
        ));
    }
    out.push_str("</svg>\n");
    out
}

/// Values of the vertical axis that get a line, and whether they get a number: 1, 2 and 5 of each decade, more lines
/// between.
fn y_ticks(scales: &Scales) -> Vec<(f64, bool)> {
    let mut ticks = Vec::new();
    let mut decade = scales.y_low.floor();
    while decade <= scales.y_high {
        for digit in 1..10 {
            let value = f64::from(digit) * 10f64.powf(decade);
            if (scales.y_low..=scales.y_high).contains(&value.log10()) {
                // Printed with the digits it has, not those that binary fractions add.
                let rounded = format!("{value:.*}", usize_of(1.0 - decade)).parse().unwrap_or(value);
                ticks.push((rounded, matches!(digit, 1 | 2 | 5)));
            }
        }
        decade += 1.0;
    }
    ticks
}

fn usize_of(x: f64) -> usize {
    (0..20).find(|n| f64::from(*n) >= x).map_or(20, |n| n as usize)
}

/// The points that no other point beats in one way and meets in the other, by rising size.
fn unbeaten(points: &[Point]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| {
        (points[a].x, points[a].y).partial_cmp(&(points[b].x, points[b].y)).expect("no NaN")
    });
    let mut least = f64::INFINITY;
    order.retain(|&i| {
        let better = points[i].y < least;
        least = least.min(points[i].y);
        better
    });
    order
}

/// Finds each label a place: tries spots around its mark, nearest first, and takes the one that covers least.
/// The crowded marks choose first.
fn place_labels(points: &[Point], spots: &[(f64, f64)], floor: f64) -> Vec<Area> {
    let crowd = |i: usize| -> f64 {
        let (x, y) = spots[i];
        spots.iter().map(|(a, b)| 1.0 / (30.0 + (a - x).hypot(2.0 * (b - y)))).sum()
    };
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| crowd(b).total_cmp(&crowd(a)));
    let mut placed: Vec<Option<Area>> = vec![None; points.len()];
    for round in 0..6 {
        for &i in &order {
            let (x, y) = spots[i];
            let width = text_width(&points[i].label);
            let mut best = (f64::INFINITY, Area::around(x, y, 0.0));
            for ring in 0..7 {
                let gap = MARK + 4.0 + 9.0 * f64::from(ring);
                for angle in 0..24 {
                    let (sin, cos) = (f64::from(angle) * std::f64::consts::TAU / 24.0).sin_cos();
                    // The text's nearest edge lies on a circle around the mark.
                    let left = x + gap * cos - width * (1.0 - cos) / 2.0;
                    let top = y - gap * sin - LINE * (1.0 + sin) / 2.0;
                    let area = Area { left, top, right: left + width, bottom: top + LINE };
                    let hidden = |other: &Area| area.overlap(other);
                    let labels: f64 = placed
                        .iter()
                        .enumerate()
                        .filter(|(j, _)| *j != i)
                        .filter_map(|(_, area)| area.as_ref())
                        .map(&hidden)
                        .sum();
                    let marks: f64 =
                        spots.iter().map(|(a, b)| hidden(&Area::around(*a, *b, MARK + 1.5))).sum();
                    let outside = (LEFT + 3.0 - left).max(0.0)
                        + (area.right - RIGHT + 3.0).max(0.0)
                        + (TOP - top).max(0.0)
                        + (area.bottom - floor + 1.0).max(0.0);
                    let cost = 20.0 * (labels + marks) + 200.0 * outside + gap * 1.5 + (1.0 - cos) * 2.0;
                    if cost < best.0 {
                        best = (cost, area);
                    }
                }
            }
            placed[i] = Some(best.1);
        }
        // Later rounds let early choosers react to late ones.
        let covered = |i: usize, a: &Area| (0..i).any(|j| placed[j].is_some_and(|b| a.overlap(&b) > 0.0));
        if round > 0 && !placed.iter().enumerate().any(|(i, a)| a.is_some_and(|a| covered(i, &a))) {
            break;
        }
    }
    placed.into_iter().map(|a| a.expect("the loop placed every label")).collect()
}

/// About how wide a text is drawn; generous, since the reader's font is not known.
fn text_width(text: &str) -> f64 {
    let em: f64 = text
        .chars()
        .map(|c| match c {
            'i' | 'l' | 'j' | '.' | ',' | ':' | '|' | '\'' => 0.33,
            't' | 'f' | 'r' | ' ' | '-' => 0.42,
            'm' | 'w' | 'M' | 'W' | '+' => 0.86,
            _ => 0.62,
        })
        .sum();
    em * FONT
}

/// A mark whose shape, too, tells the family.
fn mark(x: f64, y: f64, family: usize) -> String {
    let r = MARK;
    let shape = match family {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\""),
        1 => format!("<path d=\"M{:.1} {:.1}h{s}v{s}h-{s}z\"", x - r + 0.6, y - r + 0.6, s = 2.0 * r - 1.2),
        2 => format!(
            "<path d=\"M{x:.1} {:.1}l{w} {h}h-{}z\"",
            y - r - 0.8,
            2.0 * (r + 0.8),
            w = r + 0.8,
            h = 2.0 * r
        ),
        3 => format!("<path d=\"M{x:.1} {:.1}l{q} {q}l-{q} {q}l-{q} -{q}z\"", y - r - 1.2, q = r + 1.2),
        4 => format!(
            "<path d=\"M{x:.1} {:.1}l{w} -{h}h-{}z\"",
            y + r + 0.8,
            2.0 * (r + 0.8),
            w = r + 0.8,
            h = 2.0 * r
        ),
        _ => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{}\"", r - 1.0),
    };
    format!("{shape} class=\"f{} halo\"/>", family.min(FAMILIES - 1))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(x: f64, y: f64, label: &str) -> Point {
        Point { x, y, label: label.into(), family: 0 }
    }

    #[test]
    fn the_front_holds_what_nothing_beats() {
        let points = [
            point(4.0, 0.1, "a"),
            point(4.0, 0.2, "same size, worse"),
            point(8.0, 0.01, "b"),
            point(5.0, 0.1, "bigger, no better"),
            point(16.0, 0.0, "exact"),
        ];
        assert_eq!(unbeaten(&points), [0, 2, 4]);
    }

    #[test]
    fn labels_of_a_crowd_neither_touch_nor_leave_the_page() {
        let points: Vec<Point> = (0..18)
            .map(|i| point(4.0 + f64::from(i % 6) * 0.12, 0.05 + 0.01 * f64::from(i), "mean+had+lm4"))
            .chain([point(16.0, 0.0, "raw"), point(13.5, 0.0, "lossless")])
            .collect();
        let scales = Scales::of(&points);
        let spots: Vec<_> = points.iter().map(|p| (scales.x(p.x), scales.y(p.y))).collect();
        let areas = place_labels(&points, &spots, BAND_END);
        for (i, a) in areas.iter().enumerate() {
            assert!(a.left >= LEFT && a.right <= RIGHT && a.top >= TOP && a.bottom <= BAND_END, "{i}: {a:?}");
            for (j, b) in areas[..i].iter().enumerate() {
                assert_eq!(a.overlap(b), 0.0, "{i} {j}");
            }
        }
    }

    #[test]
    fn a_plot_of_nothing_and_names_with_brackets_are_well_formed() {
        let empty = Plot { title: "a<b", subtitle: "", x_label: "", y_label: "", families: &[], points: &[] };
        assert!(svg(&empty).contains("<title>a&lt;b</title>"));
        let one = [point(4.5, 0.1, "x&y")];
        let drawn = svg(&Plot { points: &one, families: &["f"], ..empty });
        assert!(drawn.contains("x&amp;y") && drawn.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn ticks_are_round_numbers() {
        let scales = Scales { x_min: 0.0, x_max: 16.0, x_step: 2.0, y_low: -2.2, y_high: 0.1 };
        let labelled: Vec<f64> = y_ticks(&scales).into_iter().filter(|t| t.1).map(|t| t.0).collect();
        assert_eq!(labelled, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]);
    }
}
