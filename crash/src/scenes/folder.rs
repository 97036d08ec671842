//! A folder of another user, which can only be read.

use std::path::Path;

use super::Stage;

/// A user who owns nothing.
const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// Who may only read gets all answers, and a refusal that says so for all else; nothing is changed.
pub(super) fn read_only(program: &Path) {
    let stage = Stage::new(program);
    stage.ok(&["stream", "a", "s", "--", "echo", "hello"]);
    stage.ok(&["publish", "a", "t", "--id", "first"]);
    for (words, expected) in [
        (&["get-logs", "a", "s"][..], "hello\n"),
        (&["search", "a", "s", "h.l"], "1:hello\n"),
        (&["stream-logs", "a", "s"], "hello\n"),
    ] {
        let told = stage.below(&NOBODY, words);
        assert_eq!(
            (told.status.code(), &*told.stdout),
            (Some(0), expected.as_bytes()),
            "{words:?}: {told:?}"
        );
    }
    for words in [&["get-status", "a", "s"][..], &["list"], &["verify", "a", "s"], &["export", "a", "s"]] {
        let told = stage.below(&NOBODY, words);
        assert_eq!(told.status.code(), Some(0), "{words:?}: {told:?}");
    }
    for words in [
        &["--json", "publish", "a", "t", "--id", "second"][..],
        &["--json", "stream", "a", "s", "--", "echo", "more"],
        &["--json", "work", "--on", "t:*", "--stage", "t", "--until-idle", "--", "echo", "more"],
        &["--json", "remove", "a"],
        &["--json", "cancel", "a"],
    ] {
        let refused = stage.below(&NOBODY, words);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(4), "{words:?}: {refused:?}");
        assert!(said.contains("\"kind\":\"refused\""), "{words:?}: {said}");
    }
    // Whoever may write goes on as if nothing had been.
    assert_eq!(stage.documents(&["list", "--json"]).len(), 1);
    stage.ok(&["work", "--on", "t:*", "--stage", "t", "--until-idle", "--", "echo", "done"]);
    assert_eq!(stage.ok(&["get-logs", "a", "t"]), "done\n");
}
