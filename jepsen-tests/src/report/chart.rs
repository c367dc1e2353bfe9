//! A line chart: an SVG that needs nothing but itself, in the look of the timeline.
//!
//! Pure: numbers in, text out. The horizontal axis is logarithmic, because it shows sizes that grow
//! by factors.

use std::fmt::Write as _;

use super::svg::escaped;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 76.0;
const BOTTOM: f64 = 56.0;
/// Lines across the picture, about.
const STEPS: f64 = 5.0;
/// A character of the small font, about.
const CHAR_WIDTH: f64 = 5.8;
const COLOURS: [&str; 5] = ["#4472b8", "#3a9d5d", "#e8a33d", "#8e4ec6", "#c62828"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From zero.
    Linear,
    Logarithmic,
}

#[derive(Debug, Clone)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

#[derive(Debug, Clone)]
pub struct Chart {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    pub y_scale: Scale,
    pub series: Vec<Series>,
}

/// The picture; none without any point, since an empty one would look like a result.
pub fn svg(chart: &Chart) -> Option<String> {
    let points = chart.series.iter().flat_map(|series| &series.points);
    let shown: Vec<(f64, f64)> = points
        .filter(|point| is_shown(chart, **point))
        .copied()
        .collect();
    let x = Axis::logarithmic(shown.iter().map(|point| point.0))?;
    let y = match chart.y_scale {
        Scale::Linear => Axis::linear(shown.iter().map(|point| point.1)),
        Scale::Logarithmic => Axis::logarithmic(shown.iter().map(|point| point.1)),
    }?;
    let mut out = Picture {
        text: String::new(),
        x,
        y,
    };
    out.frame(chart);
    out.grid(chart);
    let with_points = chart
        .series
        .iter()
        .filter(|series| !series.points.is_empty());
    for (place, series) in with_points.enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        out.legend(place, series, colour);
        out.line(chart, series, colour);
    }
    out.text.push_str("</svg>\n");
    Some(out.text)
}

fn is_shown(chart: &Chart, (x, y): (f64, f64)) -> bool {
    let least = match chart.y_scale {
        Scale::Linear => y >= 0.0,
        Scale::Logarithmic => y > 0.0,
    };
    x > 0.0 && x.is_finite() && y.is_finite() && least
}

/// What part of the way along a value lies, and where its lines are.
#[derive(Debug)]
struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
    ticks: Vec<f64>,
}

impl Axis {
    fn linear(values: impl Iterator<Item = f64>) -> Option<Self> {
        let most = values.reduce(f64::max)?;
        let step = nice(most / STEPS);
        let count = (most / step).ceil().max(1.0);
        Some(Self {
            scale: Scale::Linear,
            from: 0.0,
            to: step * count,
            ticks: (0..=count as u32)
                .map(|tick| step * f64::from(tick))
                .collect(),
        })
    }

    /// From a power of ten to a power of ten.
    fn logarithmic(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (least, most) = values.fold((f64::MAX, 0.0_f64), |(least, most), value| {
            (least.min(value), most.max(value))
        });
        if most <= 0.0 {
            return None;
        }
        let first = least.log10().floor() as i32;
        let last = (most.log10().ceil() as i32).max(first + 1);
        Some(Self {
            scale: Scale::Logarithmic,
            from: 10_f64.powi(first),
            to: 10_f64.powi(last),
            ticks: (first..=last).map(|power| 10_f64.powi(power)).collect(),
        })
    }

    fn share(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.from) / (self.to - self.from),
            Scale::Logarithmic => (value / self.from).log10() / (self.to / self.from).log10(),
        }
    }
}

/// The next of 1, 2, 5, 10, 20 … that is at least `value`.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    // A tenth of a percent forgives what computing with logarithms loses.
    let factor = factors
        .into_iter()
        .find(|factor| factor * power * 1.001 >= value);
    factor.unwrap_or(10.0) * power
}

struct Picture {
    text: String,
    x: Axis,
    y: Axis,
}

impl Picture {
    fn put(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.text
            .write_fmt(arguments)
            .expect("writing to a String cannot fail");
        self.text.push('\n');
    }

    fn x_of(&self, value: f64) -> f64 {
        LEFT + self.x.share(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y_of(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.share(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn frame(&mut self, chart: &Chart) {
        self.put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">"
        ));
        self.put(format_args!(
            "<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>"
        ));
        self.put(format_args!(
            "<text x=\"16\" y=\"24\" font-size=\"16\" font-weight=\"bold\">{}</text>",
            escaped(&chart.title)
        ));
        self.put(format_args!(
            "<text x=\"16\" y=\"42\" fill=\"#555555\">{}</text>",
            escaped(&chart.y_label)
        ));
        self.put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555555\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 16.0,
            escaped(&chart.x_label)
        ));
    }

