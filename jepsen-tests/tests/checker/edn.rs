//! What is written as EDN is EDN, and says what the history says.

use std::collections::BTreeMap;

use accord_jepsen::history::edn::{Form, write};
use accord_jepsen::history::{Action, History, Range, Value};
use proptest::prelude::*;

use crate::simulated;
use crate::sketch::*;

/// As much of EDN as our files use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Edn {
    Nil,
    Number(u64),
    Keyword(String),
    Text(String),
    Vector(Vec<Edn>),
    Map(BTreeMap<Edn, Edn>),
}

struct Reader<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
}

impl Reader<'_> {
    fn line(line: &str) -> Edn {
        let mut reader = Reader {
            rest: line.chars().peekable(),
        };
        let value = reader.value();
        reader.space();
        assert_eq!(reader.rest.next(), None, "one value on a line: {line}");
        value
    }

    fn space(&mut self) {
        while self
            .rest
            .next_if(|one| one.is_whitespace() || *one == ',')
            .is_some()
        {}
    }

    fn value(&mut self) -> Edn {
        self.space();
        match self.rest.next().expect("a value") {
            '{' => {
                let flat = self.until('}');
                assert!(flat.len().is_multiple_of(2), "{flat:?}");
                let pairs = flat
                    .chunks(2)
                    .map(|pair| (pair[0].clone(), pair[1].clone()));
                Edn::Map(pairs.collect())
            }
            '[' => Edn::Vector(self.until(']')),
            '"' => self.text(),
            ':' => Edn::Keyword(self.word(String::new())),
            first => match self.word(first.to_string()).as_str() {
                "nil" => Edn::Nil,
                number => Edn::Number(number.parse().expect(number)),
            },
        }
    }

    fn until(&mut self, end: char) -> Vec<Edn> {
        let mut values = Vec::new();
        loop {
            self.space();
            if self.rest.next_if_eq(&end).is_some() {
                return values;
            }
            values.push(self.value());
        }
    }

    fn word(&mut self, mut word: String) -> String {
        let part = |one: &char| one.is_alphanumeric() || *one == '-';
        while let Some(one) = self.rest.next_if(part) {
            word.push(one);
        }
        word
    }

    fn text(&mut self) -> Edn {
        let mut text = String::new();
        loop {
            match self.rest.next().expect("the end of the string") {
                '"' => return Edn::Text(text),
                '\\' => text.push(match self.rest.next().expect("an escape") {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'u' => {
                        let digits: String = self.rest.by_ref().take(4).collect();
                        char::from_u32(u32::from_str_radix(&digits, 16).expect("four digits"))
                            .expect("a character")
                    }
                    one @ ('"' | '\\') => one,
                    other => panic!("not an escape: {other:?}"),
                }),
                one => text.push(one),
            }
        }
    }
}

fn events(history: &History, form: Form) -> Vec<BTreeMap<Edn, Edn>> {
    let mut bytes = Vec::new();
    write(history, form, &mut bytes).expect("a vector takes everything");
    let text = String::from_utf8(bytes).expect("EDN is UTF-8");
    let events = text
        .split_terminator('\n')
        .map(|line| match Reader::line(line) {
            Edn::Map(event) => event,
            other => panic!("not a map: {other:?}"),
        });
    events.collect()
}

fn key(name: &str) -> Edn {
    Edn::Keyword(name.to_owned())
}

fn number(event: &BTreeMap<Edn, Edn>, name: &str) -> u64 {
    match &event[&key(name)] {
        Edn::Number(number) => *number,
        other => panic!("{name} is {other:?}"),
    }
}

