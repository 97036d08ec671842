//! The scripts of the broker. Each file says its keys, its arguments and its answer.

use crate::script::{Lazy, Script};

macro_rules! scripts {
    ($($name:ident = $file:literal),+ $(,)?) => {
        $(
            pub(super) static $name: Lazy =
                Lazy::new(|| Script::new(concat!(include_str!("lua/shared.lua"), include_str!($file))));
        )+
    };
}

scripts! {
    BACK = "lua/back.lua",
    CANCEL = "lua/cancel.lua",
    CLAIM = "lua/claim.lua",
    DROP = "lua/drop.lua",
    FORGET = "lua/forget.lua",
    FOUND = "lua/found.lua",
    HEADS = "lua/heads.lua",
    INDEX = "lua/index.lua",
    JOIN = "lua/join.lua",
    LAST = "lua/last.lua",
    LEAVE = "lua/leave.lua",
    LETTERS = "lua/letters.lua",
    MEMBERS = "lua/members.lua",
    MINE = "lua/mine.lua",
    OF_ACTION = "lua/of_action.lua",
    PAGE = "lua/page.lua",
    PENDING = "lua/pending.lua",
    PUBLISH = "lua/publish.lua",
    RENEW = "lua/renew.lua",
    REPLAY = "lua/replay.lua",
    SET_ASIDE = "lua/set_aside.lua",
    SETTLE = "lua/settle.lua",
    SIGN = "lua/sign.lua",
    TAKE = "lua/take.lua",
    TAKEOVER = "lua/takeover.lua",
    TRIM = "lua/trim.lua",
    UNUSED = "lua/unused.lua",
}
