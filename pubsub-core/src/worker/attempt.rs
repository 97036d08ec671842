//! What a worker does with one delivery: begin, run, conclude, publish, settle, in this order.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;

use super::outcome::{chain_is_full, events};
use super::{Shared, Slot};
use crate::stopping::{after_a_cut, stores_may};
use crate::{
    Backoff, Begin, Cause, Chain, Conclusion, Delivery, Error, ErrorKind, Executed, Exit, Finality,
    LeaseState, Outcome, PublisherExt as _, Result, RunKey, RunRecord, SealBuilder, Settlement, StartFailure,
    Stop, StopState, Stopper, Try, Verdict,
};

/// How long an event waits whose command could not be started, because the machine was out of something.
const LACKING: Backoff = Backoff { base: Duration::from_secs(1), factor: 2, cap: Duration::from_secs(60) };

/// Why a run that was cut is not sealed.
const LACKS: &str = "the run was stopped, and a required store did not take what it lacked of it";

/// Works at one delivery to its settling. Whoever dies on the way leaves a claim from which the next goes on.
pub(super) async fn work(shared: Arc<Shared>, delivery: Delivery, stop: Stop, slot: Option<Slot>) {
    let event = Arc::clone(delivery.event());
    let (id, action) = (&event.id, &event.action_id);
    let told_to_stop = stop.clone();
    let mut is_lost = false;
    let settlement = match AssertUnwindSafe(shared.work(&delivery, stop, slot)).catch_unwind().await {
        Ok(Ok(settlement)) => settlement,
        Ok(Err(error)) => {
            if let Some(times) = shared.given_up.happened(1) {
                tracing::warn!(event = %id, %action, error = %error.chain(), times, "an event was given up for now");
            }
            is_lost = error.kind() == ErrorKind::LeaseLost;
            // Not at once, or what fails always would be tried without a pause. A worker that was cut takes nothing more.
            let is_cut = matches!(told_to_stop.state(), StopState::Cut(_));
            Settlement::Release { after: if is_cut { Duration::ZERO } else { shared.lease } }
        }
        Err(_) => {
            tracing::error!(event = %id, %action, "the worker's own code panicked; that counts as a crash");
            return delivery.abandon();
        }
    };
    match delivery.settle(settlement).await {
        // That was said already.
        Err(error) if is_lost && error.kind() == ErrorKind::LeaseLost => {}
        // It comes back by itself, here or elsewhere.
        Err(error) => {
            if let Some(times) = shared.unsettled.happened(1) {
                tracing::warn!(event = %id, %action, error = %error.chain(), times, "an event was not settled");
            }
        }
        Ok(()) => {}
    }
    #[cfg(feature = "fault-points")]
    crate::fault::point("worker.settled");
}

impl Shared {
    async fn work(&self, delivery: &Delivery, stop: Stop, slot: Option<Slot>) -> Result<Settlement> {
        if chain_is_full(delivery.event()) {
            let reason = format!("the chain has {} events in a row", crate::MAX_LINKS);
            return Ok(Settlement::DeadLetter { reason });
        }
        let begin = delivery.begin().await?;
        // Where nothing is run, what is left to do may wait for a store, and holds no slot.
        let slot = slot.filter(|_| matches!(begin, Begin::Go(_)));
        match begin {
            Begin::Go(numbers) => self.run(delivery, numbers, stop, slot).await,
            Begin::Concluded(conclusion) => self.concluded_before(delivery, &conclusion).await,
            Begin::Cancelled(numbers) => self.cancelled(delivery, numbers).await,
            Begin::Exhausted(numbers) => {
                let reason = format!("its worker died {} times while it ran", numbers.crashes);
                let exit = Exit::stopped(Cause::LeaseLost).with_detail(reason);
                let verdict = Verdict::new(Outcome::Failed, Chain::Stops);
                self.without_run(delivery, numbers, &exit, verdict).await
            }
            Begin::Elsewhere => Ok(Settlement::Release { after: self.lease }),
        }
    }

