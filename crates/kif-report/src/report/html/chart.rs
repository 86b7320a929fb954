//! What charts are drawn with: scales, axes, lines, dots with intervals; SVG of fixed decimals, so
//! that equal numbers give equal bytes.

use maud::{Markup, html};

/// Lines that are told apart by colour and dashes; further ones are grey.
pub(super) const N_SERIES: usize = 6;

/// A straight map from values to pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    /// Least and largest value.
    domain: (f64, f64),
    /// Where they lie.
    pixels: (f64, f64),
}

impl Scale {
    /// From `domain`, which is widened where it is empty.
    pub(super) fn new(domain: (f64, f64), pixels: (f64, f64)) -> Self {
        let (low, high) = domain;
        let domain = if high > low {
            (low, high)
        } else {
            (low - 0.5, low + 0.5)
        };
        Self { domain, pixels }
    }

    /// Over all `values`, outwards to round ends; of no values 0 to 1.
    pub(super) fn around(values: impl Iterator<Item = f64>, pixels: (f64, f64)) -> Self {
        let finite = values.filter(|value| value.is_finite());
        let ends = finite.fold(None, |ends: Option<(f64, f64)>, value| {
            Some(ends.map_or((value, value), |(l, h)| (l.min(value), h.max(value))))
        });
        let (low, high) = Self::new(ends.unwrap_or((0.0, 1.0)), pixels).domain;
        let step = round_step((high - low) / 4.0);
        let outwards = ((low / step).floor() * step, (high / step).ceil() * step);
        Self::new(outwards, pixels)
    }

    /// The pixel of a value; values outside lie at the ends.
    pub(super) fn at(&self, value: f64) -> f64 {
        let (low, high) = self.domain;
        let share = ((value - low) / (high - low)).clamp(0.0, 1.0);
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }

    /// Whether a value lies within.
    pub(super) fn has(&self, value: f64) -> bool {
        (self.domain.0..=self.domain.1).contains(&value)
    }

    /// Round values, about `n` of them.
    pub(super) fn ticks(&self, n: usize) -> Vec<f64> {
        let (low, high) = self.domain;
        let step = round_step((high - low) / n.max(1) as f64);
        let first = (low / step - 1e-9).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        (first..=last).map(|i| i as f64 * step).collect()
    }
}

/// The smallest of 1, 2, 2.5 and 5 times a power of ten that is at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let fits = |factor: &f64| factor * power >= step * (1.0 - 1e-9);
    [1.0, 2.0, 2.5, 5.0].into_iter().find(fits).unwrap_or(10.0) * power
}

/// A length in pixels with one decimal.
pub(super) fn px(x: f64) -> String {
    let text = format!("{x:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0" } else { text }.to_owned()
}

