//! What OpenSearch promises to the tests that start it.

use services::{Data, OpenSearch, SearchEngine, is_running};

#[test]
#[ignore = "needs OpenSearch"]
fn a_node_keeps_its_data_or_loses_it_and_is_gone_with_its_value() {
    let mut node = OpenSearch::start(SearchEngine::of_environment().unwrap()).unwrap();
    let (id, folder) = (node.id().unwrap(), node.folder().to_owned());
    assert!(is_running(id, &folder));
    assert_eq!(node.ask("PUT", "/a/_doc/1?refresh=true", "{\"b\":1}").unwrap().status(), 201);
    node.restart(Data::Kept).unwrap();
    assert_eq!(node.ask("GET", "/a/_doc/1", "").unwrap().status(), 200);
    node.restart(Data::Lost).unwrap();
    assert_eq!(node.ask("GET", "/a/_doc/1", "").unwrap().status(), 404);
    drop(node);
    assert!(!folder.exists());
}
