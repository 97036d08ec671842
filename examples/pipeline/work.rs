//! Taking events and running a command at each: `work`.

use pubsub_pipeline::Error;

use crate::args;
use crate::codes::Done;
use crate::places::Places;
use crate::screen::Screen;
use crate::signals::Signals;

pub(crate) async fn work(_: &Places, _: &mut Screen, _: &args::Work, _: Signals) -> Done {
    Err(Error::unsupported("work comes with the next version").into())
}
