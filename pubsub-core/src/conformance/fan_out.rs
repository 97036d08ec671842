//! §4.6: one run goes into all stores at once, each has all of it, and each can be made from each.

use std::sync::Arc;
use std::time::Duration;

use super::generated::log;
use super::store::SampleRun;
use crate::{FanOut, RunQuery, RunRecord, SinkConfig, Store, copy_verified, verify, verify_against};

/// Writes one run of so many lines into all of these stores at once; then every store agrees with the seal and with every
/// other. After that the run is removed from each store, copied there from each other one, and verified again.
///
/// # Panics
/// Where a store lacks anything, and where a copy is not what it was copied from; with their names.
pub async fn goes_into_all_and_from_each_to_each(stores: &[(&str, Arc<dyn Store>)], lines: u64) {
    let run = into_all(stores, lines).await;
    for (name, store) in stores {
        agrees(name, &**store, &run.record).await;
        for (other_name, other) in stores {
            let difference = verify_against(&**store, &**other, run.id()).await.unwrap();
            assert_eq!(difference, None, "{name} against {other_name}");
        }
    }
    for (from_name, from) in stores {
        for (to_name, to) in stores.iter().filter(|(name, _)| name != from_name) {
            let what = format!("{to_name}, copied from {from_name}");
            assert!(to.remove(run.id()).await.unwrap(), "{what}: it was there");
            let report = copy_verified(&**from, run.id(), &**to).await.unwrap();
            assert_eq!((report.lines, report.replaced), (lines, false), "{what}");
            agrees(&what, &**to, &run.record).await;
            assert_eq!(verify_against(&**from, &**to, run.id()).await.unwrap(), None, "{what}");
        }
    }
}

/// Prints the log through a fan-out of which each store is a required sink.
async fn into_all(stores: &[(&str, Arc<dyn Store>)], lines: u64) -> SampleRun {
    let sinks = stores.iter().map(|(name, store)| SinkConfig::required(*name, Arc::new(Arc::clone(store))));
    let fan_out = FanOut::new(sinks.collect());
    let mut run = SampleRun::new();
    let printed = fan_out.begin(&run.record).await.unwrap();
    for batch in log(lines) {
        run.print(std::slice::from_ref(&batch));
        printed.append(&[batch]);
        printed.room().await;
    }
    run.complete();
    let report = printed.finish(run.record.clone()).await.unwrap();
    for account in &report.sinks {
        assert_eq!(account.stored, lines, "{account:?}");
    }
    run.record = report.record;
    run.record.conclude();
    fan_out.finish_record(&run.record).await.unwrap();
    drop(printed);
    fan_out.close(Duration::from_secs(60)).await.unwrap();
    run
}

async fn agrees(name: &str, store: &dyn Store, record: &RunRecord) {
    let run = &record.key.run_id;
    let found = verify(store, run).await.unwrap();
    assert_eq!(found.problem(), None, "{name}");
    let records = store.runs(&RunQuery::of_run(run.clone())).await.unwrap();
    assert_eq!(records, std::slice::from_ref(record), "{name}");
}
