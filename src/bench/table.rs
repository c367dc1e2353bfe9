//! The tables at the end: for each case the median of its rounds, and their range.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::Serializer;

use super::figures::Figures;
use super::figures::median;
use super::figures::rounded;

/// A heading and the name of what stands below it.
type Column = (&'static str, &'static str);

const WORK: &[Column] = &[
    ("acked/s", "acked_per_s"),
    ("deliveries/s", "deliveries_per_s"),
    ("server µs/ack", "server_us_per_ack"),
    ("server µs/delivery", "server_us_per_delivery"),
    ("server cores", "server_cores"),
    ("client cores", "client_cores"),
    ("server MiB", "server_mib"),
];
const LATENCY: &[Column] = &[
    ("ack p50 ms", "ack_p50_ms"),
    ("p99", "ack_p99_ms"),
    ("p99.9", "ack_p99_9_ms"),
    ("delivery p50 ms", "delivery_p50_ms"),
    ("p99", "delivery_p99_ms"),
    ("p99.9", "delivery_p99_9_ms"),
    ("other node p50 ms", "delivery_other_node_p50_ms"),
    ("p99", "delivery_other_node_p99_ms"),
];
const BESIDE: &[Column] = &[
    ("quiet alone ack p99 ms", "quiet_alone_ack_p99_ms"),
    ("beside", "quiet_beside_ack_p99_ms"),
    ("times", "quiet_p99_ratio"),
    ("quiet beside max ms", "quiet_beside_ack_max_ms"),
    ("loud acked/s", "loud_acked_per_s"),
];
const KILLS: &[Column] = &[
    ("kills", "kills"),
    ("to next ack, median ms", "kill_to_ack_ms_median"),
    ("least", "kill_to_ack_ms_least"),
    ("most", "kill_to_ack_ms_most"),
    ("delivery p99.9 ms", "delivery_p99_9_ms"),
    ("ack max ms", "ack_max_ms"),
];

/// Median, least and most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    #[serde(serialize_with = "as_measured")]
    pub median: f64,
    #[serde(serialize_with = "as_measured")]
    pub least: f64,
    #[serde(serialize_with = "as_measured")]
    pub most: f64,
}

fn as_measured<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(rounded(*value))
}

/// All tables that have anything in them, as Markdown.
pub fn render(all: &[Figures]) -> String {
    let mut text = String::new();
    for columns in [WORK, LATENCY, BESIDE, KILLS] {
        let table = table(all, columns);
        if table.len() > 1 {
            text.push_str(&align(&table));
            text.push('\n');
        }
    }
    text
}

/// The spread of everything that was measured, by case and name.
pub fn summary(all: &[Figures]) -> BTreeMap<char, BTreeMap<&'static str, Spread>> {
    let mut cases: BTreeMap<char, BTreeMap<&'static str, Spread>> = BTreeMap::new();
    for figures in all {
        let of_case = cases.entry(figures.case).or_default();
        for name in figures.values.names() {
            if let Some(spread) = spread(all, figures.case, name) {
                of_case.insert(name, spread);
            }
        }
    }
    cases
}

fn spread(all: &[Figures], case: char, name: &str) -> Option<Spread> {
    let rounds = all.iter().filter(|figures| figures.case == case);
    let mut values: Vec<f64> = rounds
        .filter_map(|figures| figures.values.get(name))
        .collect();
    values.sort_by(f64::total_cmp);
    Some(Spread {
        median: median(&values)?,
        least: *values.first()?,
        most: *values.last()?,
    })
}

/// The heading and a row for each case that has any of these.
fn table(all: &[Figures], columns: &[Column]) -> Vec<Vec<String>> {
    let headings = columns.iter().map(|(heading, _)| (*heading).to_owned());
    let mut rows = vec![[vec!["case".to_owned()], headings.collect()].concat()];
    let mut cases: Vec<char> = all.iter().map(|figures| figures.case).collect();
    cases.sort_unstable();
    cases.dedup();
    let (_, first) = columns[0];
    for case in cases {
        if spread(all, case, first).is_none() {
            continue;
        }
        let cell = |(_, name): &Column| spread(all, case, name).map_or("–".to_owned(), show);
        let cells = columns.iter().map(cell).collect();
        rows.push([vec![case.to_string()], cells].concat());
    }
    rows
}

fn show(spread: Spread) -> String {
    let Spread {
        median,
        least,
        most,
    } = spread;
    match least == most {
        true => number(median),
        false => format!("{} ({}–{})", number(median), number(least), number(most)),
    }
}

/// Three digits that mean something, or whole numbers in groups of three.
pub fn number(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        large if large >= 100.0 => 0,
        medium if medium >= 10.0 => 1,
        small if small >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    if decimals > 0 {
        return text;
    }
    let mut grouped = String::new();
    for (index, digit) in text.chars().enumerate() {
        if index > 0 && (text.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn align(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..rows[0].len()).map(|c| width(c).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells = cells.map(|(cell, width)| format!(" {cell:<width$} "));
        format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
    };
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let mut text = line(&rows[0]);
    text.push_str(&line(&rule));
    for row in &rows[1..] {
        text.push_str(&line(row));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::checks::Faults;
    use crate::bench::figures::Values;

    fn figures(case: char, round: u32, acked: f64) -> Figures {
        let mut values = Values::default();
        values.put("acked_per_s", acked);
        Figures {
            case,
            round,
            about: "",
            values,
            faults: Faults::default(),
        }
    }

    #[test]
    fn medians_and_ranges() {
        let all = [
            figures('f', 1, 1_234_567.0),
            figures('a', 1, 9.876),
            figures('f', 2, 100.4),
            figures('f', 3, 99.96),
        ];
        let text = render(&all);
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows.len(), 5, "{text}");
        assert!(rows[2].starts_with("| a    | 9.88 "), "{text}");
        assert!(
            rows[3].starts_with("| f    | 100 (100.0–1,234,567) | –"),
            "{text}"
        );
        let summary = summary(&all);
        assert_eq!(summary[&'f']["acked_per_s"].median, 100.4);
    }
}
