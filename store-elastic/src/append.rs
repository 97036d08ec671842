//! Appends lines: requests of bounded size, a few at once, each of whose items is judged by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use pubsub_core::{Appended, Error, ErrorKind, Gap, LineBatch, LineNumber, LineRange, Result, RunKey};
use tokio::task::JoinSet;

use crate::bulk::{Bulk, Fate, Packer};
use crate::connect::Request;
use crate::error::was_cut;
use crate::line::{Encoder, MOST_NUMBER};
use crate::list::not_found;
use crate::store::Inner;

const DOING: &str = "append lines";

/// Smallest bound that a request is cut down to where the server takes no larger ones.
const LEAST_BYTES: usize = 64 << 10;

/// How many requests of one append are under way at once: a server writes what one brings into a shard on one core.
const AT_ONCE: usize = 2;

/// What is not cut in two for that.
const ALONE_BYTES: usize = 256 << 10;

/// In how many steps it grows from nothing to what the configuration says.
const STEPS: usize = 64;

/// Items of one request.
struct Body {
    batches: Vec<LineBatch>,
    /// Their lines, one item for each, in their order.
    lines: Vec<LineNumber>,
    /// Compressed.
    bytes: Bytes,
    /// Before compression.
    size: usize,
}

/// Which of the lines are still to be written, in growing order; the next ones last.
type Left = Vec<Vec<LineBatch>>;

impl Inner {
    pub(crate) async fn append(self: &Arc<Self>, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        let stored = self.stored(DOING, &run.run_id).await?.ok_or_else(|| not_found(DOING, &run.run_id))?;
        let encoder = Arc::new(Encoder::new(run, &stored.made));
        let mut appended = Appended::all();
        let mut left: Left = vec![within(batches, &mut appended)];
        let share = share(encoder.estimate(batches), self.config.bulk_bytes());
        let (mut posts, mut failure, mut is_begun) = (JoinSet::new(), None, false);
        loop {
            while failure.is_none()
                && posts.len() < self.at_once()
                && let Some(batches) = left.pop()
            {
                if batches.is_empty() {
                    continue;
                }
                let (body, rest) = self.encode(&encoder, batches, share).await?;
                if !rest.is_empty() {
                    left.push(rest);
                }
                let (inner, index) = (Arc::clone(self), stored.index.clone());
                posts.spawn(async move { (inner.post(&index, &body).await, body) });
            }
            let Some(post) = posts.join_next().await else { break };
            let (answer, body) =
                post.map_err(|e| Error::new(ErrorKind::Internal, "a request panicked").with_source(e))?;
            match answer {
                Ok(bulk) if bulk.len() == body.lines.len() => settle(&body, &bulk, &mut appended)?,
                Ok(_) => {
                    let told = "the server answered for other lines than it got";
                    return Err(Error::new(ErrorKind::Internal, told));
                }
                Err(error) if error.kind() == ErrorKind::TooLarge => {
                    self.shrink(body.size);
                    match halves(&body.batches, &body.lines) {
                        Some((front, back)) => left.extend([back, front]),
                        None => refuse(&body.batches, &body.lines, &error.chain(), &mut appended),
                    }
                }
                Err(error) => {
                    // A server that takes no request of this size may cut the connection in place of saying so.
                    if was_cut(&error) {
                        self.shrink(body.size);
                    }
                    left.push(body.batches);
                    failure.get_or_insert(error);
                    continue;
                }
            }
            is_begun = true;
        }
        match failure {
            Some(error) if !is_begun || !error.is_retryable() => Err(error),
            // What was done need not be done again.
            _ => Ok(with_again(appended, &left)),
        }
    }

    /// How many requests of one append may be under way at once; one while the server fails.
    fn at_once(&self) -> usize {
        if self.is_failing.load(Ordering::Relaxed) { 1 } else { AT_ONCE }
    }

