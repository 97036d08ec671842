//! What the object store promises to the tests that start it.

use services::{Data, S3, is_running};

#[test]
#[ignore = "needs S3"]
fn a_server_is_gone_with_its_value_and_comes_back_at_its_ports() {
    let mut server = S3::start().unwrap();
    let (id, folder, port) = (server.id().unwrap(), server.folder().to_owned(), server.port());
    assert!(is_running(id, &folder));
    server.kill().unwrap();
    assert!(!is_running(id, &folder));
    for data in [Data::Kept, Data::Lost] {
        server.restart(data).unwrap();
        assert_eq!(server.port(), port);
    }
    let id = server.id().unwrap();
    drop(server);
    assert!(!is_running(id, &folder) && !folder.exists());
}
