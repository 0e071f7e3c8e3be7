//! Plots as SVG: bars side by side, and lines over time. Plain elements that any browser shows.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 50.0;
const TOP: f64 = 50.0;
const RIGHT: f64 = 20.0;
const COLOURS: [&str; 6] = ["#8a94a6", "#1f6feb", "#2da44e", "#bf8700", "#cf222e", "#8250df"];

/// Values of one kind over all groups, or over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    pub values: Vec<f64>,
}

/// Bars in groups; each series has one value a group.
pub fn bars(title: &str, unit: &str, groups: &[String], series: &[Series]) -> String {
    let mut svg = frame(title, unit, most(series), series);
    let slot = (WIDTH - LEFT - RIGHT) / groups.len().max(1) as f64;
    let width = slot * 0.8 / series.len().max(1) as f64;
    for (group, name) in groups.iter().enumerate() {
        let left = LEFT + slot * group as f64 + slot * 0.1;
        for (at, series) in series.iter().enumerate() {
            let value = series.values.get(group).copied().unwrap_or(0.0);
            let top = y(value, svg.most);
            let _ = write!(
                svg.text,
                r#"<rect x="{:.1}" y="{top:.1}" width="{width:.1}" height="{:.1}" fill="{}"><title>{}: {value:.4}</title></rect>"#,
                left + width * at as f64,
                HEIGHT - BOTTOM - top,
                colour(at),
                escape(&series.name),
            );
        }
        label(&mut svg.text, left + slot * 0.4, HEIGHT - BOTTOM + 18.0, "middle", name);
    }
    svg.end()
}

/// Lines over the day; `hours` are the places of the values.
pub fn lines(title: &str, unit: &str, hours: &[f64], series: &[Series]) -> String {
    let mut svg = frame(title, unit, most(series), series);
    let last = hours.last().copied().unwrap_or(1.0).max(1e-9);
    let x = |hour: f64| LEFT + (WIDTH - LEFT - RIGHT) * hour / last;
    for (at, series) in series.iter().enumerate() {
        let points = hours.iter().zip(&series.values);
        let points: Vec<_> =
            points.map(|(hour, value)| format!("{:.1},{:.1}", x(*hour), y(*value, svg.most))).collect();
        let _ = write!(
            svg.text,
            r#"<polyline fill="none" stroke="{}" stroke-width="1.5" points="{}"/>"#,
            colour(at),
            points.join(" ")
        );
    }
    for hour in [0.0, 6.0, 12.0, 18.0, 24.0] {
        if hour <= last + 1.0 {
            label(&mut svg.text, x(hour.min(last)), HEIGHT - BOTTOM + 18.0, "middle", &format!("{hour:.0} h"));
        }
    }
    svg.end()
}

struct Svg {
    text: String,
    most: f64,
}

impl Svg {
    fn end(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }
}

fn most(series: &[Series]) -> f64 {
    let values = series.iter().flat_map(|series| series.values.iter().copied());
    values.filter(|value| value.is_finite()).fold(0.0, f64::max).max(1e-12)
}

fn y(value: f64, most: f64) -> f64 {
    let share = if value.is_finite() { (value / most).clamp(0.0, 1.0) } else { 0.0 };
    HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share
}

fn colour(at: usize) -> &'static str {
    COLOURS[at % COLOURS.len()]
}

fn frame(title: &str, unit: &str, most: f64, series: &[Series]) -> Svg {
    let mut text = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>"#
    );
    let _ = write!(text, r#"<text x="{LEFT}" y="20" font-size="15">{}</text>"#, escape(title));
    for step in 0..=4 {
        let value = most * f64::from(step) / 4.0;
        let at = y(value, most);
        let _ = write!(
            text,
            r##"<line x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}" stroke="#d0d7de"/>"##,
            WIDTH - RIGHT
        );
        label(&mut text, LEFT - 6.0, at + 4.0, "end", &short(value));
    }
    label(&mut text, LEFT - 6.0, TOP - 12.0, "end", unit);
    let mut left = LEFT;
    for (at, series) in series.iter().enumerate() {
        let _ = write!(text, r#"<rect x="{left:.1}" y="28" width="10" height="10" fill="{}"/>"#, colour(at));
        label(&mut text, left + 14.0, 37.0, "start", &series.name);
        left += 30.0 + 7.0 * series.name.len() as f64;
    }
    Svg { text, most }
}

fn short(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.1}"),
        value => format!("{value:.4}"),
    }
}

fn label(text: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    let _ = write!(text, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escape(what));
}

/// Names come from traces and from objects: nothing in them may become markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_its_values_and_no_markup_from_names() {
        let series = [Series { name: "<b>\"a\"&".into(), values: vec![1.0, f64::NAN] }];
        let svg = bars("energy", "kWh", &["x".into(), "y".into()], &series);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("&lt;b&gt;&quot;a&quot;&amp;: 1.0000") && !svg.contains("<b>"));
        assert_eq!(svg.matches("<rect").count(), 1 + 1 + 2);
        assert!(lines("hosts", "", &[0.0, 1.0], &series).contains("polyline"));
    }
}
