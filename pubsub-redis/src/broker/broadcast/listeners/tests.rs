use pubsub_core::Subscription;

use super::super::heard::{Heard, Missed};
use super::*;

fn id(seq: u64) -> EntryId {
    EntryId { ms: 1, seq }
}

fn reached(last: u64, added: u64) -> Reached {
    Reached { last: id(last), added }
}

fn entries(ids: impl IntoIterator<Item = u64>) -> Vec<Entry> {
    ids.into_iter().map(|seq| Entry::new(&id(seq).to_string(), &[])).collect()
}

fn new(listeners: &Listeners, ids: impl IntoIterator<Item = u64>) -> Vec<u64> {
    listeners.take(0, entries(ids)).into_iter().map(|(id, _)| id.seq).collect()
}

/// One that listens to the one partition that there is, which is read after the tenth of ten entries.
fn one() -> (Listeners, Arc<Queue>) {
    let listeners = Listeners::new(1);
    let on = Subscription::broadcast(["t:*".parse().unwrap()]).unwrap();
    let queue = listeners.enter(on, &Arc::from([0]));
    listeners.begin(0, reached(10, 10));
    (listeners, queue)
}

async fn removed(queue: &Queue) -> u64 {
    match queue.next().await.unwrap() {
        Heard::Missed(Missed { slow: 0, removed }) => removed,
        _ => panic!("nothing was removed"),
    }
}

#[tokio::test]
async fn what_was_removed_while_the_connection_was_lost_is_counted_once_the_rest_is_read() {
    let (listeners, queue) = one();
    assert_eq!(new(&listeners, [11, 12]), [11, 12]);
    // Of 13 to 20 there are 17, 18 and 20.
    listeners.compare(0, reached(20, 20));
    assert_eq!(new(&listeners, [17, 18, 20]), [17, 18, 20]);
    assert_eq!(removed(&queue).await, 5);
    // Nothing was.
    listeners.compare(0, reached(22, 22));
    assert_eq!(new(&listeners, [21, 22, 23]), [21, 22, 23]);
    // All of what was there, before something newer.
    listeners.compare(0, reached(30, 30));
    assert_eq!(new(&listeners, [31]), [31]);
    assert_eq!(removed(&queue).await, 7);
    // All, and nothing is newer.
    listeners.compare(0, reached(33, 33));
    assert_eq!(new(&listeners, []), [0_u64; 0]);
    assert_eq!(removed(&queue).await, 2);
}

#[tokio::test]
async fn a_server_that_lost_events_is_told_and_read_on_from_where_it_is() {
    let (listeners, queue) = one();
    let is_told = async || matches!(queue.next().await.unwrap(), Heard::Failed(_));
    listeners.compare(0, reached(0, 0));
    assert!(is_told().await);
    assert_eq!(new(&listeners, [1, 2]), [1, 2]);
    // Made anew, with later entries: they are heard, and nothing is counted.
    listeners.compare(0, reached(5, 1));
    assert!(is_told().await);
    assert_eq!(new(&listeners, [5]), [5]);
    listeners.compare(0, reached(6, 2));
    assert_eq!(new(&listeners, [6]), [6]);
    listeners.end();
    assert!(queue.next().await.is_none(), "nothing else was told");
}

#[test]
fn nothing_is_taken_twice_and_a_partition_that_nobody_wants_is_not_read() {
    let (listeners, _queue) = one();
    assert_eq!(new(&listeners, [9, 10, 11]), [11]);
    assert_eq!(new(&listeners, [11, 12]), [12]);
    let on = Subscription::broadcast(["t:*".parse().unwrap()]).unwrap();
    let (other, all) = (listeners.enter(on, &Arc::from([0])), 0..1);
    listeners.begin(0, reached(20, 20));
    assert_eq!(listeners.cursors(&all), [(0, id(12))], "the others have not read so far");
    listeners.leave(&[0]);
    assert_eq!(listeners.cursors(&all), [(0, id(12))]);
    listeners.leave(&[0]);
    drop(other);
    assert_eq!(listeners.cursors(&all), []);
    assert_eq!(new(&listeners, [13]), [0_u64; 0]);
}
