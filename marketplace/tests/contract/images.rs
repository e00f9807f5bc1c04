//! The image store.

use bytes::Bytes;
use http::{HeaderMap, Method};
use surplus_https::Body;
use surplus_marketplace::Limits;
use surplus_protocol::api::Image;
use surplus_protocol::lease::ImageFormat;

use crate::marketplace::{Market, digest, problem, upload};

/// Files in the image store.
fn files(market: &Market) -> usize {
    std::fs::read_dir(market.dir.path().join("data/images"))
        .unwrap()
        .count()
}

fn qcow2(backing: u64) -> Vec<u8> {
    let mut image = vec![0; 512];
    image[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    image[8..16].copy_from_slice(&backing.to_be_bytes());
    // Clusters of 64 KiB, a disk of 10 GiB, its 20 L1 entries at byte 256.
    image[23] = 16;
    image[24..32].copy_from_slice(&(10_u64 << 30).to_be_bytes());
    image[39] = 20;
    image[46] = 1;
    image
}

#[tokio::test]
async fn an_image_is_known_by_its_content() {
    let market = Market::start().await;
    let bytes = qcow2(0);
    let image = upload(&market.admin, "debian", digest(&bytes), bytes.clone())
        .await
        .unwrap();
    assert_eq!((image.format, image.size_bytes), (ImageFormat::Qcow2, 512));
    assert_eq!(image.virtual_bytes, 10 << 30);
    // Again: nothing new.
    upload(&market.admin, "debian", digest(&bytes), bytes)
        .await
        .unwrap();
    let images: Vec<Image> = market.get("/api/v1/images").await.unwrap();
    assert_eq!((images.len(), files(&market)), (1, 1));
    let raw = vec![7; 3 << 20];
    let raw = upload(&market.admin, "raw", digest(&raw), raw)
        .await
        .unwrap();
    assert_eq!((raw.format, raw.virtual_bytes), (ImageFormat::Raw, 3 << 20));
    let other = b"another".to_vec();
    let taken = upload(&market.admin, "debian", digest(&other), other).await;
    assert_eq!(problem(taken).status, 409);
}

#[tokio::test]
async fn an_image_that_is_not_what_it_is_called_leaves_nothing() {
    let market = Market::start().await;
    let wrong = upload(&market.admin, "a", digest(b"one"), b"two".to_vec()).await;
    assert_eq!(problem(wrong).name(), "digest-mismatch");
    let large = vec![7; (4 << 20) + 1];
    let large = upload(&market.admin, "b", digest(&large), large).await;
    assert_eq!(problem(large).name(), "image-too-large");
    let refers = qcow2(4096);
    let refers = upload(&market.admin, "c", digest(&refers), refers).await;
    let refers = problem(refers);
    assert_eq!(refers.name(), "image-format");
    assert!(refers.detail.contains("backing file"), "{}", refers.detail);
    assert_eq!(files(&market), 0);
}

#[tokio::test]
async fn a_truncated_upload_leaves_nothing() {
    let market = Market::start().await;
    let whole = vec![1_u8; 4096];
    let half = futures_util::stream::iter([
        Ok(Bytes::from(whole[..2048].to_vec())),
        Err(std::io::Error::other("the cable was pulled")),
    ]);
    let path = format!("/api/v1/images/{}?name=half", digest(&whole));
    let body = Body::stream(half, Some(4096));
    assert!(
        market
            .admin
            .request(Method::PUT, &path, HeaderMap::new(), body)
            .await
            .is_err()
    );
    let gone = async {
        while files(&market) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::fake_host::PATIENCE, gone)
        .await
        .unwrap();
    let images: Vec<Image> = market.get("/api/v1/images").await.unwrap();
    assert!(images.is_empty());
}

async fn names(client: &surplus_https::Client) -> Vec<String> {
    let images: Vec<Image> = client.get_json("/api/v1/images").await.unwrap();
    images.into_iter().map(|image| image.name).collect()
}

async fn delete(
    client: &surplus_https::Client,
    what: &str,
) -> Result<surplus_https::client::Response, surplus_https::ClientError> {
    let path = format!("/api/v1/images/{what}");
    client
        .request(Method::DELETE, &path, HeaderMap::new(), Body::empty())
        .await
}

#[tokio::test]
async fn a_buyers_images_are_its_own_and_the_operators_are_everybodys() {
    let market = Market::start().await;
    let (bob, eve) = (market.buyer("bob").await, market.buyer("eve").await);
    let (common, private) = (b"common".to_vec(), b"private".to_vec());
    upload(&market.admin, "debian", digest(&common), common.clone())
        .await
        .unwrap();
    upload(&bob, "mine", digest(&private), private.clone())
        .await
        .unwrap();
    assert_eq!(names(&bob).await, ["debian", "mine"]);
    assert_eq!(names(&eve).await, ["debian"]);
    assert_eq!(names(&market.admin).await, ["debian", "mine"]);
    // A digest alone is not the image: another's bytes have to be sent.
    let guessed = upload(&eve, "stolen", digest(&private), Vec::new()).await;
    assert_eq!(problem(guessed).name(), "digest-mismatch");
    upload(&eve, "mine", digest(&private), private.clone())
        .await
        .unwrap();
    // What one may rent with gets a further name without being sent again.
    let alias = upload(&eve, "alias", digest(&common), Vec::new()).await;
    assert_eq!(alias.unwrap().size_bytes, common.len() as u64);
    assert_eq!(names(&eve).await, ["alias", "debian", "mine"]);
    assert_eq!(files(&market), 2);

    assert_eq!(problem(delete(&eve, "debian").await).status, 404);
    delete(&bob, "mine").await.unwrap();
    assert_eq!(names(&eve).await, ["alias", "debian", "mine"]);
    assert_eq!(files(&market), 2, "one buyer deleted another's bytes");
    delete(&eve, &digest(&private).to_string()).await.unwrap();
    assert_eq!(files(&market), 1);
}

#[tokio::test]
async fn a_buyer_cannot_fill_the_disk() {
    let limits = Limits {
        image_bytes: 1000,
        ..Limits::default()
    };
    let market = Market::start_with(limits).await;
    let bob = market.buyer("bob").await;
    let (one, two) = (vec![1; 600], vec![2; 600]);
    upload(&bob, "one", digest(&one), one.clone())
        .await
        .unwrap();
    let refused = upload(&bob, "two", digest(&two), two.clone()).await;
    assert_eq!(problem(refused).name(), "image-space");
    upload(&bob, "again", digest(&one), one).await.unwrap();
    upload(&market.admin, "two", digest(&two), two.clone())
        .await
        .unwrap();
    assert_eq!(files(&market), 2);
    delete(&bob, "one").await.unwrap();
    delete(&bob, "again").await.unwrap();
    upload(&bob, "two", digest(&two), two).await.unwrap();
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_takes_no_image() {
    let limits = Limits {
        free_bytes: u64::MAX,
        ..Limits::default()
    };
    let market = Market::start_with(limits).await;
    let image = b"image".to_vec();
    let refused = problem(upload(&market.admin, "x", digest(&image), image).await);
    assert_eq!((refused.status, refused.name()), (507, "disk-full"));
    assert_eq!(files(&market), 0);
}
