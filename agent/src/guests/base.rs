//! What a guest's disk lies upon: the image in the cache, fetched, judged, and
//! converted where guests do not run from its format.
//!
//! What always holds: an image is fetched and converted by one at a time,
//! however many leases want it; a converted image has its name only once it was
//! written whole, judged and synced, and takes the original's place.

use std::io;
use std::os::unix::fs::PermissionsExt as _;

use camino::{Utf8Path, Utf8PathBuf};
use surplus_protocol::lease::{GuestSpec, ImageFormat};

use super::directories::make_dir;
use super::disk::{Base, Foreign, QemuImg, SLACK};
use super::domain_xml::DiskFormat;
use super::image::{CONVERTING, ImageError, ImageStore, Turn};
use super::prepare::PrepareError;
use super::uplink::Uplink;

/// Makes it ready. `progress` hears how many bytes of the image are there.
pub async fn ready(
    images: &ImageStore,
    qemu_img: &QemuImg,
    uplink: &dyn Uplink,
    guest: &GuestSpec,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Base, PrepareError> {
    let (digest, format) = (guest.image, guest.image_format);
    let disk_bytes = guest.resources.disk_bytes;
    let turn = images.turn(digest).await;
    let converted = images.converted(digest, format);
    if format.is_foreign() && images.is_there(digest, &converted).await? {
        progress(guest.image_bytes);
        // This lease may have a smaller disk than the one before.
        qemu_img
            .check(&converted, ImageFormat::Qcow2, disk_bytes)
            .await?;
        return Ok(Base {
            path: converted,
            format: DiskFormat::Qcow2,
        });
    }
    let image = images
        .fetch(&turn, uplink, guest.image_bytes, progress)
        .await?;
    let content = qemu_img.check(&image, format, disk_bytes).await?;
    let plain = |format| Base {
        path: image.clone(),
        format,
    };
    match format {
        ImageFormat::Raw => return Ok(plain(DiskFormat::Raw)),
        ImageFormat::Qcow2 => return Ok(plain(DiskFormat::Qcow2)),
        _ => {}
    }
    let foreign = Foreign {
        image: &image,
        format,
        content,
        disk_bytes,
    };
    convert(images, qemu_img, &turn, &foreign, &converted).await?;
    Ok(Base {
        path: converted,
        format: DiskFormat::Qcow2,
    })
}

async fn convert(
    images: &ImageStore,
    qemu_img: &QemuImg,
    turn: &Turn,
    foreign: &Foreign<'_>,
    converted: &Utf8Path,
) -> Result<(), PrepareError> {
    let digest = turn.digest();
    let store = |source| ImageError::Store { digest, source };
    let required = qemu_img.measure(foreign).await?;
    let file_bytes = tokio::fs::metadata(foreign.image)
        .await
        .map_err(store)?
        .len();
    // The original stays until the conversion is there.
    let both = required.saturating_add(SLACK).saturating_add(file_bytes);
    let _room = images.reserve(digest, both)?;
    let place = Place::new(converted.with_extension(CONVERTING)).map_err(store)?;
    let target = place.file();
    qemu_img.convert(foreign, &target, required).await?;
    finish(&target).map_err(store)?;
    std::fs::rename(&target, converted).map_err(store)?;
    drop(place);
    std::fs::remove_file(foreign.image).map_err(store)?;
    tracing::info!(image = %digest, format = %foreign.format, bytes = required, "image converted");
    Ok(())
}

/// Where an image is converted: a directory that nobody but the agent enters,
/// with a file that whoever converts may write, whichever user that is. It goes
/// with this, whatever came of it.
struct Place(Utf8PathBuf);

impl Place {
    fn new(dir: Utf8PathBuf) -> io::Result<Self> {
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        make_dir(&dir, 0o700)?;
        let place = Self(dir);
        let file = std::fs::File::create_new(place.file())?;
        file.set_permissions(std::fs::Permissions::from_mode(0o666))?;
        Ok(place)
    }

    fn file(&self) -> Utf8PathBuf {
        self.0.join("disk")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Every guest's QEMU may read it from now on, and nobody write it.
fn finish(path: &Utf8Path) -> io::Result<()> {
    let file = std::fs::File::open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
