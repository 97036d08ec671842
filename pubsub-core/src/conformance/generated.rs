//! A log that is the same each time, with all that makes searches differ.

use crate::{LineBatch, LineEnd, LineNumber, MAX_LINE_BYTES, Stream, Timestamp};

/// The bytes after which a batch ends.
const BATCH_BYTES: usize = 8 * 1024;

/// One line of so many is as long as a line can be, and goes on in the next one.
const LONGEST_EVERY: u64 = 4_999;

/// Lines of a build as it prints them: both streams, empty and blank lines, carriage returns, many scripts, bytes that are
/// no UTF-8, long lines, parts of longer ones, and one text that stands in one line alone. The same for the same number.
pub fn log(lines: u64) -> impl Iterator<Item = LineBatch> {
    let mut generator = Generator { rng: fastrand::Rng::with_seed(7), next: 1, lines };
    std::iter::from_fn(move || generator.batch())
}

struct Generator {
    rng: fastrand::Rng,
    next: u64,
    lines: u64,
}

impl Generator {
    fn batch(&mut self) -> Option<LineBatch> {
        let first = LineNumber::new(self.next).filter(|_| self.next <= self.lines)?;
        let stream = if self.rng.u8(0..5) == 0 { Stream::Stderr } else { Stream::Stdout };
        let wanted = self.rng.u64(1..=120);
        let (mut bytes, mut tail) = (Vec::new(), LineEnd::None);
        for _ in 0..wanted {
            if self.next > self.lines || bytes.len() >= BATCH_BYTES {
                break;
            }
            let number = self.next;
            if number.is_multiple_of(LONGEST_EVERY) {
                if bytes.is_empty() {
                    self.next += 1;
                    bytes = vec![b'x'; MAX_LINE_BYTES];
                    tail = LineEnd::Part;
                }
                break;
            }
            self.next += 1;
            self.line(number, &mut bytes);
            // The log ends without a line feed.
            if number == self.lines {
                bytes.extend_from_slice(b"the end");
                break;
            }
            if self.rng.u8(0..100) == 0 {
                bytes.extend_from_slice(b"the first half, ");
                tail = LineEnd::Part;
                break;
            }
            let end: &[u8] = if self.rng.u8(0..40) == 0 { b"\r\n" } else { b"\n" };
            bytes.extend_from_slice(end);
        }
        let micros = i64::try_from(self.next).unwrap_or(i64::MAX).saturating_mul(137);
        let time = Timestamp::from_micros(1_764_045_141_500_001_i64.saturating_add(micros));
        Some(LineBatch::split(first, time, stream, bytes.into(), tail).unwrap())
    }

    fn line(&mut self, number: u64, into: &mut Vec<u8>) {
        if number == self.lines / 3 {
            into.extend_from_slice(b"found: needle-7f3a, once");
            return;
        }
        let n = self.rng.u32(0..1_000);
        let text = match self.rng.u8(0..100) {
            0..=29 => {
                format!("{:02}:{:02}:{:02} worker-{} step {n} done in {n} ms", n % 24, n % 60, n % 59, n % 16)
            }
            30..=44 => format!("ERROR: code={n} at /srv/src/mod_{}.rs:{n}", n % 7),
            45..=49 => format!("warning: unused variable `a{n}` in a.b [{}]", n % 9),
            50..=54 => format!("java.lang.IllegalStateException: error {n}"),
            55..=59 => format!("Größe {n} µm, Straße {}, STRASSE", n % 9),
            60..=63 => format!("日本語のログ {n} 行目 🔥"),
            64..=67 => format!("ΣΊΣΥΦΟΣ {n} σίσυφος"),
            68..=70 => format!("İstanbul ıssız {n} K, {n} \u{212a}"),
            71..=77 => String::new(),
            78..=80 => " \t".repeat(1 + n as usize % 3),
            81..=82 => format!("progress {n}%\rprogress {}%", n + 1),
            83..=85 => "a".repeat(1 + n as usize % 60),
            86 => format!("{}{n}", "lorem ipsum ".repeat(20 + n as usize % 400)),
            87..=91 => return into.extend_from_slice(self.invalid(n).as_slice()),
            _ => format!("the second half of {n}"),
        };
        into.extend_from_slice(text.as_bytes());
    }

    fn invalid(&mut self, n: u32) -> Vec<u8> {
        let raw: &[u8] = match self.rng.u8(0..5) {
            0 => b"caf\xe9",
            1 => b"\xff\xfe",
            2 => b"cut \xe2\x82",
            3 => b"\xed\xa0\x80 surrogate ERROR",
            _ => b"nul\xc0\x80 ",
        };
        let mut line = raw.to_vec();
        if n.is_multiple_of(2) {
            line.extend_from_slice(format!(" {n}").as_bytes());
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::log;
    use crate::{Line, LineEnd, MAX_LINE_BYTES, Stream};

    #[test]
    fn a_log_has_its_lines_in_order_all_kinds_of_them_and_is_the_same_again() {
        let lines =
            |count| log(count).flat_map(|batch| batch.lines().collect::<Vec<_>>()).collect::<Vec<Line>>();
        let all = lines(20_000);
        assert!(all.iter().map(|line| line.number.get()).eq(1..=20_000));
        assert_eq!(all, lines(20_000));
        let count = |fits: fn(&Line) -> bool| all.iter().filter(|line| fits(line)).count();
        assert!(count(|line| line.bytes.is_empty()) > 500);
        assert!(count(Line::is_lossy) > 500);
        assert!(count(|line| line.end == LineEnd::Part) > 50);
        assert!(count(|line| line.end == LineEnd::CrLf) > 50);
        assert!(count(|line| line.stream == Stream::Stderr) > 1_000);
        assert_eq!(count(|line| line.bytes.len() == MAX_LINE_BYTES), 4);
        assert_eq!(count(|line| line.text().contains("needle-7f3a")), 1);
        assert_eq!(all.last().unwrap().end, LineEnd::None);
    }
}