    /// As many of the lines as one request takes, and the rest. Compressing takes a while, and others use this thread.
    async fn encode(
        &self,
        encoder: &Arc<Encoder>,
        batches: Vec<LineBatch>,
        share: usize,
    ) -> Result<(Body, Vec<LineBatch>)> {
        let (encoder, most) = (Arc::clone(encoder), self.most_bytes.load(Ordering::Relaxed).min(share));
        let encoding = tokio::task::spawn_blocking(move || encode(&encoder, &batches, most));
        encoding
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, "writing lines panicked").with_source(e))?
    }

    async fn post(&self, index: &str, body: &Body) -> Result<Bulk> {
        let answer = self.posted(index, body).await;
        self.is_failing.store(answer.is_err(), Ordering::Relaxed);
        answer
    }

    async fn posted(&self, index: &str, body: &Body) -> Result<Bulk> {
        let post = Request::post(format!("{index}/_bulk"))
            .with("filter_path", "errors,items.*.status,items.*.error")
            .lines(body.bytes.clone());
        // Never closed.
        let permit = self.requests.acquire().await;
        let answer = self.link.send(DOING, post).await?;
        drop(permit);
        if answer.is_success() {
            self.grow(body.size);
            return answer.read(DOING);
        }
        Err(answer.complaint().failed(DOING))
    }

    /// Makes requests smaller than one that was not taken.
    fn shrink(&self, size: usize) {
        self.most_bytes.fetch_min((size / 2).max(LEAST_BYTES), Ordering::Relaxed);
    }

    /// Makes them larger again, by small steps: a step too far costs a request.
    fn grow(&self, size: usize) {
        let (most, bound) = (self.most_bytes.load(Ordering::Relaxed), self.config.bulk_bytes());
        if most < bound && size >= most / 2 {
            self.most_bytes.store((most + bound / STEPS).min(bound), Ordering::Relaxed);
        }
    }
}

/// How large a request is so that those of an append of about this size are alike, and as many as are under way at once, or
/// a multiple of that; what is small is one.
fn share(estimate: usize, most: usize) -> usize {
    if estimate <= ALONE_BYTES {
        return most;
    }
    let requests = estimate.div_ceil(most).next_multiple_of(AT_ONCE);
    // More than the estimate may be short of, or a few lines would be left for one more request.
    estimate / requests + estimate / requests / 32
}

fn encode(encoder: &Encoder, batches: &[LineBatch], most: usize) -> Result<(Body, Vec<LineBatch>)> {
    let (mut packer, mut size) = (Packer::new(), 0);
    let (mut items, mut ends) = (Vec::new(), Vec::new());
    let (mut taken, mut rest) = (Vec::new(), Vec::new());
    let mut waiting = batches.iter();
    for batch in waiting.by_ref() {
        items.clear();
        ends.clear();
        let added = encoder.add(batch, &mut items, &mut ends);
        added.map_err(|e| Error::new(ErrorKind::Internal, "write lines as JSON").with_source(e))?;
        // At least one, or nothing would ever be written.
        let least = usize::from(size == 0);
        let fits = ends.partition_point(|end| *end <= most.saturating_sub(size)).max(least);
        let end = fits.checked_sub(1).and_then(|last| ends.get(last)).copied().unwrap_or_default();
        packer.add(items.get(..end).unwrap_or_default())?;
        size += end;
        if fits >= ends.len() {
            taken.push(batch.clone());
            continue;
        }
        let next = batch.first().plus(fits as u64);
        let front = LineNumber::new(next.before()).filter(|_| fits > 0);
        taken.extend(front.and_then(|last| batch.slice(LineRange::new(batch.first(), last))));
        rest.extend(batch.slice(LineRange::new(next, LineNumber::MAX)));
        break;
    }
    rest.extend(waiting.cloned());
    let numbers =
        |batch: &LineBatch| (0..batch.len() as u64).map(|at| batch.first().plus(at)).collect::<Vec<_>>();
    let lines = taken.iter().flat_map(numbers).collect();
    Ok((Body { batches: taken, lines, size, bytes: packer.finish()? }, rest))
}

/// All that is known of an append, in the order of the lines; these are to come again.
fn with_again(mut appended: Appended, left: &Left) -> Appended {
    appended.again.extend(left.iter().flatten().map(LineBatch::range));
    appended.again.sort_unstable_by_key(|range| range.first);
    appended.refused.sort_by_key(|gap| gap.range.first);
    appended
}

/// Those lines whose numbers the server can keep; the others are refused.
fn within(batches: &[LineBatch], appended: &mut Appended) -> Vec<LineBatch> {
    let Some(most) = LineNumber::new(MOST_NUMBER) else { return batches.to_vec() };
    if batches.iter().all(|batch| batch.last() <= most) {
        return batches.to_vec();
    }
    let above = LineRange::new(most.plus(1), LineNumber::MAX);
    let refused = batches.iter().filter_map(|batch| batch.slice(above));
    appended.refused.extend(refused.map(|lines| lines.gap(format!("this store has numbers up to {most}"))));
    batches.iter().filter_map(|batch| batch.slice(LineRange::new(LineNumber::FIRST, most))).collect()
}

