//! What one round of a case gave, as named numbers: for JSON as they are, for the tables over all
//! rounds.

use serde::Serialize;
use serde::Serializer;
use serde::ser::SerializeMap as _;

use super::checks::Faults;
use super::histogram::Histogram;
use super::load::Outcome;

const MIB: f64 = 1_048_576.0;
const MICROS: f64 = 1e6;

#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub case: char,
    /// From 1.
    pub round: u32,
    pub about: &'static str,
    #[serde(flatten)]
    pub values: Values,
    pub faults: Faults,
}

/// Numbers by name, in the order in which they were put in. One that cannot be told is left out.
#[derive(Clone, Debug, Default)]
pub struct Values(Vec<(&'static str, f64)>);

impl Values {
    pub fn put(&mut self, name: &'static str, value: impl Into<Option<f64>>) {
        if let Some(value) = value.into() {
            self.0.push((name, value));
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(name, _)| *name)
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        let mut values = self.0.iter();
        values
            .find(|(known, _)| *known == name)
            .map(|(_, value)| *value)
    }
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, &rounded(*value))?;
        }
        map.end()
    }
}

/// To six digits: what is behind them was not measured.
pub fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// The figures of a load, all crews together, which most have one of.
pub fn of_load(outcome: &Outcome, seconds: f64, has_pids: bool) -> Values {
    let crews = &outcome.tally.crews;
    let sum =
        |count: fn(&super::tally::CrewTally) -> u64| crews.iter().map(count).sum::<u64>() as f64;
    let (acks, deliveries) = (sum(|crew| crew.acks), sum(|crew| crew.deliveries));
    let (mut ack, mut same, mut other) = <(Histogram, Histogram, Histogram)>::default();
    for crew in crews {
        ack.add(&crew.ack);
        same.add(&crew.same_node);
        other.add(&crew.other_node);
    }
    let mut values = Values::default();
    values.put("acked_per_s", acks / seconds);
    values.put("deliveries_per_s", deliveries / seconds);
    put_latency(&mut values, ACK, &ack);
    let mut delivery = same.clone();
    delivery.add(&other);
    put_latency(&mut values, DELIVERY, &delivery);
    put_latency(&mut values, SAME_NODE, &same);
    put_latency(&mut values, OTHER_NODE, &other);
    let (least, most) = outcome.sender_acks[0];
    values.put("sender_acks_least", least as f64);
    values.put("sender_acks_most", most as f64);
    let per = |seconds: f64, count: f64| (count > 0.0).then(|| seconds * MICROS / count);
    if has_pids {
        let cpu = outcome.server.cpu_seconds;
        values.put("server_cores", cpu / seconds);
        values.put("server_us_per_ack", per(cpu, acks));
        values.put("server_us_per_delivery", per(cpu, deliveries));
        values.put("server_mib", outcome.server.resident_bytes as f64 / MIB);
    }
    values.put("client_cores", outcome.client.cpu_seconds / seconds);
    values.put("client_us_per_ack", per(outcome.client.cpu_seconds, acks));
    values
}

/// The quiet crew's figures of two loads, without and with the loud one.
pub fn of_beside(alone: &Outcome, beside: &Outcome, seconds: f64, has_pids: bool) -> Values {
    let mut values = Values::default();
    let (quiet, disturbed) = (&alone.tally.crews[0], &beside.tally.crews[0]);
    put_latency(&mut values, QUIET_ALONE, &quiet.ack);
    put_latency(&mut values, QUIET_BESIDE, &disturbed.ack);
    let p99 = |histogram: &Histogram| histogram.quantile_ms(0.99);
    let ratio = p99(&disturbed.ack).zip(p99(&quiet.ack));
    values.put(
        "quiet_p99_ratio",
        ratio.map(|(beside, alone)| beside / alone),
    );
    let loud = &beside.tally.crews[1];
    values.put("loud_acked_per_s", loud.acks as f64 / seconds);
    put_latency(&mut values, LOUD, &loud.ack);
    if has_pids {
        values.put("server_cores", beside.server.cpu_seconds / seconds);
        values.put("server_mib", beside.server.resident_bytes as f64 / MIB);
    }
    values.put("client_cores", beside.client.cpu_seconds / seconds);
    values
}

/// From each kill to the next acknowledgement, and the latencies of all messages around it. Of several
/// channels most go on as if nothing had happened, so the next acknowledgement says nothing.
pub fn of_kills(outcomes: &[Outcome], one_channel: bool) -> Values {
    let mut waits: Vec<f64> = outcomes.iter().filter_map(|o| o.kill_to_ack_ms).collect();
    waits.sort_by(f64::total_cmp);
    let (mut ack, mut delivery) = <(Histogram, Histogram)>::default();
    for outcome in outcomes {
        let crew = &outcome.tally.crews[0];
        ack.add(&crew.ack);
        delivery.add(&crew.same_node);
        delivery.add(&crew.other_node);
    }
    let mut values = Values::default();
    values.put("kills", outcomes.len() as f64);
    if one_channel {
        values.put("kill_to_ack_ms_least", waits.first().copied());
        values.put("kill_to_ack_ms_median", median(&waits));
        values.put("kill_to_ack_ms_most", waits.last().copied());
    }
    put_latency(&mut values, ACK, &ack);
    put_latency(&mut values, DELIVERY, &delivery);
    values
}

/// Of sorted values.
pub fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(match sorted.len() % 2 {
        1 => upper,
        _ => (sorted[middle - 1] + upper) / 2.0,
    })
}

/// Names of the quantiles and the maximum of one kind of latency.
type Names = [&'static str; 4];

macro_rules! names {
    ($kind:literal) => {
        [
            concat!($kind, "_p50_ms"),
            concat!($kind, "_p99_ms"),
            concat!($kind, "_p99_9_ms"),
            concat!($kind, "_max_ms"),
        ]
    };
}

const ACK: Names = names!("ack");
const DELIVERY: Names = names!("delivery");
const SAME_NODE: Names = names!("delivery_same_node");
const OTHER_NODE: Names = names!("delivery_other_node");
const QUIET_ALONE: Names = names!("quiet_alone_ack");
const QUIET_BESIDE: Names = names!("quiet_beside_ack");
const LOUD: Names = names!("loud_ack");

fn put_latency(values: &mut Values, [p50, p99, p99_9, max]: Names, histogram: &Histogram) {
    values.put(p50, histogram.quantile_ms(0.5));
    values.put(p99, histogram.quantile_ms(0.99));
    values.put(p99_9, histogram.quantile_ms(0.999));
    values.put(max, histogram.max_ms());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_one_level_and_the_faults() {
        let mut values = Values::default();
        values.put("acked_per_s", 12_345.678_9);
        values.put("ack_p50_ms", None);
        let figures = Figures {
            case: 'a',
            round: 2,
            about: "x",
            values,
            faults: Faults::default(),
        };
        let json = serde_json::to_value(&figures).unwrap();
        assert_eq!(json["acked_per_s"], 12_345.7);
        assert_eq!(json["case"], "a");
        assert_eq!(json["faults"]["gaps"], 0);
        assert!(json.get("ack_p50_ms").is_none());
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
    }
}
