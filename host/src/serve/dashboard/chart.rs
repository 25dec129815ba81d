//! Drawings as SVG text. They have no colours of their own: each thing that is drawn has a number for a colour, which the
//! style sheet (`page.css`) replaces by what suits the reader's screen. A drawing comes with the same in words.
//!
//! Invariants:
//! 1. Whatever text is drawn, the drawing is well-formed: the library escapes what has a meaning in SVG, and what cannot
//!    stand in it at all is left out by [`plain`].

use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Serialize;

use super::gauge::{Point, WINDOW_MS};

/// Text, the lines of the axes, and the frame.
pub const INK: RGBColor = RGBColor(0, 0, 0x01);
pub const GRID: RGBColor = RGBColor(0, 0, 0x02);
const CALLS: RGBColor = RGBColor(0, 0, 0x21);
const FAILURES: RGBColor = RGBColor(0, 0, 0x22);
const MEDIAN: RGBColor = RGBColor(0, 0, 0x23);
const SLOWEST: RGBColor = RGBColor(0, 0, 0x24);

/// The height of a drawing of figures.
const HEIGHT: u32 = 132;
/// What the labels of an axis take.
const LEFT: u32 = 58;
const BELOW: u32 = 22;
const TEXT: i32 = 13;

pub type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// A drawing, and what it shows.
#[derive(Serialize)]
pub struct Drawing {
    pub svg: String,
    pub words: String,
}

/// Draws. What cannot be drawn is said in its words.
pub fn draw(size: (u32, u32), words: String, paint: impl Fn(&Canvas<'_>) -> Result<(), String>) -> Drawing {
    let mut svg = String::new();
    let canvas = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    let drawn = paint(&canvas).and_then(|()| canvas.present().map_err(|error| error.to_string()));
    drop(canvas);
    match drawn {
        Ok(()) => Drawing { svg, words },
        Err(error) => Drawing { svg: String::new(), words: format!("{words} (it cannot be drawn: {error})") },
    }
}

/// How text is written at a place.
pub fn text(h_pos: HPos) -> TextStyle<'static> {
    ("sans-serif", TEXT).into_font().color(&INK).pos(Pos::new(h_pos, VPos::Center))
}

/// So much of a text as can stand in a drawing.
pub fn plain(text: &str, most: usize) -> String {
    let mut letters = text.chars().filter(|letter| !letter.is_control() && *letter < '\u{fff0}');
    let mut plain: String = letters.by_ref().take(most).collect();
    if letters.next().is_some() {
        plain.pop();
        plain.push('…');
    }
    plain
}

/// Minutes before now, as the axis of time names them. Where there is little room, it does not name all.
pub fn ago(width: u32) -> impl Fn(&f64) -> String {
    move |minutes| match -minutes.round() {
        0.0 => "now".to_owned(),
        minutes if width < NARROW && minutes % 2.0 != 0.0 => String::new(),
        minutes => format!("−{minutes} min"),
    }
}

/// Below this, drawings are those for a phone.
pub const NARROW: u32 = 480;

/// The window of time in minutes: up to now.
pub fn window() -> std::ops::Range<f64> {
    -(WINDOW_MS as f64 / 6e4)..0.0
}

/// Where a moment is in that window; at its edge, if it is out of it.
pub fn place(at_ms: u64, now_ms: u64) -> f64 {
    ((at_ms as f64 - now_ms as f64) / 6e4).clamp(window().start, window().end)
}

/// Calls in each second, and those that failed.
pub fn calls(width: u32, now_ms: u64, points: &[Point]) -> Drawing {
    let last = points.last().copied().unwrap_or_default();
    let most = points.iter().map(|point| point.calls_per_s).fold(0.0, f64::max);
    let words = format!(
        "Calls in each second of the last five minutes: {} now, {} at most; {} of them failed in the last second.",
        short(last.calls_per_s),
        short(most),
        short(last.failures_per_s)
    );
    draw((width, HEIGHT), words, |canvas| {
        paint_calls(canvas, now_ms, points, most).map_err(|error| error.to_string())
    })
}

