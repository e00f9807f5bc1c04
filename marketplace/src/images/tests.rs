use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;

use super::*;

/// A body that never ends: so many bytes at once, and a pause after each.
fn endless(bytes: usize, pause: Duration) -> Body {
    let piece = Bytes::from(vec![7; bytes]);
    Body::from_stream(stream::unfold(piece, move |piece| async move {
        tokio::time::sleep(pause).await;
        Some((Ok::<_, io::Error>(piece.clone()), piece))
    }))
}

async fn refused(bytes: usize, pause: Duration) -> (String, Duration, usize) {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        free_bytes: 0,
        ..Limits::default()
    };
    let images = Images::open(dir.path().to_owned(), 64 << 20, limits).unwrap();
    let by = Uploader {
        key: KeyId::nil(),
        room: None,
    };
    let begun = tokio::time::Instant::now();
    let digest = Digest::from_sha256([1; 32]);
    let received = images.receive(by, digest, None, endless(bytes, pause));
    let refusal = received.await.expect_err("it was taken");
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    (format!("{refusal:?}"), begun.elapsed(), left)
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_trickles_is_refused_in_time_and_leaves_nothing() {
    let (refusal, took, left) = refused(1000, Duration::from_secs(10)).await;
    assert!(refusal.contains("slow-upload"), "{refusal}");
    assert!(took <= Duration::from_secs(130), "{took:?}");
    assert_eq!(left, 0);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_never_ends_stops_at_the_largest_size() {
    let (refusal, _, left) = refused(1 << 20, Duration::from_millis(10)).await;
    assert!(refusal.contains("image-too-large"), "{refusal}");
    assert_eq!(left, 0);
}
