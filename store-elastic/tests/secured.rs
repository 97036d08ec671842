//! TLS, users and keys. The engines of the tests know none of these, so a proxy in front of one asks for them.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod server;

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use pubsub_core::conformance::store::SampleRun;
use pubsub_core::{Error, ErrorKind, OutputSink as _, Store};
use server::{fresh_prefix, numbered, port, shape_of};
use services::{Certificates, Fate, HttpAnswer, HttpFaults};
use store_elastic::{ElasticStore, ElasticStoreConfig};

/// With what means something in a URL.
const PASSWORD: &str = "hush#/@%41+=:x";

/// The same in a URL.
const IN_A_URL: &str = "hush%23%2F%40%2541+=:x";

/// A key as a server gives it.
const KEY: &str = "aHVzaDpodXNo";

/// Who vouches for the proxy, and the proxy, which speaks TLS.
struct Front {
    folder: tempfile::TempDir,
    proxy: HttpFaults,
}

impl Front {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificates = Certificates::make(folder.path()).unwrap();
        let proxy = HttpFaults::start_tls(port(), &certificates).unwrap();
        Self { folder, proxy }
    }

    /// From now on it asks for this, as a server with security does, whose own words these are.
    fn ask_for(&self, authorization: String) {
        self.proxy.set(move |request| match request.header("authorization") {
            Some(given) if given == authorization => {
                Fate::Changed(request.clone().without_header("authorization"), services::Mend::new(|answer| answer))
            }
            _ => Fate::Answered(
                HttpAnswer::new(401)
                    .with_header("www-authenticate", "Basic realm=\"security\" charset=\"UTF-8\"")
                    .with_header("content-type", "application/json")
                    .with_body(
                        r#"{"error":{"root_cause":[{"type":"security_exception","reason":"unable to authenticate user [ci] for REST request [/]"}],"type":"security_exception","reason":"unable to authenticate user [ci] for REST request [/]"},"status":401}"#,
                    ),
            ),
        });
    }

    /// The URL without its scheme.
    fn place(&self) -> String {
        format!("127.0.0.1:{}", self.proxy.port())
    }

    /// A store of its own behind it.
    fn config(&self) -> ElasticStoreConfig {
        let config = ElasticStoreConfig::new(format!("https://{}", self.place()));
        config.with_prefix(fresh_prefix()).with_ca(self.folder.path().join("authority.pem"))
    }
}

async fn takes_a_run(config: ElasticStoreConfig) {
    let store = ElasticStore::connect(config.clone()).await.unwrap();
    let mut run = SampleRun::new();
    run.begin(&store).await;
    run.append(&store, &numbered(1, 30)).await;
    run.finish(&store).await;
    let shown = format!("{store:?} {config:?}");
    assert!(!shown.contains("hush") && !shown.contains(KEY), "{shown}");
    let store: Arc<dyn Store> = Arc::new(store);
    assert_eq!(shape_of(&store, &run).await, "1-30");
}

/// Why the store is not used: said by connecting, or else by the first call.
async fn refusal(config: ElasticStoreConfig) -> Error {
    let error = match ElasticStore::connect(config).await {
        Ok(store) => store.begin(&SampleRun::new().record).await.unwrap_err(),
        Err(error) => error,
    };
    let shown = format!("{} {error:?}", error.chain());
    assert!(!shown.contains("hush") && !shown.contains(KEY), "{shown}");
    error
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs OpenSearch"]
async fn a_server_is_reached_over_tls_where_the_ca_vouches_for_it_and_refused_by_name_where_none_does() {
    let front = Front::start();
    takes_a_run(front.config()).await;
    let localhost = format!("https://localhost:{}", front.proxy.port());
    let ca = front.folder.path().join("authority.pem");
    takes_a_run(ElasticStoreConfig::new(localhost).with_prefix(fresh_prefix()).with_ca(ca)).await;

    let other = Front::start();
    let wrong = front.config().with_ca(other.folder.path().join("authority.pem"));
    let unknown = ElasticStoreConfig::new(format!("https://{}", front.place())).with_prefix(fresh_prefix());
    for config in [wrong, unknown] {
        let error = refusal(config).await;
        assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
        assert!(error.to_string().contains("setting=ca"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs OpenSearch"]
async fn tls_at_a_port_without_it_and_the_reverse_are_a_wrong_set_up_and_no_outage() {
    let front = Front::start();
    let plain = format!("http://{}", front.place());
    let tls = format!("https://127.0.0.1:{}", port());
    for url in [plain, tls] {
        let error = refusal(ElasticStoreConfig::new(&url).with_prefix(fresh_prefix())).await;
        assert_eq!(error.kind(), ErrorKind::Refused, "{url}: {error:?}");
        assert!(error.to_string().contains("setting=url"), "{url}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs OpenSearch"]
async fn a_user_with_the_right_password_is_let_in_and_another_refused_and_it_is_shown_nowhere() {
    let front = Front::start();
    front.ask_for(format!("Basic {}", BASE64_STANDARD.encode(format!("ci:{PASSWORD}"))));
    takes_a_run(front.config().with_password("ci", PASSWORD)).await;
    let ca = front.folder.path().join("authority.pem");
    let place = front.place();
    let (prefix, ca) = (fresh_prefix(), ca.display());
    let url = format!("elastic+https://ci:{IN_A_URL}@{place}?prefix={prefix}&ca={ca}");
    takes_a_run(ElasticStoreConfig::from_url(&url).unwrap()).await;

    for wrong in
        [front.config().with_password("ci", "hush-hush"), front.config().with_api_key(KEY), front.config()]
    {
        let error = refusal(wrong).await;
        assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
        assert!(error.chain().contains("unable to authenticate user [ci]"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs OpenSearch"]
async fn a_key_is_sent_as_the_server_gave_it_and_another_refused() {
    let front = Front::start();
    front.ask_for(format!("ApiKey {KEY}"));
    takes_a_run(front.config().with_api_key(KEY)).await;
    let error = refusal(front.config().with_api_key("aHVzaA==")).await;
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    assert!(!error.chain().contains("aHVzaA"), "{error:?}");
}