fn paint_calls<'a>(canvas: &Canvas<'a>, now_ms: u64, points: &[Point], most: f64) -> Drawn<'a> {
    let mut chart = framed(canvas).build_cartesian_2d(window(), 0.0..(most * 1.1).max(1.0))?;
    axes(&mut chart, canvas, &|value| short(*value))?;
    let line =
        |part: fn(&Point) -> f64| points.iter().map(move |point| (place(point.at_ms, now_ms), part(point)));
    chart.draw_series(
        AreaSeries::new(line(|point| point.calls_per_s), 0.0, CALLS.mix(0.18)).border_style(thick(CALLS)),
    )?;
    if points.iter().any(|point| point.failures_per_s > 0.0) {
        chart.draw_series(LineSeries::new(line(|point| point.failures_per_s), thick(FAILURES)))?;
    }
    Ok(())
}

/// What half of the calls, and 99 of 100, took no longer than.
pub fn latencies(width: u32, now_ms: u64, points: &[Point]) -> Drawing {
    let now = points.last().and_then(|point| point.quantiles);
    let words =
        now.map_or("What calls take: none was timed in the last ten seconds.".to_owned(), |(p50, p99)| {
            let (p50, p99) = (nanos(p50 as f64), nanos(p99 as f64));
            format!(
                "What calls took in the last ten seconds: half of them within {p50}, 99 of 100 within {p99}."
            )
        });
    draw((width, HEIGHT), words, |canvas| {
        paint_latencies(canvas, now_ms, points).map_err(|error| error.to_string())
    })
}

fn paint_latencies<'a>(canvas: &Canvas<'a>, now_ms: u64, points: &[Point]) -> Drawn<'a> {
    let all = || points.iter().filter_map(|point| point.quantiles);
    let least = all().map(|(p50, _)| p50).min().unwrap_or(1_000) as f64;
    let most = all().map(|(_, p99)| p99).max().unwrap_or(1_000_000) as f64;
    // Whole decades, so that the axis has at least two ticks.
    let decade = |value: f64, round: fn(f64) -> f64| 10f64.powf(round(value.max(1.0).log10()));
    let (from, to) = (decade(least, f64::floor), decade(most + 1.0, f64::ceil));
    let mut chart = framed(canvas).build_cartesian_2d(window(), (from..to).log_scale())?;
    axes(&mut chart, canvas, &|value| nanos(*value))?;
    for (part, colour) in [((|it| it.1) as fn((u64, u64)) -> u64, SLOWEST), (|it| it.0, MEDIAN)] {
        for run in points.split(|point| point.quantiles.is_none()).filter(|run| !run.is_empty()) {
            let line = run.iter().filter_map(|point| {
                Some((place(point.at_ms, now_ms), (part(point.quantiles?) as f64).max(from)))
            });
            chart.draw_series(LineSeries::new(line, thick(colour)))?;
        }
    }
    Ok(())
}

/// Both axes, with few lines.
fn axes<'a, Y>(chart: &mut Chart<'_, 'a, Y>, canvas: &Canvas<'a>, label: &dyn Fn(&f64) -> String) -> Drawn<'a>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().bold_line_style(GRID).light_line_style(TRANSPARENT).axis_style(GRID);
    mesh.x_labels(6).y_labels(4).label_style(text(HPos::Center));
    mesh.x_label_formatter(&ago(canvas.dim_in_pixel().0)).y_label_formatter(&label).draw()
}

type Chart<'c, 'a, Y> = ChartContext<'c, SVGBackend<'a>, Cartesian2d<RangedCoordf64, Y>>;

fn thick(colour: RGBColor) -> ShapeStyle {
    colour.stroke_width(2)
}