/// A number as short as it can be said: `1.2M`, `34k`, `0.25`.
pub(super) fn short(x: f64) -> String {
    let scaled = |x: f64, unit: &str| {
        let text = format!("{x:.1}");
        format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
    };
    match x.abs() {
        size if size >= 1e9 => scaled(x / 1e9, "G"),
        size if size >= 1e6 => scaled(x / 1e6, "M"),
        size if size >= 1e4 => scaled(x / 1e3, "k"),
        size if size >= 10.0 || size == 0.0 => scaled(x, ""),
        _ => {
            let text = format!("{x:.2}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

/// A chart of so many pixels; `label` is what it shows, for those who do not see it.
pub(super) fn svg((width, height): (f64, f64), label: &str, body: Markup) -> Markup {
    let (w, h) = (px(width), px(height));
    html! {
        svg.chart width=(w) height=(h) viewBox=(format!("0 0 {w} {h}")) role="img" aria-label=(label) {
            title { (label) }
            (body)
        }
    }
}

/// A straight line.
pub(super) fn line(class: &str, from: (f64, f64), to: (f64, f64)) -> Markup {
    html! { path class=(class) d=(way(&[from, to])) {} }
}

/// A line through points, with a title.
pub(super) fn curve(class: &str, points: &[(f64, f64)], title: &str) -> Markup {
    html! { path class=(class) d=(way(points)) { title { (title) } } }
}

fn way(points: &[(f64, f64)]) -> String {
    let step = |(i, (x, y)): (usize, &(f64, f64))| {
        let letter = if i == 0 { "M" } else { "L" };
        format!("{letter}{} {}", px(*x), px(*y))
    };
    points.iter().enumerate().map(step).collect()
}

/// A text; `class` says where it is anchored.
pub(super) fn text(class: &str, (x, y): (f64, f64), content: &str) -> Markup {
    html! { text class=(class) x=(px(x)) y=(px(y)) { (content) } }
}

/// The plot's place in a chart: left, top, right, bottom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Frame {
    /// Pixels from left to right.
    pub(super) fn across(&self) -> (f64, f64) {
        (self.left, self.right)
    }

    /// Pixels from bottom to top.
    pub(super) fn upwards(&self) -> (f64, f64) {
        (self.bottom, self.top)
    }

    /// Lines and numbers of the horizontal axis, and its name below.
    pub(super) fn x_axis(
        &self,
        scale: &Scale,
        n: usize,
        number: fn(f64) -> String,
        name: &str,
    ) -> Markup {
        let middle = (self.left + self.right) / 2.0;
        html! {
            @for tick in scale.ticks(n) {
                (line("grid", (scale.at(tick), self.top), (scale.at(tick), self.bottom)))
                (text("dim middle", (scale.at(tick), self.bottom + 16.0), &number(tick)))
            }
            (line("axis", (self.left, self.bottom), (self.right, self.bottom)))
            (text("dim middle", (middle, self.bottom + 33.0), name))
        }
    }

    /// Lines and numbers of the vertical axis, and its name above.
    pub(super) fn y_axis(
        &self,
        scale: &Scale,
        n: usize,
        number: fn(f64) -> String,
        name: &str,
    ) -> Markup {
        html! {
            @for tick in scale.ticks(n) {
                (line("grid", (self.left, scale.at(tick)), (self.right, scale.at(tick))))
                (text("dim end", (self.left - 6.0, scale.at(tick) + 4.0), &number(tick)))
            }
            (line("axis", (self.left, self.top), (self.left, self.bottom)))
            (text("dim", (self.left - 30.0, self.top - 8.0), name))
        }
    }
}

/// A dot at `x`, with an interval from `low` to `high` where there is one. An end outside the scale
/// has no cap.
pub(super) fn dot_with_interval(scale: &Scale, y: f64, x: f64, ends: Option<(f64, f64)>) -> Markup {
    html! {
        @if let Some((low, high)) = ends {
            (line("interval", (scale.at(low), y), (scale.at(high), y)))
            @for end in [low, high] {
                @if scale.has(end) { (line("interval", (scale.at(end), y - 4.0), (scale.at(end), y + 4.0))) }
            }
        }
        circle.dot cx=(px(scale.at(x))) cy=(px(y)) r="4.5" {}
    }
}

/// The class of a line: its own among the first, grey after them.
pub(super) fn series(i: usize) -> String {
    if i < N_SERIES {
        format!("curve s{i}")
    } else {
        "others".to_owned()
    }
}

/// What the lines are: a short piece of each with its name.
pub(super) fn key<'a>(names: impl Iterator<Item = &'a str>, others: bool) -> Markup {
    let piece = |class: &str| {
        html! {
            svg width="34" height="10" aria-hidden="true" { (line(class, (0.0, 5.0), (34.0, 5.0))) }
        }
    };
    html! {
        ul.key {
            @for (i, name) in names.enumerate() { li { (piece(&series(i))) (name) } }
            @if others { li { (piece("others")) "all others (names as tooltips)" } }
        }
    }
}

/// Moves `wanted`, ascending, as little as it must so that neighbours are `gap` apart and all lie
/// within `ends`.
pub(super) fn spread_out(wanted: &[f64], gap: f64, ends: (f64, f64)) -> Vec<f64> {
    let mut places = wanted.to_vec();
    let mut least = ends.0;
    for place in &mut places {
        *place = place.max(least);
        least = *place + gap;
    }
    let mut most = ends.1;
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - gap;
    }
    places
}

/// The class of a share: ten steps of one colour, the darker the more.
pub(super) fn heat(share: f64) -> String {
    format!("h{}", heat_step(share))
}

/// The number of that step, 0 to 9.
pub(super) fn heat_step(share: f64) -> usize {
    (share.clamp(0.0, 1.0) * 9.0).round() as usize
}

/// The steps from `low` to `high`, as words around a bar.
pub(super) fn heat_key(low: &str, high: &str) -> Markup {
    html! {
        p.note {
            (low)
            span.scale aria-hidden="true" { @for i in 0..10 { i class=(format!("h{i}")) {} } }
            (high)
        }
    }
}

/// As much of a name as fits into `width` pixels.
pub(super) fn cut(name: &str, width: f64) -> String {
    let most = (width / 6.0) as usize;
    if name.chars().count() <= most {
        return name.to_owned();
    }
    let kept: String = name.chars().take(most.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// In percent, without decimals where there are none.
pub(super) fn percent_tick(x: f64) -> String {
    short(100.0 * x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_round_ends_and_ticks() {
        let scale = Scale::around([0.713, 0.874].into_iter(), (0.0, 100.0));
        let places = [0.7, 0.8, 0.9, 2.0].map(|value| px(scale.at(value)));
        assert_eq!(places, ["0", "50", "100", "100"]);
        let ticks: Vec<String> = scale.ticks(4).into_iter().map(percent_tick).collect();
        assert_eq!(ticks, ["70", "75", "80", "85", "90"]);
        let one = Scale::around([3.0].into_iter(), (0.0, 1.0));
        assert!(one.has(3.0) && one.at(3.0) == 0.5);
        assert!(Scale::around(std::iter::empty(), (0.0, 1.0)).has(0.5));
    }

    #[test]
    fn numbers_are_short_and_never_minus_zero() {
        assert_eq!([px(-0.01), px(2.0), px(2.25)], ["0", "2", "2.2"]);
        let shorts = [0.0, 0.25, 12.0, 9_999.0, 34_000.0, 1.25e6].map(short);
        assert_eq!(shorts, ["0", "0.25", "12", "9999", "34k", "1.2M"]);
    }

    #[test]
    fn labels_are_apart() {
        assert_eq!(
            spread_out(&[1.0, 2.0, 30.0], 10.0, (0.0, 100.0)),
            [1.0, 11.0, 30.0]
        );
        assert_eq!(spread_out(&[95.0, 99.0], 10.0, (0.0, 100.0)), [90.0, 100.0]);
    }

    #[test]
    fn the_darkest_is_one() {
        assert_eq!([0.0, 0.5, 1.0, 2.0].map(heat_step), [0, 5, 9, 9]);
    }
}
