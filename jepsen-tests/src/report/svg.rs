//! Text as an SVG may hold it.

/// As XML's text and attributes need it; characters that XML cannot hold are replaced.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            '\n' | '\t' | '\r' => safe.push(' '),
            other if other.is_control() => safe.push('\u{fffd}'),
            '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_break_a_picture() {
        assert_eq!(escaped("a\u{0}\"\n"), "a\u{fffd}&quot; ");
        assert_eq!(escaped("<a & b>"), "&lt;a &amp; b&gt;");
    }
}
