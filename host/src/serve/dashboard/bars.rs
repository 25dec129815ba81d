//! What is drawn as bars: the generations of a plugin along the line of time, and what the steps of its reloads took.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use reseat::{Phase, Step};

use super::chart::{Canvas, Drawing, Drawn, GRID, NARROW, ago, draw, place, plain, text, window};
use super::gauge::WINDOW_MS;
use super::story::{Life, Reload};

/// How many generations have a line; older ones are said to be there.
const LIVES: usize = 8;
/// How high a line is.
const ROW: u32 = 22;
/// What stands right of those that have a length in time.
const RIGHT: u32 = 74;
const BELOW: u32 = 24;

/// The steps that can take time, in their order; the style sheet has a colour for each.
const STEPS: [Step; 13] = [
    Step::Settle,
    Step::Stage,
    Step::Vet,
    Step::Probe,
    Step::Observe,
    Step::Open,
    Step::Create,
    Step::Drain,
    Step::Save,
    Step::Restore,
    Step::Check,
    Step::Publish,
    Step::Record,
];

fn of_phase(phase: Phase) -> RGBColor {
    RGBColor(
        0,
        0,
        match phase {
            Phase::Serving => 0x11,
            Phase::Draining => 0x12,
            Phase::Retiring => 0x13,
            Phase::Lingering => 0x14,
            Phase::Candidate => 0x17,
            Phase::Kept => 0x18,
            _ => 0x15,
        },
    )
}

/// The mark at the end of a generation that is out of memory.
const UNLOADED: RGBColor = RGBColor(0, 0, 0x16);

/// `#0001NN`, where NN is its place from 10 on, in decimal digits.
fn of_step(step: Step) -> RGBColor {
    let place = STEPS.iter().position(|known| *known == step).unwrap_or(STEPS.len()) as u8;
    RGBColor(0, 1, 0x10 + place / 10 * 0x10 + place % 10)
}

/// The generations that were there in the last five minutes, newest on top.
pub fn timeline(width: u32, now_ms: u64, lives: &[Life]) -> Drawing {
    let start_ms = now_ms.saturating_sub(WINDOW_MS);
    let seen = lives.iter().rev().filter(|life| life.ended_ms.is_none_or(|end| end > start_ms));
    let (shown, more): (Vec<_>, Vec<_>) = seen.enumerate().partition(|(at, _)| *at < LIVES);
    let shown: Vec<&Life> = shown.into_iter().map(|(_, life)| life).collect();
    let mut words = String::from("Generations in the last five minutes, newest first: ");
    let each = shown.iter().map(|life| told(life, now_ms));
    words.push_str(&each.collect::<Vec<_>>().join("; "));
    words.push_str(if shown.is_empty() { "none." } else { "." });
    if !more.is_empty() {
        words.push_str(&format!(" {} more before them.", more.len()));
    }
    let height = ROW * shown.len().max(1) as u32 + BELOW + 6;
    draw((width, height), words, |canvas| {
        paint_lives(canvas, now_ms, &shown).map_err(|error| error.to_string())
    })
}

fn told(life: &Life, now_ms: u64) -> String {
    let (generation, version) = (life.generation, plain(&life.version, 40));
    let since = life.spans.last().map_or(now_ms, |span| life.ended_ms.unwrap_or(span.from_ms));
    let seconds = now_ms.saturating_sub(since) / 1_000;
    format!("generation {generation}, version {version}, {} since {seconds} s", life.verdict())
}