    fn grid(&mut self, chart: &Chart) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in self.y.ticks.clone() {
            let y = self.y_of(tick);
            self.put(format_args!(
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" \
                 stroke=\"#e4e4e4\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                number(tick)
            ));
        }
        for tick in self.x.ticks.clone() {
            let x = self.x_of(tick);
            self.put(format_args!(
                "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" \
                 stroke=\"#e4e4e4\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                number(tick)
            ));
        }
        if chart.y_scale == Scale::Logarithmic {
            self.put(format_args!(
                "<text x=\"{right}\" y=\"42\" text-anchor=\"end\" fill=\"#555555\">logarithmic</text>"
            ));
        }
    }

    fn legend(&mut self, place: usize, series: &Series, colour: &str) {
        let longest = 32.0 + CHAR_WIDTH * 24.0;
        let x = 16.0 + longest * place as f64;
        self.put(format_args!(
            "<rect x=\"{x:.1}\" y=\"54\" width=\"12\" height=\"10\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"63\">{}</text>",
            x + 17.0,
            escaped(&series.name)
        ));
    }

    fn line(&mut self, chart: &Chart, series: &Series, colour: &str) {
        let mut points = series.points.clone();
        points.retain(|point| is_shown(chart, *point));
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut path = String::new();
        for (x, y) in &points {
            let (x, y) = (self.x_of(*x), self.y_of(*y));
            path.push_str(&format!("{x:.1},{y:.1} "));
        }
        self.put(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.trim_end()
        ));
        for (x, y) in points {
            self.put(format_args!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"><title>{}: {} at \
                 {}</title></circle>",
                self.x_of(x),
                self.y_of(y),
                escaped(&series.name),
                number(y),
                number(x)
            ));
        }
    }
}

/// With as many digits as it needs, and commas between thousands.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        small if small >= 0.1 || small == 0.0 => 2,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    let count = whole.trim_start_matches('-').len();
    for (place, digit) in whole.chars().enumerate() {
        let left = whole.len() - place;
        if digit.is_ascii_digit() && left % 3 == 0 && left < count {
            out.push(',');
        }
        out.push(digit);
    }
    out + fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(y_scale: Scale, points: &[(f64, f64)]) -> Chart {
        Chart {
            title: "a < b".to_owned(),
            x_label: "channels".to_owned(),
            y_label: "MiB".to_owned(),
            y_scale,
            series: vec![Series {
                name: "one & only".to_owned(),
                points: points.to_vec(),
            }],
        }
    }

    #[test]
    fn numbers_are_read_easily() {
        for (value, text) in [
            (0.0, "0"),
            (0.05, "0.05"),
            (0.1, "0.1"),
            (1.25, "1.25"),
            (12.345, "12.3"),
            (999.6, "1,000"),
            (1_000_000.0, "1,000,000"),
            (-1_234.0, "-1,234"),
            (-123.0, "-123"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn steps_are_numbers_that_people_count_in() {
        for (value, step) in [
            (0.3, 0.5),
            (1.0, 1.0),
            (1.1, 2.0),
            (4.0, 5.0),
            (70.0, 100.0),
        ] {
            assert!((nice(value) - step).abs() < 1e-9, "{value}");
        }
        let axis = Axis::linear([3.0, 41.0].into_iter()).unwrap();
        assert_eq!(axis.ticks, [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        let flat = Axis::linear([0.0].into_iter()).unwrap();
        assert!(flat.to > flat.from);
    }

    #[test]
    fn a_logarithmic_axis_goes_from_power_to_power() {
        let axis = Axis::logarithmic([2_000.0, 1_000_000.0].into_iter()).unwrap();
        assert_eq!((axis.from, axis.to), (1_000.0, 1_000_000.0));
        assert!((axis.share(1_000.0)).abs() < 1e-9);
        assert!((axis.share(31_622.776_6) - 0.5).abs() < 1e-6);
        let single = Axis::logarithmic([1_000.0].into_iter()).unwrap();
        assert_eq!((single.from, single.to), (1_000.0, 10_000.0));
    }

    #[test]
    fn points_lie_in_the_order_of_the_axis_and_inside_the_picture() {
        let picture = svg(&chart(Scale::Linear, &[(1e6, 90.0), (1e3, 50.0)])).unwrap();
        let line = picture
            .lines()
            .find(|line| line.starts_with("<polyline"))
            .unwrap();
        assert!(line.contains("points=\"80.0,"), "{line}");
        assert!(line.contains(" 680.0,"), "{line}");
        assert_eq!(picture.matches("<circle").count(), 2);
        assert!(picture.contains("50 at 1,000"));
        assert!(picture.contains("a &lt; b") && picture.contains("one &amp; only"));
    }

    #[test]
    fn what_cannot_be_shown_is_left_out() {
        let points = [(0.0, 1.0), (10.0, 0.0), (10.0, f64::NAN), (10.0, 5.0)];
        let linear = svg(&chart(Scale::Linear, &points)).unwrap();
        assert_eq!(linear.matches("<circle").count(), 2);
        let logarithmic = svg(&chart(Scale::Logarithmic, &points)).unwrap();
        assert_eq!(logarithmic.matches("<circle").count(), 1);
        assert!(svg(&chart(Scale::Linear, &[])).is_none());
    }
}
