//! Where engines run: a folder, and a guardian that ends them when this process dies.

use std::io::{self, PipeWriter, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{fs, mem};

/// What the guardian runs. It sleeps until its pipe closes, which the system does however this process dies; then it
/// kills what has its working folder in the place: so no id of a process can be another's by then. A signal that a
/// terminal sends to everybody must not end it before.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM TSTP
while read -r line; do [ "$line" = done ] && exit; done
for link in $(find /proc/[0-9]* -maxdepth 1 -name cwd -lname "$1*" 2>/dev/null); do
  process=${link#/proc/}
  kill -KILL "${process%/cwd}"
done
rm -rf -- "$1"
"#;

/// A folder for engines. Dropping it removes it; its engines are dropped before.
#[derive(Debug)]
pub struct Place {
    folder: PathBuf,
    guardian: Option<Guardian>,
}

#[derive(Debug)]
struct Guardian {
    child: Child,
    alive: PipeWriter,
}

impl Place {
    /// A place that is gone with this process, however it ends.
    ///
    /// # Errors
    /// Whatever keeps a folder or a shell from being made.
    pub fn new() -> io::Result<Self> {
        // As the system tells working folders.
        let folder = fs::canonicalize(tempfile::Builder::new().prefix("services-").tempdir()?.keep())?;
        let (reader, alive) = io::pipe()?;
        let child = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "services-guardian"])
            .arg(&folder)
            .current_dir("/")
            .process_group(0)
            .stdin(reader)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { folder, guardian: Some(Guardian { child, alive }) })
    }

    /// A place that outlives this process, as do its engines.
    ///
    /// # Errors
    /// Where no folder can be made.
    pub fn kept() -> io::Result<Self> {
        let folder = fs::canonicalize(tempfile::Builder::new().prefix("services-").tempdir()?.keep())?;
        Ok(Self { folder, guardian: None })
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A new folder in it.
    pub(crate) fn inner(&self, name: &str) -> io::Result<PathBuf> {
        let folder = self.folder.join(name);
        fs::create_dir(&folder)?;
        Ok(folder)
    }

    pub(crate) const fn is_kept(&self) -> bool {
        self.guardian.is_none()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(mut guardian) = mem::take(&mut self.guardian) else { return };
        // Where any of it fails, the guardian does the same once the pipe closes.
        if fs::remove_dir_all(&self.folder).is_ok() {
            let _ = guardian.alive.write_all(b"done\n");
        }
        drop(guardian.alive);
        let _ = guardian.child.wait();
    }
}
