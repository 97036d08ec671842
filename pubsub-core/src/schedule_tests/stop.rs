use schedules::{catches, check, drawn, dropped_somewhere, pause, spawn};
use tokio::sync::watch;

use super::{BROKEN, LONG, QUICK};
use crate::{Cause, Stop, StopState};

/// Both who waits for the stop and who waits for the cut hear of it, with the first cause; whoever stops waiting in between
/// misses nothing.
async fn everybody_hears_of_a_stop() {
    let (stopper, stop) = Stop::pair();
    let (mut gentle, mut hard, mut fickle) = (stop.clone(), stop.clone(), stop.clone());
    let first = drawn(2);
    let gentle = spawn(async move { gentle.requested().await });
    let hard = spawn(async move { hard.cut().await });
    let fickle = spawn(async move {
        while dropped_somewhere(3, fickle.requested()).await.is_none() {
            pause().await;
        }
        fickle.cut().await
    });
    pause().await;
    if first == 0 {
        stopper.stop(Cause::Shutdown);
        pause().await;
    }
    stopper.cut(Cause::Cancelled);
    pause().await;
    stopper.stop(Cause::LeaseLost);
    let cause = if first == 0 { Cause::Shutdown } else { Cause::Cancelled };
    for heard in [gentle, hard, fickle] {
        assert_eq!(heard.await.unwrap(), cause);
    }
    assert_eq!(stop.state(), StopState::Cut(cause));
}

#[test]
fn whoever_waits_hears_of_a_stop_with_its_first_cause() {
    check(QUICK, everybody_hears_of_a_stop);
}

#[test]
#[ignore = "long: many schedules"]
fn stops_hold_under_many_schedules() {
    check(LONG, everybody_hears_of_a_stop);
}

/// Looks, and listens only then.
async fn who_looks_before_it_listens() {
    let sender = watch::Sender::new(false);
    let waiting = sender.clone();
    let waits = spawn(async move {
        if !*waiting.borrow() {
            pause().await;
            waiting.subscribe().changed().await.unwrap();
        }
    });
    pause().await;
    sender.send_replace(true);
    waits.await.unwrap();
}

#[test]
fn who_looks_before_it_listens_is_caught() {
    catches(BROKEN, who_looks_before_it_listens);
}
