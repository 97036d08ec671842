//! Which node of a cluster a command goes to.

use redis::{Arg, Cmd, Pipeline};

/// How many slots a cluster has ("Redis cluster specification").
pub(crate) const SLOTS: u16 = 16_384;

/// Where a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goes {
    /// It has no key: any node answers it.
    Anywhere,
    /// To every master, as scripts that are loaded.
    Everywhere,
    /// To the node that serves this slot.
    To(u16),
}

/// By the first key of the command. Of commands that have no key, or have it elsewhere than in the first place, those are
/// known that this crate uses.
pub(crate) fn goes(command: &Cmd) -> Goes {
    let mut words = command.args_iter().filter_map(|arg| match arg {
        Arg::Simple(word) => Some(word),
        _ => None,
    });
    let name = words.next().unwrap_or_default().to_ascii_uppercase();
    let key = match name.as_slice() {
        b"SCRIPT" | b"FLUSHALL" => return Goes::Everywhere,
        b"PING" | b"ECHO" | b"INFO" | b"TIME" | b"CONFIG" | b"CLIENT" | b"CLUSTER" | b"PUBLISH" | b"ROLE"
        | b"WAIT" | b"DBSIZE" | b"ACL" | b"PUBSUB" | b"COMMAND" => None,
        b"EVAL" | b"EVALSHA" | b"EVAL_RO" | b"EVALSHA_RO" => {
            let has_keys = words.nth(1).is_some_and(|count| count != b"0");
            words.next().filter(|_| has_keys)
        }
        b"XREAD" | b"XREADGROUP" => {
            words.find(|word| word.eq_ignore_ascii_case(b"STREAMS"));
            words.next()
        }
        b"XINFO" | b"XGROUP" | b"OBJECT" | b"MEMORY" => words.nth(1),
        _ => words.next(),
    };
    key.map_or(Goes::Anywhere, |key| Goes::To(slot(key)))
}

/// The slots of the commands; one without a key, as WAIT, goes where the one before it went.
pub(crate) fn slots(pipeline: &Pipeline) -> Vec<Option<u16>> {
    let own = pipeline.cmd_iter().map(|command| match goes(command) {
        Goes::To(slot) => Some(slot),
        Goes::Anywhere | Goes::Everywhere => None,
    });
    let mut slots: Vec<Option<u16>> = own.collect();
    let mut before = slots.iter().flatten().next().copied();
    for slot in &mut slots {
        before = slot.or(before);
        *slot = before;
    }
    slots
}

/// Whether the command waits until replicas have what was written before it.
pub(crate) fn waits_for_replicas(command: &Cmd) -> bool {
    let name = command.args_iter().next();
    matches!(name, Some(Arg::Simple(name)) if name.eq_ignore_ascii_case(b"WAIT"))
}

/// The slot of a key: CRC16 of its hash tag, or of all of it where it has none.
pub(crate) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let inner = key.get(open + 1..)?;
        let close = inner.iter().position(|byte| *byte == b'}').filter(|close| *close > 0)?;
        inner.get(..close)
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC16 of XMODEM: a polynomial of 0x1021, from zero ("Redis cluster specification", appendix A).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        for (key, expected) in
            [("foo", 12182), ("{foo}bar", 12182), ("x{foo}{bar}", 12182), ("bar", 5061), ("", 0)]
        {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        for whole in ["{}foo", "foo{", "foo}{"] {
            assert_eq!(slot(whole.as_bytes()), crc16(whole.as_bytes()) % SLOTS, "{whole} has no tag");
        }
    }

    #[test]
    fn a_command_goes_where_its_first_key_is() {
        for (words, expected) in [
            ("GET foo", Goes::To(12182)),
            ("xadd foo * a b", Goes::To(12182)),
            ("EVALSHA abc 2 foo {foo}x bar", Goes::To(12182)),
            ("EVAL abc 0 foo", Goes::Anywhere),
            ("XREADGROUP GROUP streams-1 c COUNT 1 STREAMS foo >", Goes::To(12182)),
            ("XREAD COUNT 1 streams foo 0", Goes::To(12182)),
            ("XINFO GROUPS foo", Goes::To(12182)),
            ("XGROUP CREATE foo g 0", Goes::To(12182)),
            ("MEMORY USAGE foo", Goes::To(12182)),
            ("PUBLISH foo x", Goes::Anywhere),
            ("PING", Goes::Anywhere),
            ("SCRIPT LOAD return", Goes::Everywhere),
        ] {
            let mut command = Cmd::new();
            command.arg(words.split(' ').collect::<Vec<_>>());
            assert_eq!(goes(&command), expected, "{words}");
        }
    }
}
