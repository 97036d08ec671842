//! One store's part in the lines of a run.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::asked::{Answer, Asking, Store};
use crate::missing::NOT_HERE;
use crate::{
    Error, ErrorKind, Gap, LineBatch, LineNumber, LineRange, Lines, Output, OutputItem, Result, RunId,
    RunRecord,
};

/// How many numbers are read past before a store is asked anew for those behind them.
const PASSED: u64 = 4096;

/// What a store answers to a question about lines; `None` where it does not have the run.
pub(super) async fn asked(
    asking: &Asking,
    store: &Store,
    run: &RunId,
    lines: Lines,
) -> Answer<Option<Output>> {
    let call = async {
        match store.reader.lines(run, lines).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            output => output.map(Some),
        }
    };
    asking.ask(store, call).await
}

/// One store, and where it is read.
pub(super) struct Source {
    pub(super) store: Arc<Store>,
    state: State,
}

enum State {
    /// It has the run, and is not being read.
    Has,
    Read(Cursor),
    /// It does not have the run.
    Lacks,
    Failed(Arc<Error>),
}

struct Cursor {
    items: BoxStream<'static, Result<OutputItem>>,
    current: Option<OutputItem>,
    /// From this number on everything is still to come.
    at: LineNumber,
    ended: bool,
}

/// What a store has at a number.
pub(super) enum Found {
    /// Lines from there on.
    Lines(LineBatch),
    /// None from there up to the gap's end.
    Gap(Gap),
    /// It says nothing of this number or a later one.
    Nothing,
}

impl Source {
    /// After a first question; from `at` on its answer is read on, where that is to be used. Also answers what the store
    /// has said of the run.
    pub(super) fn new(
        store: Arc<Store>,
        answer: Answer<Option<Output>>,
        at: Option<LineNumber>,
    ) -> (Self, Option<(RunRecord, u64)>) {
        let (state, said) = match answer {
            Err(error) => (State::Failed(error), None),
            Ok(None) => (State::Lacks, None),
            Ok(Some(Output { record, complete_through, items })) => {
                let state = at.map_or(State::Has, |at| State::Read(Cursor::new(items, at)));
                (state, Some((record, complete_through)))
            }
        };
        (Self { store, state }, said)
    }

    /// The same store, read anew.
    pub(super) fn again(&self) -> Self {
        let state = match &self.state {
            State::Has | State::Read(_) => State::Has,
            State::Lacks => State::Lacks,
            State::Failed(error) => State::Failed(Arc::clone(error)),
        };
        Self { store: Arc::clone(&self.store), state }
    }

    pub(super) const fn failure(&self) -> Option<&Arc<Error>> {
        match &self.state {
            State::Failed(error) => Some(error),
            State::Has | State::Read(_) | State::Lacks => None,
        }
    }

    /// With which line its answer begins; `None` where no line comes first.
    pub(super) async fn begins(&mut self, asking: &Asking) -> Option<LineNumber> {
        let State::Read(cursor) = &mut self.state else { return None };
        match cursor.peek(asking, &self.store).await {
            Ok(Some(OutputItem::Lines(batch))) => {
                let first = batch.first();
                cursor.at = first;
                Some(first)
            }
            Ok(_) => None,
            Err(error) => {
                self.state = State::Failed(error);
                None
            }
        }
    }

    /// What it has at the first of these numbers. `anew` where what it says to be missing may have come since.
    pub(super) async fn at(&mut self, asking: &Asking, run: &RunId, wanted: LineRange, anew: bool) -> Found {
        let found = self.find(asking, run, wanted).await;
        match found {
            Ok((Found::Gap(_) | Found::Nothing, false)) if anew && matches!(self.state, State::Read(_)) => {
                self.state = State::Has;
            }
            Ok((found, _)) => return found,
            Err(error) => {
                self.state = State::Failed(error);
                return Found::Nothing;
            }
        }
        match self.find(asking, run, wanted).await {
            Ok((found, _)) => found,
            Err(error) => {
                self.state = State::Failed(error);
                Found::Nothing
            }
        }
    }

    /// What it has there, and whether it was asked just now.
    async fn find(&mut self, asking: &Asking, run: &RunId, wanted: LineRange) -> Answer<(Found, bool)> {
        let near = matches!(&self.state, State::Read(cursor) if cursor.is_near(wanted.first));
        if matches!(self.state, State::Lacks | State::Failed(_)) {
            return Ok((Found::Nothing, true));
        }
        if !near {
            let lines =
                if wanted.last == LineNumber::MAX { Lines::From(wanted.first) } else { Lines::Range(wanted) };
            let Some(output) = asked(asking, &self.store, run, lines).await? else {
                self.state = State::Lacks;
                return Ok((Found::Nothing, true));
            };
            self.state = State::Read(Cursor::new(output.items, wanted.first));
        }
        let State::Read(cursor) = &mut self.state else { return Ok((Found::Nothing, true)) };
        Ok((cursor.find(asking, &self.store, wanted).await?, !near))
    }
}

impl Cursor {
    fn new(items: BoxStream<'static, Result<OutputItem>>, at: LineNumber) -> Self {
        Self { items, current: None, at, ended: false }
    }

    fn is_near(&self, number: LineNumber) -> bool {
        self.at <= number && (self.ended || number.get() - self.at.get() <= PASSED)
    }

    async fn peek(&mut self, asking: &Asking, store: &Store) -> Answer<Option<&OutputItem>> {
        if self.current.is_none() && !self.ended {
            self.current = asking.ask(store, async { self.items.next().await.transpose() }).await?;
            self.ended = self.current.is_none();
        }
        Ok(self.current.as_ref())
    }

    async fn find(&mut self, asking: &Asking, store: &Store, wanted: LineRange) -> Answer<Found> {
        self.at = wanted.first;
        loop {
            let Some(item) = self.peek(asking, store).await? else { return Ok(Found::Nothing) };
            let range = item.range();
            if range.last < wanted.first {
                self.current = None;
                continue;
            }
            if let Some(before) =
                LineNumber::new(range.first.before()).filter(|before| *before >= wanted.first)
            {
                let range = LineRange::new(wanted.first, before);
                return Ok(Found::Gap(Gap { range, bytes: None, reason: NOT_HERE.to_owned() }));
            }
            return Ok(match item.slice(LineRange::new(wanted.first, LineNumber::MAX)) {
                Some(OutputItem::Lines(batch)) => Found::Lines(batch),
                Some(OutputItem::Gap(gap)) => Found::Gap(gap),
                None => Found::Nothing,
            });
        }
    }
}
