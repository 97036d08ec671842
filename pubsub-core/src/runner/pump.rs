//! Reads one pipe of a command and hands what it read to the run's output.

use std::os::fd::AsFd;

use bytes::BytesMut;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::activity::Activity;
use super::printed::Printed;
use super::start::Feed;
use crate::Stream;

/// A command that prints little gets little room.
const FIRST_READ: usize = 8 * 1024;
const MAX_READ: usize = 256 * 1024;

/// A command that prints much gets a large pipe, so that it waits for us less often.
#[cfg(target_os = "linux")]
const LARGE_PIPE: usize = 1024 * 1024;

/// How a pipe's reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nobody can write to it any more.
    Closed,
    /// Somebody still can.
    Held,
}

/// Reads until the end of the stream, or until [`Activity::end`]; then takes what is there.
pub(super) async fn pump(
    mut pipe: impl AsyncRead + AsFd + Unpin,
    stream: Stream,
    output: &impl Printed,
    activity: &Activity,
) -> Ended {
    let mut buffer = BytesMut::new();
    let mut want = FIRST_READ;
    let mut ending = std::pin::pin!(activity.ending());
    let ended = loop {
        if buffer.capacity() < want / 4 {
            buffer.reserve(want);
        }
        let room = buffer.capacity();
        let read = tokio::select! {
            biased;
            () = &mut ending => break drain(&pipe, stream, output, activity).await,
            read = pipe.read_buf(&mut buffer) => read,
        };
        // An error is the end as well: there is nothing more to be had from this pipe.
        let Ok(count @ 1..) = read else { break Ended::Closed };
        if count == room && want < MAX_READ {
            want *= 4;
            if want >= MAX_READ {
                want = MAX_READ;
                enlarge(&pipe);
            }
        } else if count < want / 16 {
            want = (want / 2).max(FIRST_READ);
        }
        hand_on(buffer.split(), stream, output, activity).await;
    };
    // An output that has ended already takes no end.
    let _ = output.end(stream).await;
    activity.close();
    ended
}

async fn hand_on(bytes: BytesMut, stream: Stream, output: &impl Printed, activity: &Activity) {
    let _waiting = activity.hand_on();
    // An output that has ended takes nothing more; the command is still read, so that it never hangs on its pipe.
    let _ = output.write(stream, bytes.freeze()).await;
}

/// Takes what lies in the pipe now and waits for nothing: whoever still writes to it is not ours.
async fn drain(pipe: &impl AsFd, stream: Stream, output: &impl Printed, activity: &Activity) -> Ended {
    let mut left = rustix::io::ioctl_fionread(pipe).map_or(0, |count| usize::try_from(count).unwrap_or(0));
    loop {
        // One byte more than nothing tells an ended pipe from an empty one.
        let mut buffer = BytesMut::zeroed(left.clamp(1, MAX_READ));
        match rustix::io::read(pipe, buffer.as_mut()) {
            Ok(0) => return Ended::Closed,
            Ok(count) => {
                buffer.truncate(count);
                hand_on(buffer, stream, output, activity).await;
                if left == 0 {
                    return Ended::Held;
                }
                left = left.saturating_sub(count);
            }
            Err(Errno::INTR) => {}
            Err(_) => return Ended::Held,
        }
    }
}

#[cfg(target_os = "linux")]
fn enlarge(pipe: &impl AsFd) {
    // Users have a quota of pipe memory. Over it, or where the limit is lower, the pipe stays as it is.
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, LARGE_PIPE);
}

#[cfg(not(target_os = "linux"))]
fn enlarge(_pipe: &impl AsFd) {}

/// Writes the rest of the payload to the command's input. A command that does not read it, or closes it, is free to.
pub(super) async fn feed(feed: Option<Feed>, activity: &Activity) {
    let Some(mut feed) = feed else { return };
    tokio::select! {
        biased;
        () = activity.ending() => {}
        _ = feed.stdin.write_all(feed.payload.as_str().as_bytes().get(feed.written..).unwrap_or_default()) => {}
    }
}
