//! Text that others printed, on a terminal of ours.

/// Longest colour sequence that is let through.
const MAX_COLOUR_BYTES: usize = 64;

/// Writes bytes so that a terminal shows them and obeys none of them but colours: what else would be a control
/// sequence is shown in caret notation, invalid bytes as U+FFFD. Tabs, line ends and carriage returns stay, so that
/// progress bars look as they should. Each piece is judged alone: a sequence that goes on in another is none.
pub(crate) fn neutralise(bytes: &[u8], into: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(bytes);
    let mut rest = text.as_ref();
    while let Some(c) = rest.chars().next() {
        if let Some(colour) = colour(rest) {
            into.extend_from_slice(colour.as_bytes());
            rest = rest.get(colour.len()..).unwrap_or_default();
            continue;
        }
        show(c, into);
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
}

fn show(c: char, into: &mut Vec<u8>) {
    match c {
        '\t' | '\n' | '\r' => into.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        '\0'..='\x1f' | '\x7f' => {
            let letter = u8::try_from(u32::from(c)).unwrap_or(0) ^ 0x40;
            into.extend_from_slice(&[b'^', letter]);
        }
        // The 8-bit forms of control sequences, and what turns the direction of text around.
        '\u{80}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            into.extend_from_slice(format!("<U+{:04X}>", u32::from(c)).as_bytes());
        }
        _ => into.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// The colour sequence ("Select Graphic Rendition", ECMA-48) that the text begins with.
fn colour(text: &str) -> Option<&str> {
    let parameters = text.strip_prefix("\x1b[")?;
    let length = parameters.bytes().take_while(|b| b.is_ascii_digit() || *b == b';' || *b == b':').count();
    let end = length + 3;
    (end <= MAX_COLOUR_BYTES && parameters.as_bytes().get(length) == Some(&b'm')).then(|| text.get(..end))?
}

#[cfg(test)]
mod tests {
    use super::neutralise;

    fn shown(bytes: &[u8]) -> String {
        let mut into = Vec::new();
        neutralise(bytes, &mut into);
        String::from_utf8(into).unwrap()
    }

    #[test]
    fn colours_pass_and_every_other_sequence_is_shown() {
        let table: [(&[u8], &str); 10] = [
            (b"\x1b[1;31mred\x1b[0m\n", "\x1b[1;31mred\x1b[0m\n"),
            (b"\x1b[38:5:1mred\x1b[m", "\x1b[38:5:1mred\x1b[m"),
            (b"\x1b[2J", "^[[2J"),
            (b"\x1b]0;title\x07", "^[]0;title^G"),
            (b"\x1b[6n", "^[[6n"),
            (b"\x1b[", "^[["),
            (b"a\x08b\x7f", "a^Hb^?"),
            ("\u{9b}2J".as_bytes(), "<U+009B>2J"),
            (b"\x9b2J", "\u{fffd}2J"),
            (b"10%\r20%\tok\r\n", "10%\r20%\tok\r\n"),
        ];
        for (bytes, text) in table {
            assert_eq!(shown(bytes), text);
        }
        let long = format!("\x1b[{}m", "1;".repeat(100));
        assert!(shown(long.as_bytes()).starts_with("^[["));
    }
}