/// Enters what became of the items.
fn settle(body: &Body, bulk: &Bulk, appended: &mut Appended) -> Result<()> {
    let mut named: Vec<(LineRange, Option<String>)> = Vec::new();
    for (number, fate) in body.lines.iter().zip(bulk.fates()) {
        let reason = match fate {
            Fate::Done => continue,
            Fate::Shut(complaint) => return Err(complaint.failed(DOING)),
            Fate::Again(_) => None,
            Fate::Refused(complaint) => Some(complaint.text()),
        };
        match named.last_mut() {
            Some((range, why)) if range.last.plus(1) == *number && *why == reason => range.last = *number,
            _ => named.push((LineRange::new(*number, *number), reason)),
        }
    }
    for (range, reason) in named {
        match reason {
            None => appended.again.push(range),
            Some(reason) => appended.refused.extend(gaps(&body.batches, range, &reason)),
        }
    }
    Ok(())
}

fn refuse(batches: &[LineBatch], lines: &[LineNumber], reason: &str, appended: &mut Appended) {
    let ranges = lines.iter().map(|number| LineRange::new(*number, *number));
    appended.refused.extend(ranges.flat_map(|range| gaps(batches, range, reason)));
}

/// The lines of a range, as gaps.
fn gaps(batches: &[LineBatch], range: LineRange, reason: &str) -> Vec<Gap> {
    batches.iter().filter_map(|batch| batch.slice(range)).map(|lines| lines.gap(reason)).collect()
}

/// The lines of a request that was too large, in two parts; `None` where it was one line.
fn halves(batches: &[LineBatch], lines: &[LineNumber]) -> Option<(Vec<LineBatch>, Vec<LineBatch>)> {
    let (front, back) = lines.split_at_checked(lines.len() / 2).filter(|(front, _)| !front.is_empty())?;
    let part = |lines: &[LineNumber]| {
        let range = LineRange::new(*lines.first()?, *lines.last()?);
        Some(batches.iter().filter_map(|batch| batch.slice(range)).collect::<Vec<_>>())
    };
    part(front).zip(part(back))
}

#[cfg(test)]
mod tests {
    use pubsub_core::conformance::store::{SampleRun, lines};
    use pubsub_core::{LineBatch, LineRange};

    use super::{Encoder, encode, halves, share};

    fn numbers(batches: &[LineBatch]) -> Vec<u64> {
        batches.iter().flat_map(|batch| batch.first().get()..=batch.last().get()).collect()
    }

    #[test]
    fn requests_are_bounded_and_have_each_line_once_in_order() {
        let encoder = Encoder::new(SampleRun::new().key(), "0123456789abcdef");
        let long = "x".repeat(50_000);
        let mut rest: Vec<LineBatch> = (0..40).map(|part| lines(part * 25 + 1, [""; 25])).collect();
        rest.insert(20, lines(5_000, [&long]));
        rest.push(lines(6_000, ["short", "shorter"]));
        let expected = numbers(&rest);
        let mut written = Vec::new();
        while !rest.is_empty() {
            let (body, left) = encode(&encoder, &rest, 20_000).unwrap();
            assert!(body.size <= 20_000 || body.lines.len() == 1, "{} bytes", body.size);
            assert_eq!(numbers(&body.batches), body.lines.iter().map(|line| line.get()).collect::<Vec<_>>());
            written.extend(numbers(&body.batches));
            rest = left;
        }
        assert_eq!(written, expected);
    }

    #[test]
    fn requests_of_an_append_are_alike_and_fill_what_may_be_under_way() {
        let encoder = Encoder::new(SampleRun::new().key(), "0123456789abcdef");
        let text = "x".repeat(80);
        for (many, requests) in [(5, 1), (20, 2), (100, 4)] {
            let mut rest: Vec<LineBatch> =
                (0..many).map(|part| lines(part * 100 + 1, vec![text.as_str(); 100])).collect();
            let most = share(encoder.estimate(&rest), 1 << 20);
            let mut sizes = Vec::new();
            while !rest.is_empty() {
                let (body, left) = encode(&encoder, &rest, most).unwrap();
                sizes.push(body.size);
                rest = left;
            }
            assert_eq!(sizes.len(), requests, "{sizes:?}");
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            assert!(least * 4 > most * 3 && *most <= 1 << 20, "{sizes:?}");
        }
    }

    #[test]
    fn halves_are_the_whole_and_one_line_has_none() {
        let batches = [lines(1, ["a", "b", "c"]), lines(9, ["d", "e"])];
        let all: Vec<_> =
            batches.iter().flat_map(|b| b.lines().map(|line| line.number).collect::<Vec<_>>()).collect();
        let (front, back) = halves(&batches, &all).unwrap();
        assert_eq!((numbers(&front), numbers(&back)), (vec![1, 2], vec![3, 9, 10]));
        let one = LineRange::new(all[0], all[0]);
        assert!(halves(&[batches[0].slice(one).unwrap()], &all[..1]).is_none());
    }
}
