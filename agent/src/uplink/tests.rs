use std::sync::atomic::Ordering;

use jiff::{SignedDuration, Timestamp};
use newtype_uuid::GenericUuid as _;
use surplus_protocol::ids::LeaseId;
use surplus_site::Site;

use super::*;
use crate::fake_marketplace::FakeMarketplace;
use crate::hub::Road;
use crate::identity::fixture;

/// The uplink of an enrolled host. The channel's other end must be kept.
async fn uplink(fake: &FakeMarketplace) -> (Marketplace, watch::Sender<Credentials>) {
    let (address, _server) = fake.start().await;
    let authority = &fake.shared.authority;
    let text = format!(
        "version = 1\n[marketplace]\nurl = \"https://{address}\"\nca = \"\"\"\n{}\"\"\"\n",
        authority.certificate().to_pem()
    );
    let road = Road::new(&Site::parse(&text).unwrap().marketplace).unwrap();
    let identity = fixture::identity(authority, Timestamp::now(), SignedDuration::from_hours(1));
    let (sender, shown) = watch::channel(Credentials::new(&road, identity).unwrap());
    (Marketplace(shown), sender)
}

async fn fetched(uplink: &Marketplace, offset: u64) -> Vec<u8> {
    let mut stream = uplink
        .image(Digest::from_sha256([1; 32]), offset)
        .await
        .unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    bytes
}

#[tokio::test]
async fn an_image_starts_where_it_was_asked_to_with_and_without_ranges() {
    let fake = FakeMarketplace::new([]);
    let (uplink, _sender) = uplink(&fake).await;
    let image = &fake.shared.image;
    for ranges in [true, false] {
        fake.shared.ranges.store(ranges, Ordering::Relaxed);
        for offset in [0, 1, 65_537, image.len() - 1] {
            assert!(
                fetched(&uplink, offset as u64).await == image[offset..],
                "{offset} {ranges}"
            );
        }
    }
}

#[tokio::test]
async fn console_bytes_go_up_and_the_next_offset_comes_back() {
    let fake = FakeMarketplace::new([]);
    let (uplink, _sender) = uplink(&fake).await;
    let placement = Placement::new(LeaseId::from_untyped_uuid(uuid::Uuid::new_v4()), 1);
    let next = uplink
        .console(placement, 0, Bytes::from_static(b"hello "))
        .await
        .unwrap();
    assert_eq!(next, 6);
    let next = uplink
        .console(placement, next, Bytes::from_static(b"world"))
        .await
        .unwrap();
    assert_eq!(next, 11);
    assert_eq!(*fake.shared.console.lock().unwrap(), b"hello world");
}

#[test]
fn a_missing_image_is_final_and_a_broken_line_is_not() {
    let status = |status| ClientError::Status {
        url: String::new(),
        status,
        text: String::new(),
        retry_after: None,
    };
    assert!(!refused("x", &status(http::StatusCode::NOT_FOUND)).retryable);
    assert!(refused("x", &status(http::StatusCode::SERVICE_UNAVAILABLE)).retryable);
    assert!(refused("x", &status(http::StatusCode::FORBIDDEN)).retryable);
    let silent = ClientError::Timeout {
        url: String::new(),
        seconds: 1,
    };
    assert!(refused("x", &silent).retryable);
}