/// Indexes count from zero, times do not decrease, and each process takes turns.
fn in_jepsens_order(events: &[BTreeMap<Edn, Edn>]) {
    let mut open: BTreeMap<Edn, Edn> = BTreeMap::new();
    let mut latest = 0;
    for (index, event) in events.iter().enumerate() {
        assert_eq!(number(event, "index"), index as u64);
        let time = number(event, "time");
        assert!(latest <= time);
        latest = time;
        let process = event[&key("process")].clone();
        if process == key("nemesis") {
            continue;
        }
        let f = event[&key("f")].clone();
        if event[&key("type")] == key("invoke") {
            assert_eq!(open.insert(process, f), None, "two at once: {event:?}");
        } else {
            assert_eq!(open.remove(&process), Some(f), "no invocation: {event:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_history_is_written_in_order(seed in any::<u64>()) {
        let history = simulated::run(seed);
        let full = events(&history, Form::Jepsen);
        in_jepsens_order(&full);
        let returned = history.operations.iter().filter(|it| it.returned.is_some()).count();
        let ended = history.faults.iter().filter(|it| it.ended.is_some()).count();
        prop_assert_eq!(
            full.len(),
            history.operations.len() + returned + history.faults.len() + ended
        );
        let elle = events(&history, Form::Elle);
        in_jepsens_order(&elle);
        appends_are_unique(&elle);
    }

    #[test]
    fn any_text_survives(body in any::<String>()) {
        let mut history = holding(&[]);
        history.appended((1, 2), &message(1, &body));
        let appended = Edn::Vector(vec![Edn::Vector(vec![
            key("append"),
            Edn::Number(0),
            Edn::Text(body),
        ])]);
        for event in events(&history, Form::Jepsen) {
            prop_assert_eq!(&event[&key("value")], &appended);
        }
    }
}

/// Elle refuses to judge a history that appends one element twice.
fn appends_are_unique(events: &[BTreeMap<Edn, Edn>]) {
    let mut known = std::collections::BTreeSet::new();
    for event in events.iter().filter(|it| it[&key("type")] == key("invoke")) {
        let Edn::Vector(steps) = &event[&key("value")] else {
            panic!("not a transaction: {event:?}");
        };
        let [Edn::Vector(step)] = &steps[..] else {
            panic!("not one step: {event:?}");
        };
        if step[0] == key("append") {
            assert!(known.insert(step.clone()), "appended twice: {step:?}");
        }
    }
}

fn lines(history: &History, form: Form) -> Vec<String> {
    let mut bytes = Vec::new();
    write(history, form, &mut bytes).expect("a vector takes everything");
    String::from_utf8(bytes)
        .expect("EDN is UTF-8")
        .lines()
        .map(str::to_owned)
        .collect()
}

/// A keyed append that is tried twice, reads of all and of a part, and a fault.
fn mixed() -> History {
    let mut history = holding(&[m(1), m(2)]);
    history.append((10, 20), "m1", info());
    history.appended((30, 40), &m(1));
    for operation in &mut history.operations {
        if let Action::Append { key, .. } = &mut operation.action {
            *key = Some("k".to_owned());
        }
    }
    history.read((50, 60), true, &[m(1)]);
    history.append((70, 80), "no", fail(503));
    let part = Action::Read {
        channel: CHANNEL,
        linearizable: true,
        range: Range::After { seq: 1, limit: 9 },
    };
    let answer = Value::Read {
        messages: vec![m(2)],
        head: 2,
    };
    history.operation((90, 95), part, ok(answer));
    history.faults.push(fault("power_loss", 55, 65));
    history
}

#[test]
fn the_full_form_has_everything() {
    let expected = [
        r#"{:index 0, :type :invoke, :process 0, :f :append, :value [[:append 0 "m1"]], :time 10, :node 1}"#,
        r#"{:index 1, :type :info, :process 0, :f :append, :value "late", :time 20, :node 1}"#,
        r#"{:index 2, :type :invoke, :process 1, :f :append, :value [[:append 0 "m1"]], :time 30, :node 1}"#,
        r#"{:index 3, :type :ok, :process 1, :f :append, :value [[:append 0 "m1"]], :time 40, :node 1}"#,
        r#"{:index 4, :type :invoke, :process 2, :f :read, :value [[:r 0 nil]], :time 50, :node 1}"#,
        r#"{:index 5, :type :info, :process :nemesis, :f :start-power-loss, :value {:nodes [1], :detail ""}, :time 55}"#,
        r#"{:index 6, :type :ok, :process 2, :f :read, :value [[:r 0 ["m1"]]], :time 60, :node 1}"#,
        r#"{:index 7, :type :info, :process :nemesis, :f :stop-power-loss, :value {:nodes [1], :detail ""}, :time 65}"#,
        r#"{:index 8, :type :invoke, :process 3, :f :append, :value [[:append 0 "no"]], :time 70, :node 1}"#,
        r#"{:index 9, :type :fail, :process 3, :f :append, :value "refused", :time 80, :node 1}"#,
        r#"{:index 10, :type :invoke, :process 4, :f :read, :value {:channel 0, :range :after, :seq 1, :limit 9}, :time 90, :node 1}"#,
        r#"{:index 11, :type :ok, :process 4, :f :read, :value {:channel 0, :head 2, :messages [[2 "m2"]]}, :time 95, :node 1}"#,
    ];
    assert_eq!(lines(&mixed(), Form::Jepsen), expected);
}

#[test]
fn elles_form_has_one_append_for_all_attempts_and_whole_reads_only() {
    let expected = [
        r#"{:index 0, :type :invoke, :process 5, :f :txn, :value [[:append 0 "m1"]], :time 10, :node 1}"#,
        r#"{:index 1, :type :ok, :process 5, :f :txn, :value [[:append 0 "m1"]], :time 40, :node 1}"#,
        r#"{:index 2, :type :invoke, :process 2, :f :txn, :value [[:r 0 nil]], :time 50, :node 1}"#,
        r#"{:index 3, :type :info, :process :nemesis, :f :start-power-loss, :value {:nodes [1], :detail ""}, :time 55}"#,
        r#"{:index 4, :type :ok, :process 2, :f :txn, :value [[:r 0 ["m1"]]], :time 60, :node 1}"#,
        r#"{:index 5, :type :info, :process :nemesis, :f :stop-power-loss, :value {:nodes [1], :detail ""}, :time 65}"#,
        r#"{:index 6, :type :invoke, :process 3, :f :txn, :value [[:append 0 "no"]], :time 70, :node 1}"#,
        r#"{:index 7, :type :fail, :process 3, :f :txn, :value [[:append 0 "no"]], :time 80, :node 1}"#,
    ];
    assert_eq!(lines(&mixed(), Form::Elle), expected);
}