fn framed<'a, 'b>(canvas: &'b Canvas<'a>) -> ChartBuilder<'b, 'b, SVGBackend<'a>> {
    let mut builder = ChartBuilder::on(canvas);
    builder.margin_top(8).margin_right(14).set_label_area_size(LabelAreaPosition::Left, LEFT);
    builder.set_label_area_size(LabelAreaPosition::Bottom, BELOW);
    builder
}

/// A number in few letters.
pub fn short(value: f64) -> String {
    match value {
        _ if value >= 1e9 => format!("{:.1} G", value / 1e9),
        _ if value >= 1e6 => format!("{:.1} M", value / 1e6),
        _ if value >= 1e4 => format!("{:.0} k", value / 1e3),
        _ if value >= 1e3 => format!("{:.1} k", value / 1e3),
        _ if value == 0.0 || value >= 10.0 => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    }
}

/// Nanoseconds in few letters.
fn nanos(value: f64) -> String {
    let (value, unit) = match value {
        _ if value >= 1e9 => (value / 1e9, "s"),
        _ if value >= 1e6 => (value / 1e6, "ms"),
        _ if value >= 1e3 => (value / 1e3, "µs"),
        _ => (value, "ns"),
    };
    if value >= 10.0 || value.fract() < 0.05 {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at_ms: u64, calls_per_s: f64, quantiles: Option<(u64, u64)>) -> Point {
        Point { at_ms, calls_per_s, failures_per_s: calls_per_s / 10.0, quantiles }
    }

    fn count(svg: &str, part: &str) -> usize {
        svg.matches(part).count()
    }

    #[test]
    fn calls_are_an_area_with_a_line_for_those_that_failed_and_are_told_in_words() {
        let points = [point(10_000, 100.0, None), point(11_000, 1_500.0, None)];
        let Drawing { svg, words } = calls(400, 11_000, &points);
        assert!(svg.starts_with("<svg width=\"400\" height=\"132\"") && svg.ends_with("</svg>\n"), "{svg}");
        assert_eq!((count(&svg, "<polygon"), count(&svg, "stroke=\"#000022\"")), (1, 1));
        assert!(svg.contains("−2 min") && svg.contains("now") && svg.contains("1.5 k"), "{svg}");
        assert!(words.contains("1.5 k now, 1.5 k at most; 150 of them failed"), "{words}");
    }

    #[test]
    fn where_nothing_was_timed_the_line_of_latencies_is_broken() {
        let timed = Some((1_000, 2_000_000));
        let points = [1, 2, 3, 4, 5].map(|at| point(at * 1_000, 1.0, timed.filter(|_| at != 3)));
        let Drawing { svg, words } = latencies(400, 5_000, &points);
        assert_eq!((count(&svg, "stroke=\"#000023\""), count(&svg, "stroke=\"#000024\"")), (2, 2));
        assert!(words.ends_with("half of them within 1 µs, 99 of 100 within 2 ms."), "{words}");
    }

    #[test]
    fn a_plugin_that_was_never_called_has_empty_axes_at_any_width() {
        for width in [240, 1_200] {
            let (calls, latencies) = (calls(width, 0, &[]), latencies(width, 0, &[]));
            assert!(calls.svg.contains("now") && calls.words.contains("0 now"), "{}", calls.words);
            assert!(latencies.svg.contains("1 ms") && latencies.words.contains("none was timed"));
        }
    }

    #[test]
    fn text_is_escaped_and_what_cannot_stand_in_a_drawing_is_left_out() {
        let Drawing { svg, .. } = draw((100, 20), String::new(), |canvas| {
            let label = plain("</text><script>\u{0}\u{1b}\u{ffff}\"&'", 40);
            canvas.draw(&Text::new(label, (0, 0), text(HPos::Left))).map_err(|error| error.to_string())
        });
        assert!(svg.contains("&lt;/text&gt;&lt;script&gt;&quot;&amp;&apos;"), "{svg}");
        assert!(!svg.contains(['\u{0}', '\u{1b}', '\u{ffff}']), "{svg}");
        assert_eq!(plain("0123456789", 5), "0123…");
    }
}
