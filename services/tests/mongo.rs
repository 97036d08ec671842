//! The server for the tests of MongoDB is one that can be relied on.

use services::{Data, Mongo, MongoOptions, is_running};

#[test]
#[ignore = "needs MongoDB"]
fn a_server_answers_dies_comes_back_and_ends_with_its_value() {
    let mut mongo = Mongo::start(&MongoOptions::new()).unwrap();
    let (first, folder) = (mongo.id().unwrap(), mongo.folder().to_owned());
    assert!(is_running(first, &folder));
    mongo.kill().unwrap();
    assert!(!is_running(first, &folder));
    mongo.restart(Data::Lost).unwrap();
    let second = mongo.id().unwrap();
    drop(mongo);
    assert!(!is_running(second, &folder) && !folder.exists());
}