fn paint_lives<'a>(canvas: &Canvas<'a>, now_ms: u64, lives: &[&Life]) -> Drawn<'a> {
    let (rows, left) = (lives.len().max(1), left(canvas));
    let mut builder = ChartBuilder::on(canvas);
    builder.margin_top(6).margin_right(14).set_label_area_size(LabelAreaPosition::Left, left);
    builder.set_label_area_size(LabelAreaPosition::Bottom, BELOW);
    let mut chart = builder.build_cartesian_2d(window(), 0.0..rows as f64)?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_y_mesh().disable_y_axis().bold_line_style(GRID).light_line_style(TRANSPARENT);
    mesh.axis_style(GRID)
        .x_labels(6)
        .x_label_formatter(&ago(canvas.dim_in_pixel().0))
        .label_style(text(HPos::Center))
        .draw()?;
    for (row, life) in lives.iter().enumerate() {
        let top = rows as f64 - row as f64;
        for span in &life.spans {
            let to_ms = span.to_ms.unwrap_or(now_ms);
            let (from, to) = (place(span.from_ms, now_ms), place(to_ms, now_ms));
            let bar = Rectangle::new([(from, top - 0.18), (to, top - 0.82)], of_phase(span.phase).filled());
            chart.draw_series([bar])?;
        }
        if let Some(end_ms) = life.ended_ms {
            let end = place(end_ms, now_ms);
            let mark = PathElement::new([(end, top - 0.1), (end, top - 0.9)], UNLOADED.stroke_width(3));
            chart.draw_series([mark])?;
        }
        let label = plain(&format!("{} · {}", life.generation, life.version), 13);
        let y = 6 + (ROW * row as u32 + ROW / 2) as i32;
        canvas.draw(&Text::new(label, (left as i32 - 8, y), text(HPos::Right)))?;
    }
    Ok(())
}

/// What each step of the last reloads took, newest on top.
pub fn reloads(width: u32, reloads: &[&Reload]) -> Drawing {
    let shown: Vec<&Reload> = reloads.iter().rev().copied().collect();
    let mut words = String::from("What the steps of the last reloads took, newest first: ");
    let each = shown.iter().map(|reload| {
        let steps = reload.steps.iter().map(|it| format!("{} {:.1}", it.step, it.ms));
        let steps = steps.collect::<Vec<_>>().join(", ");
        format!("generation {} in {:.1} ms ({steps})", reload.generation, reload.took_ms)
    });
    words.push_str(&each.collect::<Vec<_>>().join("; "));
    words.push_str(if shown.is_empty() { "none." } else { "." });
    let height = ROW * shown.len().max(1) as u32 + BELOW + 6;
    draw((width, height), words, |canvas| paint_reloads(canvas, &shown).map_err(|error| error.to_string()))
}

fn paint_reloads<'a>(canvas: &Canvas<'a>, reloads: &[&Reload]) -> Drawn<'a> {
    let sum = |reload: &Reload| reload.steps.iter().map(|step| step.ms).sum::<f64>();
    let most = reloads.iter().map(|reload| sum(reload)).fold(0.1, f64::max);
    let (rows, left) = (reloads.len().max(1), left(canvas));
    let mut builder = ChartBuilder::on(canvas);
    builder.margin_top(6).margin_right(RIGHT).set_label_area_size(LabelAreaPosition::Left, left);
    builder.set_label_area_size(LabelAreaPosition::Bottom, BELOW);
    let mut chart = builder.build_cartesian_2d(0.0..most, 0.0..rows as f64)?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_y_mesh().disable_y_axis().bold_line_style(GRID).light_line_style(TRANSPARENT);
    mesh.axis_style(GRID).x_labels(if left < 96 { 3 } else { 6 }).label_style(text(HPos::Center));
    mesh.x_label_formatter(&|ms: &f64| milliseconds(*ms)).draw()?;
    let plot = chart.plotting_area().get_pixel_range();
    for (row, reload) in reloads.iter().enumerate() {
        let top = rows as f64 - row as f64;
        let mut from = 0.0;
        for step in &reload.steps {
            let to = from + step.ms;
            let bar = Rectangle::new([(from, top - 0.18), (to, top - 0.82)], of_step(step.step).filled());
            chart.draw_series([bar])?;
            from = to;
        }
        let y = 6 + (ROW * row as u32 + ROW / 2) as i32;
        let label = match reload.from {
            Some(from) => format!("{from} {} {}", if reload.back { "↩" } else { "→" }, reload.generation),
            None => format!("first: {}", reload.generation),
        };
        canvas.draw(&Text::new(label, (left as i32 - 8, y), text(HPos::Right)))?;
        let end = plot.0.start + (f64::from(plot.0.end - plot.0.start) * from / most) as i32;
        canvas.draw(&Text::new(milliseconds(reload.took_ms), (end + 6, y), text(HPos::Left)))?;
    }
    Ok(())
}

/// What stands left of the bars.
fn left(canvas: &Canvas<'_>) -> u32 {
    if canvas.dim_in_pixel().0 < NARROW { 76 } else { 96 }
}

