//! Guest images by name.
//!
//! What always holds: a name belongs to the key that gave it, and two keys may
//! give the same. A key sees its own images and the operators'; another
//! buyer's do not exist for it, not even by digest.

use std::collections::BTreeMap;

use surplus_protocol::Digest;
use surplus_protocol::ids::KeyId;

use crate::records::ImageRecord;
use crate::store::{StoreError, Tx};

/// Whether `key` may rent with the image.
pub fn is_visible(image: &ImageRecord, key: KeyId) -> bool {
    image.public || image.owner == key
}

/// The images that `key` may rent with, by name: its own, and the operators'
/// whose name it did not give itself. Of operators' images of one name the
/// oldest is meant.
///
/// # Errors
///
/// Where the store fails.
pub async fn visible<T: Tx>(tx: &mut T, key: KeyId) -> Result<Vec<ImageRecord>, StoreError> {
    let mut by_name: BTreeMap<String, ImageRecord> = BTreeMap::new();
    for image in tx.images().await? {
        let rank = |image: &ImageRecord| (image.owner != key, image.added_at, image.owner);
        let is_first = by_name
            .get(&image.name)
            .is_none_or(|other| rank(&image) < rank(other));
        if is_visible(&image, key) && is_first {
            by_name.insert(image.name.clone(), image);
        }
    }
    Ok(by_name.into_values().collect())
}

/// The image of that digest or name, where `key` may rent with it.
///
/// # Errors
///
/// Where the store fails.
pub async fn find<T: Tx>(
    tx: &mut T,
    key: KeyId,
    text: &str,
) -> Result<Option<ImageRecord>, StoreError> {
    let digest: Option<Digest> = text.parse().ok();
    let visible = visible(tx, key).await?;
    Ok(visible.into_iter().find(|image| match digest {
        Some(digest) => image.digest == digest,
        None => image.name == text,
    }))
}

/// Bytes of the images that `key` gave names to, each counted once.
pub fn stored_bytes(images: &[ImageRecord], key: KeyId) -> u64 {
    let own = images.iter().filter(|image| image.owner == key);
    let sizes: BTreeMap<_, _> = own.map(|image| (image.digest, image.size_bytes)).collect();
    sizes.into_values().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use surplus_protocol::lease::ImageFormat;

    use super::*;
    use crate::memory::MemoryStore;
    use crate::store::Store as _;
    use crate::suite::{digest, key_record, second};

    fn image(content: u8, name: &str, owner: u8, public: bool) -> ImageRecord {
        ImageRecord {
            digest: digest(content),
            name: name.to_owned(),
            format: ImageFormat::Raw,
            size_bytes: 10,
            virtual_bytes: 10,
            owner: key_record(owner).id,
            public,
            added_at: second(content.into()),
        }
    }

    #[test]
    fn a_buyer_sees_its_own_images_and_the_operators_alone() {
        let seen = async {
            let store = MemoryStore::default();
            let mut tx = store.begin().await.unwrap();
            for image in [
                image(1, "debian", 9, true),
                image(2, "debian", 1, false),
                image(3, "alpine", 9, true),
                image(4, "secret", 2, false),
                image(2, "mine too", 1, false),
            ] {
                tx.put_image(&image).await.unwrap();
            }
            let (one, two) = (key_record(1).id, key_record(2).id);
            let names = |images: Vec<ImageRecord>| -> Vec<_> {
                images.into_iter().map(|i| (i.name, i.digest)).collect()
            };
            let seen = names(visible(&mut tx, one).await.unwrap());
            let (alpine, debian) = ("alpine".to_owned(), "debian".to_owned());
            assert_eq!(
                seen,
                [
                    (alpine, digest(3)),
                    (debian, digest(2)),
                    ("mine too".to_owned(), digest(2))
                ]
            );
            let found = async |tx: &mut _, key, text: &str| {
                let found = find(tx, key, text).await.unwrap();
                found.map(|image| image.digest)
            };
            assert_eq!(found(&mut tx, two, "debian").await, Some(digest(1)));
            assert_eq!(found(&mut tx, one, "secret").await, None);
            let secret = digest(4).to_string();
            assert_eq!(found(&mut tx, one, &secret).await, None);
            assert_eq!(found(&mut tx, two, &secret).await, Some(digest(4)));
            assert_eq!(stored_bytes(&tx.images().await.unwrap(), one), 10);
        };
        seen.now_or_never().unwrap();
    }
}
