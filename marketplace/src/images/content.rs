//! What an image file is: recognised and judged by its own bytes
//! ([`surplus_disk_image`]).
//!
//! What is refused here no host would run: each judges again.

use std::path::Path;

use http::StatusCode;
use surplus_disk_image::{Fault, Unfit};
use surplus_protocol::lease::ImageFormat;

use crate::refusal::Refusal;

/// What was found in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub format: ImageFormat,
    pub size_bytes: u64,
    /// The disk that it unfolds to.
    pub virtual_bytes: u64,
}

/// Bytes that an image may have beyond its disk and tables.
const SLACK: u64 = 32 << 20;

/// Reads what the file is.
///
/// # Errors
///
/// Where a host could not run it or should not, or it is not what its uploader
/// believes.
pub(super) async fn examine(
    path: &Path,
    declared: Option<ImageFormat>,
) -> Result<Content, Refusal> {
    let path = path.to_owned();
    let examined = tokio::task::spawn_blocking(move || {
        let file = &mut std::fs::File::open(path)?;
        let format = surplus_disk_image::recognise(file)?;
        if let Some(declared) = declared.filter(|declared| *declared != format) {
            return Ok(Err(format!(
                "it is declared as {declared}, and its content is {format}"
            )));
        }
        let size_bytes = file.metadata()?.len();
        let virtual_bytes = surplus_disk_image::judge(file, format)?.virtual_bytes;
        // Tables and their references, for clusters of any size.
        let most = virtual_bytes.saturating_add(virtual_bytes / 32 + SLACK);
        if size_bytes > most {
            return Ok(Err(format!(
                "it has {size_bytes} bytes, more than a disk of {virtual_bytes} bytes can need"
            )));
        }
        Ok(Ok(Content {
            format,
            size_bytes,
            virtual_bytes,
        }))
    });
    let examined: Result<_, Fault> = examined
        .await
        .map_err(|error| Refusal::internal("judging an image", &error))?;
    match examined {
        Ok(content) => content.map_err(refuse),
        Err(Fault::Unfit(unfit)) => Err(refuse_unfit(&unfit)),
        Err(fault @ Fault::Read(_)) => Err(Refusal::internal("reading an image", &fault)),
    }
}

fn refuse_unfit(unfit: &Unfit) -> Refusal {
    refuse(unfit.to_string())
}

/// An image that is not taken.
fn refuse(detail: String) -> Refusal {
    Refusal::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "image-format",
        "The image cannot be used",
        detail,
        "bring raw, qcow2, VMDK, VHD, VHDX or OVA, whole and in one file; to convert: qemu-img \
         convert -O qcow2 <image> <new image>",
    )
}
