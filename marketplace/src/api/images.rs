//! Guest images by content hash and by name.

use axum::body::Body;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use surplus_market::records::{ImageRecord, KeyRecord};
use surplus_market::store::{Store as _, Tx as _};
use surplus_market::{images, view};
use surplus_protocol::api::{Image, Role};
use surplus_protocol::lease::ImageFormat;
use surplus_protocol::{Digest, Problem};

use crate::app::App;
use crate::auth::Buyer;
use crate::extract::{Json, Path, Query};
use crate::images::{Content, Uploader, tidy, used_up};
use crate::refusal::Refusal;

/// What an upload is called.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Label {
    /// The image's name; unique among the caller's own.
    name: String,
    /// What the uploader believes it to be; the content decides.
    format: Option<ImageFormat>,
}

/// The images that a buyer may rent with: its own and the operators'; all of
/// them for an operator.
#[utoipa::path(get, path = "/images", tag = "images",
    responses((status = 200, body = Vec<Image>), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Buyer(key): Buyer,
) -> Result<Json<Vec<Image>>, Refusal> {
    let mut tx = app.store.read().await?;
    let images = match key.role {
        Role::Operator => tx.images().await?,
        Role::Buyer => images::visible(&mut tx, key.id).await?,
    };
    Ok(Json(images.iter().map(view::image).collect()))
}

/// Upload an image. Its bytes must have the digest in the path. Where the
/// caller may rent with these bytes already they are not read, and may be left
/// out: the image gets one more name.
#[utoipa::path(put, path = "/images/{image}", tag = "images",
    params(("image" = String, Path, description = "sha256:<64 hex digits>"), Label),
    request_body(content_type = "application/octet-stream"),
    responses((status = 201, body = Image), (status = 200, body = Image, description = "it is here already"),
        (status = "4XX", body = Problem), (status = 507, body = Problem)))]
pub(super) async fn upload(
    State(app): State<App>,
    Buyer(key): Buyer,
    Path(digest): Path<String>,
    Query(label): Query<Label>,
    body: Body,
) -> Result<(StatusCode, Json<Image>), Refusal> {
    let digest: Digest = digest.parse().map_err(Refusal::invalid)?;
    if label.name.is_empty() || label.name.chars().count() > 128 {
        return Err(Refusal::invalid(
            "an image needs a name of 1 to 128 characters",
        ));
    }
    let here = app.store.read().await?.images().await?;
    // Looked at again at the end; said here before gigabytes are sent.
    if let Some(image) = own_name(&here, &key, &label.name, digest)? {
        return Ok((StatusCode::OK, Json(view::image(image))));
    }
    let received = match known(&here, &key, digest) {
        Some(_) => None,
        None => {
            let limit = (key.role == Role::Buyer).then_some(app.limits.image_bytes);
            let stored = images::stored_bytes(&here, key.id);
            let room = limit.map(|limit| limit.saturating_sub(stored));
            let by = Uploader { key: key.id, room };
            let received = app.images.receive(by, digest, label.format, body);
            Some(received.await?)
        }
    };
    let _shelf = app.images.shelf.lock().await;
    let mut tx = app.store.begin().await?;
    let here = tx.images().await?;
    if let Some(image) = own_name(&here, &key, &label.name, digest)? {
        return Ok((StatusCode::OK, Json(view::image(image))));
    }
    let content = match &received {
        Some(received) => received.content,
        None => known(&here, &key, digest).ok_or_else(deleted_meanwhile)?,
    };
    let image = ImageRecord {
        digest,
        name: label.name,
        format: content.format,
        size_bytes: content.size_bytes,
        virtual_bytes: content.virtual_bytes,
        owner: key.id,
        public: key.role == Role::Operator,
        added_at: app.now(),
    };
    tx.put_image(&image).await?;
    let stored = images::stored_bytes(&tx.images().await?, key.id);
    if key.role == Role::Buyer && stored > app.limits.image_bytes {
        let limit = app.limits.image_bytes;
        return Err(used_up(format!("a key may store {limit} bytes of images")));
    }
    if let Some(received) = received {
        app.images.keep(digest, received).await?;
    }
    // A file whose name is not committed is spare, and tidied away.
    tx.commit().await?;
    tracing::info!(image = image.name, %digest, bytes = image.size_bytes, buyer = key.name, "image added");
    Ok((StatusCode::CREATED, Json(view::image(&image))))
}

/// The caller's own image of that name, where it is that one; another is in
/// the way.
fn own_name<'a>(
    here: &'a [ImageRecord],
    key: &KeyRecord,
    name: &str,
    digest: Digest,
) -> Result<Option<&'a ImageRecord>, Refusal> {
    let own = here
        .iter()
        .find(|image| image.owner == key.id && image.name == name);
    match own {
        Some(other) if other.digest != digest => {
            let detail = format!("another image is called {name:?}");
            Err(Refusal::conflict("exists", detail, "choose another name"))
        }
        own => Ok(own),
    }
}

/// What the bytes are, where the caller may rent with them. Others' digests
/// give nothing away: their bytes have to be sent.
fn known(here: &[ImageRecord], key: &KeyRecord, digest: Digest) -> Option<Content> {
    let image = here
        .iter()
        .find(|image| image.digest == digest && images::is_visible(image, key.id))?;
    Some(Content {
        format: image.format,
        size_bytes: image.size_bytes,
        virtual_bytes: image.virtual_bytes,
    })
}

fn deleted_meanwhile() -> Refusal {
    let detail = "the image was deleted at the same moment";
    Refusal::conflict("deleted", detail, "upload it anew")
}

/// Delete an image of one's own: that name of it, or by digest each. Its bytes
/// go once it has no name left and no live lease needs them.
#[utoipa::path(delete, path = "/images/{image}", tag = "images",
    params(("image" = String, Path, description = "its name, or sha256:<64 hex digits>")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Buyer(key): Buyer,
    Path(text): Path<String>,
) -> Result<StatusCode, Refusal> {
    let digest: Option<Digest> = text.parse().ok();
    let mut tx = app.store.begin().await?;
    let meant = |image: &ImageRecord| match digest {
        Some(digest) => image.digest == digest,
        None => image.name == text,
    };
    let mut names = tx.images().await?;
    names.retain(|image| image.owner == key.id && meant(image));
    if names.is_empty() {
        return Err(Refusal::not_found(format!(
            "an image {text:?} of this key's"
        )));
    }
    for image in &names {
        tx.delete_image(key.id, &image.name).await?;
        tracing::info!(image = image.name, buyer = key.name, "image deleted");
    }
    tx.commit().await?;
    tidy(&app).await?;
    Ok(StatusCode::NO_CONTENT)
}
