//! Documents, uploads, downloads, refusals.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, StatusCode};
use surplus_https::{Body, ClientError};

use super::site::{BLOB, Site};

const LIMIT: usize = 1 << 20;

#[tokio::test]
async fn json_goes_both_ways() {
    let site = Site::start().await;
    let echoed: Vec<u32> = site.client().post_json("/echo", &[1, 2, 3]).await.unwrap();
    assert_eq!(echoed, [1, 2, 3]);
}

#[tokio::test]
async fn an_upload_is_streamed_with_its_length() {
    let site = Site::start().await;
    let chunk = Bytes::from(vec![7; 64 << 10]);
    let chunks = stream::iter(std::iter::repeat_n(chunk, 100)).map(Ok);
    let length = 100 * (64 << 10);
    let body = Body::stream(chunks, Some(length));
    let answer = site
        .client()
        .request(Method::POST, "/length", HeaderMap::new(), body)
        .await
        .unwrap();
    let told = answer.bytes(LIMIT).await.unwrap();
    assert_eq!(told, format!("{length} of {length}"));
}

#[tokio::test]
async fn a_slow_upload_that_moves_is_not_cut() {
    let site = Site::start().await;
    let client = site.client().with_timeout(Duration::from_millis(400));
    let chunks = stream::unfold(0, |sent| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        (sent < 8).then(|| (Ok(Bytes::from_static(b"x")), sent + 1))
    });
    let body = Body::stream(chunks, Some(8));
    let answer = client
        .request(Method::POST, "/length", HeaderMap::new(), body)
        .await
        .unwrap();
    assert_eq!(answer.bytes(LIMIT).await.unwrap(), "8 of 8");
}

#[tokio::test]
async fn an_upload_whose_source_fails_is_reported() {
    let site = Site::start().await;
    let broken = stream::iter([
        Ok(Bytes::from_static(b"x")),
        Err(std::io::Error::other("disk")),
    ]);
    let body = Body::stream(broken, Some(100));
    let answer = site
        .client()
        .request(Method::POST, "/length", HeaderMap::new(), body)
        .await;
    assert!(
        matches!(answer, Err(ClientError::Transport { .. })),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_download_goes_on_where_it_stopped() {
    let site = Site::start().await;
    for from in [0, 4] {
        let answer = site.client().download("/blob", from).await.unwrap();
        assert_eq!(answer.offset(), from);
        assert_eq!(answer.total_length(), Some(10));
        let pieces: Vec<_> = answer.into_stream().map(Result::unwrap).collect().await;
        assert_eq!(pieces.concat(), &BLOB[usize::try_from(from).unwrap()..]);
    }
}

#[tokio::test]
async fn an_answer_longer_than_its_limit_is_not_taken_in() {
    let site = Site::start().await;
    let answer = site.client().download("/blob", 0).await.unwrap();
    assert!(matches!(
        answer.bytes(9).await,
        Err(ClientError::TooLong { limit: 9, .. })
    ));
}

#[tokio::test]
async fn a_refusal_arrives_with_what_to_do_next() {
    let site = Site::start().await;
    let error = site.client().get_json::<()>("/refuse").await.unwrap_err();
    assert_eq!(error.problem().unwrap().name(), "storm");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    assert!(error.retryable());
    assert_eq!(
        error.to_string(),
        "Too many at once: all come back; next: wait"
    );
}

#[tokio::test]
async fn a_refusal_by_something_else_is_shown_as_it_is() {
    let site = Site::start().await;
    let error = site.client().get_json::<()>("/nothing").await.unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("502 Bad Gateway: a proxy speaking"),
        "{error}"
    );
    let error = site
        .client()
        .get_json::<()>("/no-such-path")
        .await
        .unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::NOT_FOUND.as_u16()));
    assert!(!error.retryable());
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let site = Site::start().await;
    let client = site.client().with_timeout(Duration::from_millis(200));
    let error = client.get_json::<()>("/never").await.unwrap_err();
    assert!(
        matches!(error, ClientError::Timeout { .. }) && error.retryable(),
        "{error:?}"
    );
}
