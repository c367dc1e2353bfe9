//! What is known of a prepared data directory: its channels, and how they were made.
//!
//! Kept beside the nodes' data, so that a million channels are made once and measured often:
//!
//! - `channels.txt`: an id per line, in the order of the channels' numbers;
//! - `prepared.json`: the rest. It is written after the ids that it counts, so a preparation that
//!   was cut off is taken up where `prepared.json` ends.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ChannelRef;

use super::BenchError;

const IDS: &str = "channels.txt";
const PREPARED: &str = "prepared.json";
const VERSION: u32 = 1;
/// An id and its line end.
const LINE_BYTES: u64 = 37;

/// `prepared.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    pub version: u32,
    pub nodes: u64,
    pub seed: u64,
    /// Ids; channel n belongs to server n modulo their number.
    pub servers: Vec<String>,
    pub stages: Vec<Stage>,
}

/// One preparation. A directory can be extended by further ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Channels that were there before, and after it.
    pub from: u64,
    pub to: u64,
    pub messages: u64,
    pub message_bytes: u64,
    pub create_seconds: f64,
    pub write_seconds: f64,
    /// Requests that had to be sent again.
    pub repeated: u64,
}

impl Stage {
    pub fn created_per_s(&self) -> f64 {
        rate(self.to - self.from, self.create_seconds)
    }

    pub fn written_per_s(&self) -> f64 {
        rate(self.messages, self.write_seconds)
    }
}

fn rate(count: u64, seconds: f64) -> f64 {
    match seconds > 0.0 {
        true => count as f64 / seconds,
        false => 0.0,
    }
}

/// A channel's id in a sixth of the memory of its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChannelId(u128);

impl FromStr for ChannelId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no id");
        let digits: String = text.split('-').collect();
        let number = u128::from_str_radix(&digits, 16).map_err(|_| bad())?;
        let id = Self(number);
        // Whatever the nodes write, it must come out again exactly as it was.
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        let (a, rest) = digits.split_at(8);
        let (b, rest) = rest.split_at(4);
        let (c, rest) = rest.split_at(4);
        let (d, e) = rest.split_at(4);
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}

/// All channels of a data directory.
#[derive(Debug)]
pub struct Catalogue {
    directory: PathBuf,
    pub prepared: Prepared,
    ids: Vec<ChannelId>,
}

impl Catalogue {
    /// Of a directory in which nothing was prepared yet.
    pub fn new(directory: &Path, nodes: u64, seed: u64) -> Self {
        Self {
            directory: directory.to_owned(),
            prepared: Prepared {
                version: VERSION,
                nodes,
                seed,
                servers: Vec::new(),
                stages: Vec::new(),
            },
            ids: Vec::new(),
        }
    }

    /// None if nothing was prepared there.
    pub fn load(directory: &Path) -> Result<Option<Self>, BenchError> {
        let file = directory.join(PREPARED);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(BenchError::io(&file, error)),
        };
        let unfit = |why: String| BenchError::Unfit(format!("{}: {why}", file.display()));
        let prepared: Prepared =
            serde_json::from_str(&text).map_err(|error| unfit(error.to_string()))?;
        if prepared.version != VERSION {
            return Err(unfit(format!("version {} is not known", prepared.version)));
        }
        let count = prepared.stages.last().map_or(0, |stage| stage.to);
        let ids = read_ids(&directory.join(IDS), count)?;
        Ok(Some(Self {
            directory: directory.to_owned(),
            prepared,
            ids,
        }))
    }

    pub fn count(&self) -> u64 {
        self.ids.len() as u64
    }

    /// The server to which channel `number` belongs, or will.
    pub fn server_of(&self, number: u64) -> &str {
        let servers = &self.prepared.servers;
        let place = number % servers.len() as u64;
        &servers[usize::try_from(place).unwrap_or(0)]
    }

    /// Channel `number`, which must be there.
    pub fn channel(&self, number: u64) -> ChannelRef {
        let place = usize::try_from(number).expect("the ids fit into memory");
        ChannelRef {
            server: self.server_of(number).to_owned(),
            channel: self.ids[place].to_string(),
        }
    }

    /// Adds channels behind those that are there, as part of the last stage, and writes them down.
    pub fn append(&mut self, ids: &[ChannelId]) -> Result<(), BenchError> {
        let file = self.directory.join(IDS);
        let before = self.count() * LINE_BYTES;
        append_ids(&file, before, ids).map_err(|error| BenchError::io(&file, error))?;
        self.ids.extend_from_slice(ids);
        let count = self.count();
        if let Some(stage) = self.prepared.stages.last_mut() {
            stage.to = count;
        }
        Ok(())
    }

    /// Writes `prepared.json`, all or nothing.
    pub fn save(&self) -> Result<(), BenchError> {
        let file = self.directory.join(PREPARED);
        let new = self.directory.join(format!("{PREPARED}.new"));
        let text = serde_json::to_string_pretty(&self.prepared).map_err(io::Error::from);
        let written = text.and_then(|text| fs::write(&new, text + "\n"));
        let named = written.and_then(|()| fs::rename(&new, &file));
        named.map_err(|error| BenchError::io(&file, error))
    }
}

