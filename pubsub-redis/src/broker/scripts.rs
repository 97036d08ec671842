//! The scripts of the broker. Each file says its keys, its arguments and its answer.

use crate::script::{Lazy, Script};

macro_rules! scripts {
    ($head:literal; $($name:ident = $file:literal),+ $(,)?) => {
        $(
            pub(super) static $name: Lazy =
                Lazy::new(|| Script::new(concat!($head, include_str!("lua/shared.lua"), include_str!($file))));
        )+
    };
}

// Those that add events are refused where the server's memory is full, before they have written anything; the others here
// only read.
scripts! {
    "";
    BACK = "lua/back.lua",
    HEADS = "lua/heads.lua",
    LETTERS = "lua/letters.lua",
    MEMBERS = "lua/members.lua",
    OF_ACTION = "lua/of_action.lua",
    PAGE = "lua/page.lua",
    PENDING = "lua/pending.lua",
    PUBLISH = "lua/publish.lua",
    REACHED = "lua/reached.lua",
    REPLAY = "lua/replay.lua",
    UNUSED = "lua/unused.lua",
}

// What is there is worked off, settled and removed also while the memory is full, for nothing else makes room again
// ("Redis programmability", script flags).
scripts! {
    "#!lua flags=allow-oom\n";
    CANCEL = "lua/cancel.lua",
    CLAIM = "lua/claim.lua",
    DROP = "lua/drop.lua",
    FORGET = "lua/forget.lua",
    FOUND = "lua/found.lua",
    INDEX = "lua/index.lua",
    JOIN = "lua/join.lua",
    LEAVE = "lua/leave.lua",
    LOCK = "lua/lock.lua",
    MINE = "lua/mine.lua",
    RENEW = "lua/renew.lua",
    SET_ASIDE = "lua/set_aside.lua",
    SETTLE = "lua/settle.lua",
    SIGN = "lua/sign.lua",
    TAKE = "lua/take.lua",
    TAKEOVER = "lua/takeover.lua",
    TRIM = "lua/trim.lua",
}