    async fn run(
        &self,
        delivery: &Delivery,
        numbers: Try,
        stop: Stop,
        slot: Option<Slot>,
    ) -> Result<Settlement> {
        #[cfg(feature = "fault-points")]
        crate::fault::point("worker.begun");
        let event = Arc::clone(delivery.event());
        let key = self.key(delivery, numbers);
        let (stopper, run_stop) = Stop::pair();
        let mut stopped = run_stop.clone();
        let ended = {
            let run = &self.execution;
            let work =
                pin!(run.work(&self.fan_out, &*self.handler, event, key, run_stop, Finality::Undecided));
            watch(delivery, &stop, &stopper, work).await
        };
        let ended = match ended {
            Ok(ended) => ended,
            Err(_) if matches!(stopped.state(), StopState::Stop(Cause::Cancelled)) => {
                drop(slot);
                return self.cancelled(delivery, numbers).await;
            }
            Err(error) => return Err(error),
        };
        // What is left to do needs no room for a handler: a store may take its time.
        drop(slot);
        let executed = {
            let sealed = pin!(ended.sealed(Finality::Undecided));
            let sealed = pin!(stores_may(sealed, after_a_cut(&mut stopped), LACKS));
            watch(delivery, &stop, &stopper, sealed).await?
        };
        #[cfg(feature = "fault-points")]
        crate::fault::point("worker.sealed");
        match executed.exit.cause {
            Cause::Shutdown => {
                self.tell(&executed.report.record);
                Ok(Settlement::Release { after: Duration::ZERO })
            }
            Cause::LeaseLost => {
                Err(Error::new(ErrorKind::LeaseLost, "another worker holds this event by now"))
            }
            Cause::NotStarted if executed.exit.start_failure == Some(StartFailure::OutOfResources) => {
                self.tell(&executed.report.record);
                // Of the attempts so far, those that were given back.
                let given_back = numbers.attempt.saturating_sub(numbers.failures + numbers.crashes + 1);
                Ok(Settlement::Release { after: LACKING.delay(given_back) })
            }
            _ => self.decide(delivery, executed, numbers).await,
        }
    }

    async fn cancelled(&self, delivery: &Delivery, numbers: Try) -> Result<Settlement> {
        let verdict = Verdict::new(Outcome::Interrupted, Chain::Stops);
        self.without_run(delivery, numbers, &Exit::stopped(Cause::Cancelled), verdict).await
    }

    /// Tries again, or concludes.
    async fn decide(&self, delivery: &Delivery, executed: Executed, numbers: Try) -> Result<Settlement> {
        let Executed { report, verdict, values, sinks, .. } = executed;
        let mut record = report.record;
        if let Some(after) = self.retry.next(verdict, numbers.failures) {
            self.tell(&record);
            return Ok(Settlement::Retry { after });
        }
        record.conclude();
        let conclusion = Conclusion { record: record.clone(), values };
        delivery.conclude(conclusion.clone()).await?;
        #[cfg(feature = "fault-points")]
        crate::fault::point("worker.concluded");
        // Where it fails, whoever gets the event next finds the conclusion and brings its record there.
        sinks.finish(record.clone()).await?;
        self.tell(&record);
        self.publish(delivery, &conclusion).await
    }

    /// Concludes without running anything: a record without output says why.
    async fn without_run(
        &self,
        delivery: &Delivery,
        numbers: Try,
        exit: &Exit,
        verdict: Verdict,
    ) -> Result<Settlement> {
        let mut record = RunRecord::begun(self.key(delivery, numbers), self.execution.owner.clone());
        record.complete(exit, verdict, &SealBuilder::new().seal());
        record.conclude();
        let conclusion = Conclusion { record, values: BTreeMap::new() };
        delivery.conclude(conclusion.clone()).await?;
        unless_refused(&conclusion.record, self.fan_out.finish_record(&conclusion.record).await)?;
        let settlement = self.publish(delivery, &conclusion).await?;
        self.tell(&conclusion.record);
        Ok(settlement)
    }