/// Behind the first `before` bytes; what is beyond them was never counted.
fn append_ids(file: &Path, before: u64, ids: &[ChannelId]) -> io::Result<()> {
    let options = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(file);
    let mut file = options?;
    file.set_len(before)?;
    file.seek(SeekFrom::Start(before))?;
    let mut writer = BufWriter::new(file);
    for id in ids {
        writeln!(writer, "{id}")?;
    }
    writer.into_inner()?.sync_data()
}

fn read_ids(path: &Path, count: u64) -> Result<Vec<ChannelId>, BenchError> {
    let io = |error| BenchError::io(path, error);
    let lines = BufReader::new(File::open(path).map_err(io)?).lines();
    let mut ids = Vec::new();
    for line in lines.take(usize::try_from(count).unwrap_or(usize::MAX)) {
        let line = line.map_err(io)?;
        let id = line.parse();
        ids.push(id.map_err(|why| BenchError::Unfit(format!("{}: {why}", path.display())))?);
    }
    if ids.len() as u64 == count {
        return Ok(ids);
    }
    Err(BenchError::Unfit(format!(
        "{} holds {} ids where {count} were prepared",
        path.display(),
        ids.len()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stage(to: u64) -> Stage {
        Stage {
            from: 0,
            to,
            messages: 10 * to,
            message_bytes: 128,
            create_seconds: 2.0,
            write_seconds: 0.0,
            repeated: 0,
        }
    }

    fn catalogue(directory: &Path) -> Catalogue {
        let mut catalogue = Catalogue::new(directory, 3, 7);
        catalogue.prepared.servers = vec!["s0".to_owned(), "s1".to_owned()];
        catalogue.prepared.stages.push(stage(0));
        catalogue
    }

    proptest! {
        #[test]
        fn ids_come_out_as_they_went_in(number: u128) {
            let id = ChannelId(number);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let good = "0193e0a1-0000-7000-8000-0000000000ff";
        assert_eq!(good.parse::<ChannelId>().unwrap().to_string(), good);
        for bad in [
            "",
            "x",
            &good[1..],
            &good.to_uppercase(),
            &good.replace('-', ""),
        ] {
            assert!(bad.parse::<ChannelId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_preparation_that_was_cut_off_is_taken_up_where_it_was_written_down() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Catalogue::load(directory.path()).unwrap().is_none());
        let mut first = catalogue(directory.path());
        first
            .append(&[ChannelId(1), ChannelId(2), ChannelId(3)])
            .unwrap();
        first.save().unwrap();
        // These ids reach the disk, the word that they count does not.
        first.append(&[ChannelId(4), ChannelId(5)]).unwrap();

        let mut second = Catalogue::load(directory.path()).unwrap().unwrap();
        assert_eq!(second.count(), 3);
        second.append(&[ChannelId(6)]).unwrap();
        second.save().unwrap();

        let third = Catalogue::load(directory.path()).unwrap().unwrap();
        assert_eq!(third.ids, [1, 2, 3, 6].map(ChannelId));
        assert_eq!(third.channel(3).channel, ChannelId(6).to_string());
        assert_eq!(third.channel(3).server, "s1");
    }

    #[test]
    fn a_directory_that_lacks_ids_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut catalogue = catalogue(directory.path());
        catalogue.append(&[ChannelId(1)]).unwrap();
        catalogue.prepared.stages[0].to = 2;
        catalogue.save().unwrap();
        let error = Catalogue::load(directory.path()).unwrap_err().to_string();
        assert!(error.contains("holds 1 ids where 2 were"), "{error}");
    }

    #[test]
    fn rates_of_nothing_are_nothing() {
        assert!((stage(10).created_per_s() - 5.0).abs() < f64::EPSILON);
        assert!(stage(10).written_per_s().abs() < f64::EPSILON);
    }
}
