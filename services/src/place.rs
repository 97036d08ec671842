//! Where engines run: a folder, and a guardian that ends them when this process dies.

use std::fs;
use std::io::{self, PipeWriter, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    /// None once what runs here is to outlive this process.
    guardian: Mutex<Option<Guardian>>,
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
        Ok(Self { folder, guardian: Mutex::new(Some(Guardian { child, alive })) })
    }

    /// From now on the place outlives this process, as do its engines.
    pub fn keep(&self) {
        if let Some(guardian) = self.lock().take() {
            guardian.dismiss();
        }
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

    pub(crate) fn is_kept(&self) -> bool {
        self.lock().is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Guardian>> {
        self.guardian.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guardian {
    fn dismiss(mut self) {
        // Where it does not hear it, it is gone.
        let _ = self.alive.write_all(b"done\n");
        drop(self.alive);
        let _ = self.child.wait();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(guardian) = self.lock().take() else { return };
        if fs::remove_dir_all(&self.folder).is_ok() {
            return guardian.dismiss();
        }
        // It does what was left once its pipe closes.
        let Guardian { mut child, alive } = guardian;
        drop(alive);
        let _ = child.wait();
    }
}