    /// What follows from a conclusion that another worker made: its record in the stores, its events, and how it is settled.
    async fn concluded_before(&self, delivery: &Delivery, conclusion: &Conclusion) -> Result<Settlement> {
        let record = &conclusion.record;
        // Who concluded may have died before any store had all of it: the end of its run may be in no store yet, or in a spool
        // of another machine. Where this group has the event for the first time, that was another's, and a run which is in
        // no store was removed.
        let brought = if delivery.is_redelivered() {
            self.fan_out.finish_record(record).await
        } else {
            self.fan_out.update_record(record).await
        };
        unless_refused(record, brought)?;
        self.publish(delivery, conclusion).await
    }

    fn key(&self, delivery: &Delivery, numbers: Try) -> RunKey {
        let event = delivery.event();
        RunKey::new(event.action_id.clone(), self.stage.clone(), event.id.clone(), numbers.attempt)
    }

    /// Publishes what follows from a conclusion and says how the event is settled.
    async fn publish(&self, delivery: &Delivery, conclusion: &Conclusion) -> Result<Settlement> {
        let publishing = async {
            for event in events(delivery.event(), delivery.position(), conclusion, self.then.as_ref())? {
                delivery.retrying(|| self.broker.publish_one(event.clone())).await?;
                #[cfg(feature = "fault-points")]
                crate::fault::point("worker.outcome");
            }
            #[cfg(feature = "fault-points")]
            crate::fault::point("worker.published");
            Ok::<(), Error>(())
        };
        let record = &conclusion.record;
        match publishing.await {
            // It is concluded by a lost lease only where it was exhausted.
            Ok(()) if record.cause == Some(Cause::LeaseLost) => {
                let reason = record.detail.clone().unwrap_or_else(|| "its workers died".to_owned());
                Ok(Settlement::DeadLetter { reason })
            }
            Ok(()) => Ok(Settlement::Ack),
            Err(error) if matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::Invalid) => {
                let reason =
                    format!("its work is concluded, and what follows cannot be published: {}", error.chain());
                Ok(Settlement::DeadLetter { reason })
            }
            Err(error) => Err(error),
        }
    }
}

/// A store that refuses a record for good holds nothing up.
fn unless_refused(record: &RunRecord, brought: Result<()>) -> Result<()> {
    let Err(error) = brought else { return Ok(()) };
    if error.is_retryable() || error.kind() == ErrorKind::Closed {
        return Err(error);
    }
    tracing::warn!(run = %record.key.run_id, error = %error.chain(), "a required store refuses the end of a run");
    Ok(())
}

/// Does a part of a run and passes on to it what stops it. The part is pinned elsewhere: it is large.
async fn watch<T>(
    delivery: &Delivery,
    stop: &Stop,
    stopper: &Stopper,
    part: Pin<&mut impl Future<Output = Result<T>>>,
) -> Result<T> {
    let (mut state, mut stop) = (delivery.state(), stop.clone());
    let pass_on = async {
        loop {
            let known = *state.borrow_and_update();
            match known {
                LeaseState::Cancelled => stopper.stop(Cause::Cancelled),
                LeaseState::Lost => stopper.cut(Cause::LeaseLost),
                LeaseState::Held => {}
            }
            tokio::select! {
                // The keeper forgets a lease that is settled; then there is nothing more to hear.
                told = state.changed() => if told.is_err() { std::future::pending::<()>().await },
                cause = stop.cut() => {
                    stopper.cut(cause);
                    std::future::pending::<()>().await;
                }
            }
        }
    };
    tokio::select! {
        done = part => done,
        () = pass_on => Err(Error::new(ErrorKind::Internal, "the watch over a run ended")),
    }
}