fn milliseconds(ms: f64) -> String {
    match ms {
        0.0 => "0".to_owned(),
        _ if ms >= 1e4 => format!("{:.1} s", ms / 1e3),
        _ if ms >= 100.0 || (ms >= 1.0 && ms.fract() < 0.05) => format!("{ms:.0} ms"),
        _ if ms < 1.0 => format!("{ms:.2} ms"),
        _ => format!("{ms:.1} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use reseat::{Event, StepTime};

    const STYLE: &str = include_str!("assets/page.css");

    fn reloaded(generation: u64, version: &str) -> Event {
        let steps = [(Step::Open, 2.0), (Step::Publish, 0.5)].map(|(step, ms)| StepTime { step, ms });
        Event::Reloaded {
            plugin: "echo".into(),
            from: generation - 1,
            generation,
            version: version.into(),
            file: "libecho.so".into(),
            took_ms: 2.6,
            closed_ms: 0.0,
            state_bytes: 0,
            steps: steps.into(),
        }
    }

    #[test]
    fn no_two_marks_of_a_short_reload_are_told_alike() {
        let told = [0.0, 0.02, 0.5, 2.0, 2.62, 120.4, 12_000.0].map(milliseconds);
        assert_eq!(told, ["0", "0.02 ms", "0.50 ms", "2 ms", "2.6 ms", "120 ms", "12.0 s"]);
    }

    #[test]
    fn generations_are_bars_that_end_with_a_mark_when_they_are_out_of_memory() {
        let mut story = Story::default();
        story.hear(100_000, &reloaded(2, "1.2"));
        story.hear(200_000, &reloaded(3, "</svg><script>"));
        story.hear(230_000, &Event::Unloaded { plugin: "echo".into(), generation: 2, left: None });
        let Drawing { svg, words } = timeline(600, 260_000, &story.lives);
        let bars = |colour: &str| svg.matches(&format!("fill=\"{colour}\"")).count();
        assert_eq!((bars("#000011"), bars("#000012"), svg.matches("#000016").count()), (2, 2, 1), "{svg}");
        assert!(svg.contains("3 · &lt;/svg&gt;&lt;") && !svg.contains("<script"), "{svg}");
        assert!(words.contains("generation 2, version 1.2, unloaded since 30 s"), "{words}");
    }

    #[test]
    fn of_many_generations_the_newest_are_drawn_and_the_rest_are_counted() {
        let mut story = Story::default();
        (2..20).for_each(|generation| story.hear(generation * 1_000, &reloaded(generation, "1.0")));
        let Drawing { svg, words } = timeline(600, 20_000, &story.lives);
        assert!(svg.contains("19 · 1.0") && !svg.contains(">\n3 · 1.0"), "{svg}");
        assert!(words.ends_with(" 11 more before them."), "{words}");
    }

    #[test]
    fn the_steps_of_a_reload_are_stacked_and_told_in_words() {
        let mut story = Story::default();
        story.hear(1_000, &reloaded(2, "1.2"));
        let Drawing { svg, words } = reloads(600, &story.takeovers());
        assert!(svg.contains("fill=\"#000115\"") && svg.contains("fill=\"#000121\""), "{svg}");
        assert!(svg.contains("1 → 2") && svg.contains("2.6 ms"), "{svg}");
        assert!(words.contains("generation 2 in 2.6 ms (open 2.0, publish 0.5)"), "{words}");
        let none = reloads(600, &[]);
        assert!(none.svg.ends_with("</svg>\n") && none.words.ends_with("none."));
    }

    #[test]
    fn the_style_sheet_has_a_colour_for_all_that_is_drawn() {
        use Phase::{Candidate, Draining, Kept, Leaked, Lingering, Retiring, Serving};
        let phases = [Serving, Draining, Retiring, Lingering, Leaked, Candidate, Kept];
        let filled =
            phases.map(of_phase).into_iter().chain(STEPS.map(of_step)).chain([of_step(Step::Retire)]);
        for RGBColor(red, green, blue) in filled {
            let rule = format!("[fill=\"#{red:02X}{green:02X}{blue:02X}\"]");
            assert!(STYLE.contains(&rule), "{rule}");
        }
        for RGBColor(red, green, blue) in [GRID, UNLOADED] {
            let rule = format!("[stroke=\"#{red:02X}{green:02X}{blue:02X}\"]");
            assert!(STYLE.contains(&rule), "{rule}");
        }
    }
}
