//! What a worker does with one delivery: begin, run, conclude, publish, settle, in this order.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Shared;
use super::outcome::{chain_is_full, events};
use crate::{
    Begin, Cause, Conclusion, Delivery, Error, ErrorKind, Executed, Exit, Finality, LeaseState, Outcome,
    Pipeline, PublisherExt as _, Result, RunKey, RunRecord, SealBuilder, Stop, Stopper, Try, Verdict,
};

/// Works at one delivery to its settling. Whoever dies on the way leaves a claim from which the next goes on.
pub(super) async fn work(shared: Arc<Shared>, delivery: Delivery, stop: Stop) {
    let event = Arc::clone(delivery.event());
    if let Err(error) = shared.work(delivery, stop).await {
        // The delivery comes back by itself, here or elsewhere.
        tracing::warn!(event = %event.id, action = %event.action_id, error = %error.chain(), "an event was given up for now");
    }
}

impl Shared {
    async fn work(&self, delivery: Delivery, stop: Stop) -> Result<()> {
        if chain_is_full(delivery.event()) {
            return delivery.dead_letter(format!("the chain has {} events in a row", crate::MAX_LINKS)).await;
        }
        match delivery.begin().await? {
            Begin::Go(numbers) => self.run(delivery, numbers, stop).await,
            Begin::Concluded(conclusion) => {
                self.fan_out.finish_record(&conclusion.record).await?;
                self.publish(&delivery, &conclusion).await?;
                delivery.ack().await
            }
            Begin::Cancelled(numbers) => {
                let verdict = Verdict::new(Outcome::Interrupted, Pipeline::Stops);
                self.without_run(&delivery, numbers, &Exit::stopped(Cause::Cancelled), verdict).await?;
                delivery.ack().await
            }
            Begin::Exhausted(numbers) => {
                let reason = format!("its worker died {} times while it ran", numbers.crashes);
                let exit = Exit::stopped(Cause::LeaseLost).with_detail(reason.clone());
                self.without_run(&delivery, numbers, &exit, Verdict::new(Outcome::Failed, Pipeline::Stops))
                    .await?;
                delivery.dead_letter(reason).await
            }
            Begin::Elsewhere => delivery.release_in(self.lease).await,
        }
    }

    async fn run(&self, delivery: Delivery, numbers: Try, stop: Stop) -> Result<()> {
        let event = Arc::clone(delivery.event());
        let key = self.key(&delivery, numbers);
        let (stopper, run_stop) = Stop::pair();
        let executed = {
            let execution =
                self.execution.run(&self.fan_out, &*self.handler, event, key, run_stop, Finality::Undecided);
            watch(&delivery, stop, &stopper, execution).await
        };
        let executed = match executed {
            Ok(executed) => executed,
            Err(error) => {
                tracing::warn!(error = %error.chain(), "a required store does not have a run; its event is put off");
                return delivery.release_in(self.lease).await;
            }
        };
        match executed.exit.cause {
            Cause::Shutdown => delivery.release().await,
            Cause::LeaseLost => {
                Err(Error::new(ErrorKind::LeaseLost, "another worker holds this event by now"))
            }
            _ => self.decide(delivery, executed, numbers).await,
        }
    }

    /// Tries again, or concludes.
    async fn decide(&self, delivery: Delivery, executed: Executed, numbers: Try) -> Result<()> {
        let Executed { report, verdict, values, sinks, .. } = executed;
        let mut record = report.record;
        if let Some(after) = self.retry.next(verdict, numbers.failures) {
            self.tell(&record);
            return delivery.retry_in(after).await;
        }
        record.conclude();
        let conclusion = Conclusion { record: record.clone(), values };
        delivery.conclude(conclusion.clone()).await?;
        // Where it fails, whoever gets the event next finds the conclusion and brings its record there.
        sinks.finish(record.clone()).await?;
        self.tell(&record);
        self.publish(&delivery, &conclusion).await?;
        delivery.ack().await
    }

    /// Concludes without running anything: a record without output says why.
    async fn without_run(
        &self,
        delivery: &Delivery,
        numbers: Try,
        exit: &Exit,
        verdict: Verdict,
    ) -> Result<()> {
        let mut record = RunRecord::begun(self.key(delivery, numbers), self.execution.owner.clone());
        record.complete(exit, verdict, &SealBuilder::new().seal());
        record.conclude();
        let conclusion = Conclusion { record, values: BTreeMap::new() };
        delivery.conclude(conclusion.clone()).await?;
        self.fan_out.finish_record(&conclusion.record).await?;
        self.tell(&conclusion.record);
        self.publish(delivery, &conclusion).await
    }

    fn key(&self, delivery: &Delivery, numbers: Try) -> RunKey {
        let event = delivery.event();
        RunKey::new(event.action_id.clone(), self.stage.clone(), event.id.clone(), numbers.attempt)
    }

    async fn publish(&self, delivery: &Delivery, conclusion: &Conclusion) -> Result<()> {
        let made = events(delivery.event(), delivery.position(), conclusion, self.then.as_ref())?;
        for event in made {
            delivery.retrying(|| self.broker.publish_one(event.clone())).await?;
        }
        Ok(())
    }
}

/// Runs the execution and passes on to it what stops it.
async fn watch(
    delivery: &Delivery,
    mut stop: Stop,
    stopper: &Stopper,
    execution: impl Future<Output = Result<Executed>>,
) -> Result<Executed> {
    let mut state = delivery.state();
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
        executed = execution => executed,
        () = pass_on => Err(Error::new(ErrorKind::Internal, "the watch over a run ended")),
    }
}
