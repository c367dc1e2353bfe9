//! An extract: the few sentences of a stretch of messages that say most of what it is about.
//!
//! A word weighs as much as there are messages that hold it; words that every text is full of weigh
//! nothing. A sentence is worth the mean weight of its words, a little less the longer it is. The
//! best one is taken, its words are halved in weight so that the next one says something else, and
//! so on; one with the same words as another is never taken. What was taken is shown in the order in which it was said. Only whole numbers and ordered
//! maps, so that the same messages give the same extract on every machine.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::super::command;
use super::super::question::Line;

/// Most sentences of an extract.
const SENTENCES_MAX: usize = 5;
/// Most characters of a sentence that are shown.
const SENTENCE_CHARS_MAX: usize = 280;
/// Fewest words that make a sentence worth showing.
const WORDS_MIN: usize = 3;
/// Most names in the first line.
const NAMES_MAX: usize = 5;
/// A word in one message, so that halving leaves something.
const WEIGHT: u64 = 1_024;

/// Words that say nothing about what a text is about.
const STOP_WORDS: &[&str] = &[
    "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be",
    "because", "been", "but", "by", "can", "could", "did", "do", "does", "don", "for", "from",
    "get", "go", "had", "has", "have", "he", "her", "him", "his", "how", "i", "if", "in", "into",
    "is", "it", "its", "just", "let", "like", "me", "more", "my", "no", "not", "now", "of", "on",
    "one", "or", "our", "out", "s", "she", "so", "some", "t", "than", "that", "the", "their",
    "them", "then", "there", "they", "this", "to", "too", "up", "us", "was", "we", "were", "what",
    "when", "which", "who", "why", "will", "with", "would", "you", "your",
];

struct Sentence<'a> {
    username: &'a str,
    text: &'a str,
    words: BTreeSet<String>,
    words_count: usize,
}

/// The extract of these messages, oldest first.
pub fn of(lines: &[&Line]) -> String {
    // Commands and their answers are about the chat, not part of what was talked about.
    let told: Vec<&Line> = lines
        .iter()
        .copied()
        .filter(|line| line.agent.is_none() && command::spoken(&line.body).is_none())
        .collect();
    let weights = weigh(&told);
    let sentences: Vec<Sentence<'_>> = told.iter().flat_map(|line| sentences(line)).collect();
    let taken = take(&sentences, weights);
    if taken.is_empty() {
        return "There is nothing to summarize here yet.".to_owned();
    }
    let mut text = heading(&told);
    for index in taken {
        let sentence = &sentences[index];
        text.push_str("\n• ");
        text.push_str(&shortened(sentence.username));
        text.push_str(": ");
        text.push_str(&shortened(sentence.text));
    }
    text
}

fn heading(told: &[&Line]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for line in told {
        if !names.contains(&line.username.as_str()) {
            names.push(&line.username);
        }
    }
    let more = names.len().saturating_sub(NAMES_MAX);
    names.truncate(NAMES_MAX);
    // A name may hold line breaks, which would look like sentences of others.
    let names: Vec<String> = names.into_iter().map(shortened).collect();
    let mut by = names.join(", ");
    if more > 0 {
        by.push_str(&format!(" and {more} more"));
    }
    let plural = if told.len() == 1 { "" } else { "s" };
    format!("Summary of {} message{plural} by {by}:", told.len())
}

fn weigh(told: &[&Line]) -> BTreeMap<String, u64> {
    let mut weights = BTreeMap::new();
    for line in told {
        for word in words(&line.body).collect::<BTreeSet<_>>() {
            *weights.entry(word).or_insert(0) += WEIGHT;
        }
    }
    weights
}

/// Indices of the sentences to show, in order.
fn take(sentences: &[Sentence<'_>], mut weights: BTreeMap<String, u64>) -> BTreeSet<usize> {
    let mut taken: BTreeSet<usize> = BTreeSet::new();
    while taken.len() < SENTENCES_MAX {
        let candidates = sentences.iter().enumerate();
        let best = candidates
            .filter(|(_, sentence)| {
                let same = |other: &usize| sentences[*other].words == sentence.words;
                !taken.iter().any(same)
            })
            .map(|(index, sentence)| (worth(sentence, &weights), index))
            // Of equals the latest: it is more likely to still hold.
            .max();
        let Some((_, index)) = best.filter(|(worth, _)| *worth > 0) else {
            break;
        };
        taken.insert(index);
        for word in &sentences[index].words {
            if let Some(weight) = weights.get_mut(word) {
                *weight /= 2;
            }
        }
    }
    taken
}

fn worth(sentence: &Sentence<'_>, weights: &BTreeMap<String, u64>) -> u64 {
    if sentence.words_count < WORDS_MIN {
        return 0;
    }
    let weight = |word: &String| weights.get(word).copied().unwrap_or(0);
    let sum: u64 = sentence.words.iter().map(weight).sum();
    // Not the plain mean: of two sentences with words of equal weight the longer one says more.
    sum / (sentence.words_count as u64 + 6)
}

fn sentences(line: &Line) -> Vec<Sentence<'_>> {
    let mut found = Vec::new();
    let mut rest = line.body.as_str();
    while !rest.is_empty() {
        let (text, after) = rest.split_at(sentence_end(rest));
        rest = after;
        let text = text.trim();
        if !text.is_empty() {
            found.push(Sentence {
                username: &line.username,
                text,
                words: words(text).collect(),
                words_count: text.split_whitespace().count(),
            });
        }
    }
    found
}

