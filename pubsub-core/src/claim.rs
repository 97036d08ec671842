//! The rules of a claim, as plain state: every broker keeps one per event and stage and changes it with the lease.

use serde::{Deserialize, Serialize};

use crate::{Attempt, Begin, CRASH_LIMIT, Conclusion, Error, ErrorKind, LeaseId, Result, Try};

/// What the broker knows of one (event, stage).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The number of the last attempt begun; 0 where none was.
    pub attempts: Attempt,
    /// Attempts that ended in an outcome which the policy tried again.
    pub failures: u32,
    /// Attempts begun and left in silence.
    pub crashes: u32,
    /// Who has an attempt open.
    pub open: Option<Holder>,
    /// How the work ended for good.
    pub conclusion: Option<Box<Conclusion>>,
}

/// The delivery that has an attempt open: which group's entry, by which lease of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The group.
    pub group: String,
    /// The entry.
    pub entry: String,
    /// Who.
    pub owner: String,
    /// The how-manieth lease of the entry.
    pub count: u64,
}

impl Holder {
    /// The holder that a lease of this group names.
    #[must_use]
    pub fn new(group: &str, lease: &LeaseId) -> Self {
        Self {
            group: group.to_owned(),
            entry: lease.entry.as_str().to_owned(),
            owner: lease.owner.as_ref().to_owned(),
            count: lease.count,
        }
    }
}

/// Whether the delivery that has an attempt open is still alive, as the broker judges by its leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenAttempt {
    /// Its lease stands.
    Held,
    /// Its lease expired, was taken by another or is gone.
    Left,
}

/// Whether the event's chain was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// No.
    None,
    /// Yes.
    Cancelled,
}

impl Claim {
    /// Answers `begin` of the lease's holder, which the broker has checked. `open` says what became of the attempt
    /// that another delivery has open; it does not count where none has.
    pub fn begin(&mut self, holder: Holder, open: OpenAttempt, mark: Mark) -> Begin {
        if let Some(conclusion) = &self.conclusion {
            return Begin::Concluded(conclusion.clone());
        }
        match &self.open {
            // The same lease asks again: its call was dropped, nothing was left in silence.
            Some(current) if *current == holder => return self.answer(mark),
            Some(_) if open == OpenAttempt::Held => return Begin::Elsewhere,
            Some(_) => self.crashes = self.crashes.saturating_add(1),
            None => {}
        }
        self.attempts = self.attempts.saturating_add(1);
        self.open = Some(holder);
        self.answer(mark)
    }

    fn answer(&self, mark: Mark) -> Begin {
        let numbers = Try { attempt: self.attempts, failures: self.failures, crashes: self.crashes };
        match mark {
            Mark::Cancelled => Begin::Cancelled(numbers),
            Mark::None if self.crashes >= CRASH_LIMIT => Begin::Exhausted(numbers),
            Mark::None => Begin::Go(numbers),
        }
    }

    /// Takes the conclusion from the holder of the open attempt.
    ///
    /// # Errors
    /// [`LeaseLost`](ErrorKind::LeaseLost) for anybody else.
    pub fn conclude(&mut self, holder: &Holder, conclusion: Conclusion) -> Result<()> {
        if let Some(standing) = &self.conclusion
            && standing.record.key.run_id == conclusion.record.key.run_id
        {
            return Ok(());
        }
        if self.conclusion.is_some() || self.open.as_ref() != Some(holder) {
            return Err(Error::new(ErrorKind::LeaseLost, "conclude: another holds this event by now"));
        }
        self.conclusion = Some(Box::new(conclusion));
        self.open = None;
        Ok(())
    }

    /// The holder's delivery is settled to be tried again: its attempt, where it had one, failed.
    pub fn retried(&mut self, holder: &Holder) {
        if self.open.as_ref() == Some(holder) {
            self.open = None;
            self.failures = self.failures.saturating_add(1);
        }
    }

    /// The holder's delivery is settled in any other way: its attempt counts nowhere.
    pub fn closed(&mut self, holder: &Holder) {
        if self.open.as_ref() == Some(holder) {
            self.open = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Claim, Holder, Mark, OpenAttempt};
    use crate::{
        ActionId, Begin, CRASH_LIMIT, Conclusion, EventId, LeaseId, Position, RunKey, RunRecord, Stage,
    };
    use std::collections::BTreeMap;

    fn holder(owner: &str, count: u64) -> Holder {
        Holder::new("g", &LeaseId { entry: Position::new("1"), owner: owner.into(), count })
    }

    fn conclusion(attempt: u32) -> Conclusion {
        let key = RunKey::new(
            ActionId::new("a").unwrap(),
            Stage::new("s").unwrap(),
            EventId::new("e").unwrap(),
            attempt,
        );
        Conclusion { record: RunRecord::begun(key, "o"), values: BTreeMap::new() }
    }

    #[test]
    fn failures_and_crashes_are_counted_apart_and_releases_nowhere() {
        let mut claim = Claim::default();
        for round in 0..3 {
            let me = holder("a", round);
            claim.begin(me.clone(), OpenAttempt::Left, Mark::None);
            if round == 0 { claim.closed(&me) } else { claim.retried(&me) }
        }
        assert_eq!((claim.attempts, claim.failures, claim.crashes), (3, 2, 0));
        for round in 3..=u64::from(3 + CRASH_LIMIT) {
            let answer = claim.begin(holder("a", round), OpenAttempt::Left, Mark::None);
            assert_eq!(
                matches!(answer, Begin::Exhausted(_)),
                round == u64::from(3 + CRASH_LIMIT),
                "{answer:?}"
            );
        }
        assert_eq!((claim.failures, claim.crashes), (2, CRASH_LIMIT));
    }

    #[test]
    fn only_the_holder_of_the_open_attempt_concludes_and_only_once() {
        let mut claim = Claim::default();
        let (first, second) = (holder("a", 1), holder("b", 2));
        assert!(claim.conclude(&first, conclusion(1)).is_err(), "nothing has begun");
        claim.begin(first.clone(), OpenAttempt::Left, Mark::None);
        assert_eq!(claim.begin(second.clone(), OpenAttempt::Held, Mark::None), Begin::Elsewhere);
        claim.begin(second.clone(), OpenAttempt::Left, Mark::None);
        assert!(claim.conclude(&first, conclusion(1)).is_err(), "a former holder");
        claim.conclude(&second, conclusion(2)).unwrap();
        claim.conclude(&second, conclusion(2)).unwrap();
        assert!(claim.conclude(&second, conclusion(3)).is_err(), "another run");
        assert!(matches!(claim.begin(first, OpenAttempt::Left, Mark::Cancelled), Begin::Concluded(_)));
    }

    #[test]
    fn asking_again_with_the_same_lease_is_the_same_attempt() {
        let mut claim = Claim::default();
        let me = holder("a", 1);
        let one = claim.begin(me.clone(), OpenAttempt::Left, Mark::None);
        assert_eq!(claim.begin(me, OpenAttempt::Held, Mark::None), one);
        assert_eq!((claim.attempts, claim.crashes), (1, 0));
    }
}
