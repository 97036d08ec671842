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
    CANCEL = "lua/cancel.lua",
    CLAIM = "lua/claim.lua",
    FOUND = "lua/found.lua",
    JOIN = "lua/join.lua",
    LEAVE = "lua/leave.lua",
    MINE = "lua/mine.lua",
    PUBLISH = "lua/publish.lua",
    RENEW = "lua/renew.lua",
    SET_ASIDE = "lua/set_aside.lua",
    SETTLE = "lua/settle.lua",
    TAKE = "lua/take.lua",
    TAKEOVER = "lua/takeover.lua",
}