/// Where the first sentence ends: at a line break, or behind a full stop, exclamation or question
/// mark that white space follows.
fn sentence_end(text: &str) -> usize {
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let end = at + character.len_utf8();
        let next = characters.peek().map(|(_, next)| *next);
        let stops = matches!(character, '.' | '!' | '?') && next.is_none_or(char::is_whitespace);
        if character == '\n' || stops {
            return end;
        }
    }
    text.len()
}

/// The words that count, in lower case.
fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric())
        .map(str::to_lowercase)
        .filter(|word| !word.is_empty() && STOP_WORDS.binary_search(&word.as_str()).is_err())
}

fn shortened(text: &str) -> String {
    let one_line: Vec<&str> = text.split_whitespace().collect();
    let one_line = one_line.join(" ");
    match one_line.char_indices().nth(SENTENCE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", one_line[..end].trim_end()),
        None => one_line,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::question::testing::line;
    use super::*;
    use proptest::prelude::*;

    fn extract(lines: &[Line]) -> String {
        of(&lines.iter().collect::<Vec<_>>())
    }

    #[test]
    fn stop_words_can_be_searched() {
        assert!(STOP_WORDS.is_sorted());
    }

    #[test]
    fn what_many_speak_of_is_in_it() {
        let lines = [
            line(
                1,
                "ann",
                "Hi all! The database migration failed last night.",
            ),
            line(2, "bea", "ok"),
            line(3, "cid", "Did the migration lose any rows in the database?"),
            line(4, "bea", "My cat slept on the keyboard again today."),
            line(
                5,
                "ann",
                "No rows lost, the migration rolled back. We retry the database on Monday.",
            ),
            line(6, "bea", "/roll 2d6"),
            line(7, "cid", "thanks"),
        ];
        let text = extract(&lines);
        assert!(
            text.starts_with("Summary of 6 messages by ann, bea, cid:\n"),
            "{text}"
        );
        let place = |part: &str| {
            text.find(part)
                .unwrap_or_else(|| panic!("no {part} in {text}"))
        };
        assert!(place("migration failed") < place("lose any rows"));
        assert!(place("lose any rows") < place("rolled back"));
        assert!(
            !text.contains("/roll") && !text.contains("thanks"),
            "{text}"
        );
    }

    #[test]
    fn one_who_repeats_himself_is_heard_once_or_twice() {
        let mut lines: Vec<Line> = (1..20)
            .map(|seq| line(seq, "bot", "Buy cheap gold coins now."))
            .collect();
        lines.push(line(
            20,
            "ann",
            "Please meet in the garden at seven o'clock.",
        ));
        let text = extract(&lines);
        assert!(text.contains("garden"), "{text}");
    }

    #[test]
    fn nothing_gives_no_summary() {
        for lines in [
            vec![],
            vec![line(1, "ann", "ok")],
            vec![line(1, "ann", "/help")],
        ] {
            assert_eq!(extract(&lines), "There is nothing to summarize here yet.");
        }
    }

    #[test]
    fn long_sentences_are_cut() {
        let text = extract(&[line(1, "ann", &"word and word ".repeat(100))]);
        assert!(text.ends_with('…') && text.len() < 400, "{text}");
    }

    proptest! {
        #[test]
        fn any_messages_give_a_bounded_text(
            bodies in prop::collection::vec(any::<String>(), 0..12),
        ) {
            let lines: Vec<Line> = bodies
                .iter()
                .enumerate()
                .map(|(seq, body)| line(seq as u64, "ann", body))
                .collect();
            let text = extract(&lines);
            prop_assert_eq!(&text, &extract(&lines));
            prop_assert!(text.lines().count() <= SENTENCES_MAX + 1);
            prop_assert!(text.chars().count() < (SENTENCES_MAX + 1) * (SENTENCE_CHARS_MAX + 100));
        }
    }
}
