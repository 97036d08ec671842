//! The file that a command writes its values for the next stage to.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use tempfile::NamedTempFile;

/// Most values of one run.
pub(super) const MAX_VALUES: usize = 64;

/// Most bytes of the file: the values travel in an event.
pub(super) const MAX_VALUES_BYTES: usize = 64 * 1024;

const MAX_KEY_BYTES: usize = 128;

/// `$PIPELINE_OUTPUT` of one run; dropping it removes the file.
#[derive(Debug)]
pub(super) struct ValuesFile(NamedTempFile);

/// What was read of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Values {
    pub(super) values: BTreeMap<String, String>,
    /// What is wrong with what was left out.
    pub(super) complaint: Option<String>,
}

impl ValuesFile {
    /// An empty file. Blocks.
    pub(super) fn create(folder: &Path) -> io::Result<Self> {
        // Opened here, so that an error keeps its number.
        let open =
            |path: &Path| OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        let create = || tempfile::Builder::new().prefix("output-").make_in(folder, open).map(Self);
        create().or_else(|e| {
            if e.kind() != io::ErrorKind::NotFound {
                return Err(e);
            }
            // What cleans the system's folder of old files has taken ours.
            DirBuilder::new().mode(0o700).create(folder)?;
            create()
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Reads what the command wrote.
    pub(super) async fn read(self) -> Values {
        // Most commands write none, which the open file tells without looking for its name.
        let untouched = |file: &std::fs::File| file.metadata().is_ok_and(|m| m.len() == 0 && m.nlink() > 0);
        if untouched(self.0.as_file()) {
            return Values::default();
        }
        let read = tokio::task::spawn_blocking(move || read(self.path())).await;
        match read.unwrap_or_else(|e| Err(e.into())) {
            Ok(bytes) => parse(&bytes),
            Err(e) => Values {
                values: BTreeMap::new(),
                complaint: Some(format!("$PIPELINE_OUTPUT could not be read: {e}")),
            },
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // The command may have put anything there: a link elsewhere, or a FIFO on which an open would wait for ever.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file any more"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_VALUES_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A line is `key=value`: the key of letters, digits, `_`, `-` and `.`, the value anything up to the line's end. The
/// last line of a key counts. A line that is none, and all after a bound is passed, is left out.
fn parse(bytes: &[u8]) -> Values {
    let mut values = BTreeMap::new();
    let mut wrong: Option<(usize, &str)> = None;
    let mut count = 0;
    let (bytes, too_long) = match bytes.get(..MAX_VALUES_BYTES) {
        // What stands after the last whole line within the bound is left out.
        Some(head) if head.len() < bytes.len() => {
            (head.get(..memchr::memrchr(b'\n', head).map_or(0, |at| at + 1)).unwrap_or_default(), true)
        }
        _ => (bytes, false),
    };
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let refused = match entry(line) {
            Ok(None) => continue,
            Ok(Some((key, value))) if values.len() < MAX_VALUES || values.contains_key(key) => {
                values.insert(key.to_owned(), value.to_owned());
                continue;
            }
            Ok(Some(_)) => "there are more than 64 keys",
            Err(why) => why,
        };
        count += 1;
        wrong.get_or_insert((index + 1, refused));
    }
    let complaint = match wrong {
        Some((line, why)) => Some(format!(
            "{count} line(s) of $PIPELINE_OUTPUT were left out, the first is line {line}: {why}"
        )),
        None => too_long.then(|| "$PIPELINE_OUTPUT has more than 64 KiB, the rest was left out".to_owned()),
    };
    Values { values, complaint }
}

fn entry(line: &[u8]) -> Result<Option<(&str, &str)>, &'static str> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8")?;
    let (key, value) = text.split_once('=').ok_or("it has no =")?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if key.is_empty() || key.len() > MAX_KEY_BYTES || !key.bytes().all(fits) {
        return Err("its key is not 1 to 128 letters, digits, _, - or .");
    }
    Ok(Some((key, value)))
}

#[cfg(test)]
mod tests {
    use super::{MAX_VALUES, MAX_VALUES_BYTES, Values, ValuesFile, parse};

    fn pairs(values: &Values) -> Vec<(&str, &str)> {
        values.values.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    #[test]
    fn lines_are_keys_and_values_and_the_last_one_of_a_key_counts() {
        let values = parse(b"image=a:1\nempty=\n\nurl=http://x/?a=b \r\nimage=a:2");
        assert_eq!(pairs(&values), [("empty", ""), ("image", "a:2"), ("url", "http://x/?a=b ")]);
        assert_eq!(values.complaint, None);
    }

    #[test]
    fn bad_lines_are_left_out_and_told_once() {
        let values = parse(b"good=1\nno key\n=x\na b=c\nlatin=\xe9\nlast=2\n");
        assert_eq!(pairs(&values), [("good", "1"), ("last", "2")]);
        let complaint = values.complaint.unwrap();
        assert!(
            complaint.starts_with("4 line(s)") && complaint.ends_with("line 2: it has no ="),
            "{complaint}"
        );
    }

    #[test]
    fn number_and_size_are_bounded() {
        let many: String = (0..MAX_VALUES + 5).map(|n| format!("k{n}=v\n")).collect();
        let values = parse(many.as_bytes());
        assert_eq!(values.values.len(), MAX_VALUES);
        assert!(values.complaint.unwrap().contains("5 line(s)"));

        let long = format!("first=1\nlong={}\nlast=2\n", "x".repeat(MAX_VALUES_BYTES));
        let values = parse(long.as_bytes());
        assert_eq!(pairs(&values), [("first", "1")]);
        assert!(values.complaint.unwrap().contains("64 KiB"));
    }

    #[tokio::test]
    async fn what_is_no_file_any_more_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let file = ValuesFile::create(folder.path()).unwrap();
        std::fs::remove_file(file.path()).unwrap();
        let made = std::process::Command::new("mkfifo").arg(file.path()).status().unwrap();
        assert!(made.success());
        let values = file.read().await;
        assert!(values.complaint.unwrap().contains("no file"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_was_cleaned_away_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::remove_dir(folder.path()).unwrap();
        let file = ValuesFile::create(folder.path()).unwrap();
        assert!(file.path().exists());
    }

    #[tokio::test]
    async fn a_file_that_was_replaced_is_read_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = ValuesFile::create(folder.path()).unwrap();
        let other = folder.path().join("other");
        std::fs::write(&other, "k=v\n").unwrap();
        std::fs::rename(&other, file.path()).unwrap();
        assert_eq!(pairs(&file.read().await), [("k", "v")]);
    }
}
